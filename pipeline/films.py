"""Which image follows which: the frames of a film are the images of one folder, in the order in which a person would count them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

NUMBER = re.compile("([0-9]+)")


def counted(name: str) -> list[str | int]:
    """A key by which frame10 comes after frame9."""
    return [int(part) if place % 2 else part for place, part in enumerate(NUMBER.split(name))]


def following(paths: Sequence[str]) -> np.ndarray:
    """Of each path the number of the one that is the next frame, -1 for the last of a folder; int64 (N,)."""
    folders: dict[str, list[tuple[list[str | int], str, int]]] = {}
    for row, path in enumerate(paths):
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, []).append((counted(name), name, row))
    next_N = np.full(len(paths), -1, np.int64)
    for frames in folders.values():
        rows = np.array([row for *_, row in sorted(frames)])
        next_N[rows[:-1]] = rows[1:]
    return next_N

"""Which split an image belongs to: by its own content, so that adding images never moves an old one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

SPLITS = ("train", "val", "test")
OFFICIAL = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}


def common_root(paths: Sequence[str]) -> int:
    """How many leading folders all paths share and that are no split's name: wrappers to be ignored."""
    shared: list[str] | None = None
    for path in paths:
        folders = path.split("/")[:-1]
        if shared is None:
            shared = folders
        while shared != folders[: len(shared)]:
            shared = shared[:-1]
        if not shared:
            return 0
    split_at = next((i for i, folder in enumerate(shared or []) if folder.lower() in OFFICIAL), None)
    return len(shared or []) if split_at is None else split_at


def official_and_label(path: str, skip: int) -> tuple[str, str]:
    """The official split ('' where there is none) and the label ('' likewise) that a path's folders name."""
    folders = path.split("/")[skip:-1]
    official = OFFICIAL.get(folders[0].lower(), "") if folders else ""
    rest = folders[1:] if official else folders
    return official, rest[0] if rest else ""


def place(sha256: str) -> float:
    """A picture's fixed position in [0, 1): the first 13 hexadecimal digits of its hash, as a fraction."""
    return int(sha256[:13], 16) / 16**13


def folder_hashes(paths: Sequence[str]) -> list[str]:
    """For each path the hash of its folder's name, by which ``assign`` keeps a folder together."""
    known = {folder: hashlib.sha256(folder.encode()).hexdigest() for folder in {path.rpartition("/")[0] for path in paths}}
    return [known[path.rpartition("/")[0]] for path in paths]


def assign(
    sha256: Sequence[str],
    official: Sequence[str],
    group: np.ndarray,
    val_fraction: float,
    test_fraction: float,
    placed_by: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each image its split, whether it is left out, and the number of the image whose hash names its group.

    An image's split is the official one, or follows from its own hash alone (or from that of ``placed_by``, where images are
    split by something larger): nothing that is added ever moves it. A split that the input brings itself gets nothing else.
    Where a group (``group``: equal numbers) has members in several splits, one side is kept: the official test or validation
    side, which protects the judgement, else the side of the member with the smallest hash. The others are left out, for to move
    them would be to move an old image when its double arrives.
    """
    brought = set(official) - {""}

    def own(name: str, at: float) -> str:
        if name in ("test", "val"):
            return name
        if "test" not in brought and at < test_fraction:
            return "test"
        return "val" if "val" not in brought and 1 - at <= val_fraction else "train"

    split = np.array([own(name, place(digest)) for digest, name in zip(placed_by or sha256, official, strict=True)], dtype="U5")
    hashes, names = np.asarray(sha256, dtype="S64"), np.asarray(official)
    # The first of each group in this order leads it: official test, official val, then the smallest hash.
    rank = np.where(names == "test", 0, np.where(names == "val", 1, 2))
    order = np.lexsort((hashes, rank, group))
    first = np.ones(len(order), bool)
    first[1:] = group[order][1:] != group[order][:-1]
    leader = np.empty(len(order), np.int64)
    leader[order] = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
    smallest = np.lexsort((hashes, group))
    named = np.empty(len(order), np.int64)
    named[smallest] = smallest[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
    return split, split != split[leader], named

"""Which split an image belongs to: by the content of its duplicate group, so that adding images never moves an old one."""

from __future__ import annotations

from pathlib import PurePosixPath

import pandas as pd

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


def common_root(paths: list[str]) -> int:
    """How many leading folders all paths share and that are no split's name: wrappers to be ignored."""
    parents = [PurePosixPath(path).parts[:-1] for path in paths]
    depth = 0
    while parents and all(len(p) > depth and p[depth] == parents[0][depth] for p in parents):
        if parents[0][depth].lower() in OFFICIAL:
            break
        depth += 1
    return depth


def official_and_label(path: str, skip: int) -> tuple[str, str]:
    """The official split ('' where there is none) and the label ('' likewise) that a path's folders name."""
    folders = PurePosixPath(path).parts[skip:-1]
    official = OFFICIAL.get(folders[0].lower(), "") if folders else ""
    rest = folders[1:] if official else folders
    return official, rest[0] if rest else ""


def _place(group: str) -> float:
    """A group's fixed position in [0, 1): the first 13 hexadecimal digits of its hash, as a fraction."""
    return int(group[:13], 16) / 16**13


def assign(index: pd.DataFrame, val_fraction: float, test_fraction: float) -> pd.Series:
    """The split of every row from its columns ``group`` (hash) and ``official`` ('' or a split).

    A group in several official splits goes to the one that protects the judgement: test before val before train. A split
    that the input brings itself gets nothing else; the others are taken by hash from what is left.
    """
    brought = set(index["official"]) - {""}
    by_group: dict[str, str] = {}
    for name in ("train", "val", "test"):  # later names win
        by_group |= dict.fromkeys(index.loc[index["official"] == name, "group"], name)

    def choose(group: str) -> str:
        official = by_group.get(group, "")
        if official in ("test", "val"):
            return official
        place = _place(group)
        if "test" not in brought and place < test_fraction:
            return "test"
        if "val" not in brought and 1 - place <= val_fraction:
            return "val"
        return "train"

    chosen = {group: choose(group) for group in index["group"].unique()}
    return index["group"].map(chosen)

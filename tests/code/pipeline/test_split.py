"""Split: fixed by content, honest about duplicates, obedient to folders that name a split."""

from __future__ import annotations

import hashlib

import pandas as pd
import pytest

from pipeline.split import assign, common_root, official_and_label


def hashes(start: int, stop: int) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(start, stop)]


def table(groups: list[str], official: list[str] | str = "") -> pd.DataFrame:
    return pd.DataFrame({"group": groups, "official": official})


def test_assign_more_images_move_no_old_one():
    old, both = table(hashes(0, 1000)), table(hashes(0, 2000))
    before, after = assign(old, 0.1, 0.2), assign(both, 0.1, 0.2)
    assert list(after[:1000]) == list(before)
    assert set(before) == {"train", "val", "test"}


@pytest.mark.parametrize(("val", "test"), [(0.1, 0.1), (0.05, 0.4), (0.3, 0.3), (0.5, 0.01)])
def test_assign_fractions_are_kept_within_chance(val, test):
    shares = assign(table(hashes(0, 20_000)), val, test).value_counts(normalize=True)
    for name, expected in (("val", val), ("test", test), ("train", 1 - val - test)):
        assert abs(shares[name] - expected) < 4.5 * (expected * (1 - expected) / 20_000) ** 0.5, name


def test_assign_larger_test_fraction_takes_nothing_back():
    index = table(hashes(0, 3000))
    small, large = assign(index, 0.1, 0.1), assign(index, 0.1, 0.3)
    assert (large[small == "test"] == "test").all() and (large[small == "val"] == "val").all()


def test_assign_order_of_rows_does_not_matter():
    index = table(hashes(0, 500), (["test", "", "val", "train", ""] * 100))
    mixed = index.sample(frac=1, random_state=1)
    assert assign(mixed, 0.2, 0.2).sort_index().equals(assign(index, 0.2, 0.2))


def test_assign_all_official_splits_are_kept_as_they_are():
    official = ["train", "val", "test", "train"] * 250
    assert list(assign(table(hashes(0, 1000), official), 0.3, 0.3)) == official


def test_assign_official_test_is_kept_and_validation_comes_from_training():
    official = (["train"] * 9 + ["test"]) * 200
    index = table(hashes(0, 2000), official)
    chosen = assign(index, 0.2, 0.3)
    assert ((chosen == "test") == (index["official"] == "test")).all()
    share = (chosen[index["official"] == "train"] == "val").mean()
    assert abs(share - 0.2) < 4.5 * (0.16 / 1800) ** 0.5


def test_assign_official_validation_gets_nothing_else():
    index = table(hashes(0, 1000), ["train", "val"] * 500)
    chosen = assign(index, 0.4, 0.2)
    assert ((chosen == "val") == (index["official"] == "val")).all()
    assert 0.12 < (chosen[index["official"] == "train"] == "test").mean() < 0.28


@pytest.mark.parametrize(
    ("official", "expected"),
    [
        (["train", "test"], "test"),
        (["test", "train"], "test"),
        (["val", "train"], "val"),
        (["train", "val", "test"], "test"),
        (["test", "val"], "test"),
        (["", "test"], "test"),
        (["", "val"], "val"),
    ],
)
def test_assign_duplicate_in_several_official_splits_protects_the_judgement(official, expected):
    for group in hashes(0, 50):
        assert set(assign(table([group] * len(official), official), 0.1, 0.1)) == {expected}


def test_assign_duplicates_never_cross_splits():
    groups = hashes(0, 300) * 3
    official = ["train"] * 300 + [["", "test", "val"][i % 3] for i in range(300)] + [""] * 300
    chosen = assign(table(groups, official), 0.2, 0.2)
    assert (chosen.groupby(groups).nunique() == 1).all()


@pytest.mark.parametrize(
    ("paths", "depth"),
    [
        ([], 0),
        (["1.png", "2.png"], 0),
        (["a/1.png", "2.png"], 0),
        (["a/1.png", "a/2.png"], 1),
        (["a/b/1.png", "a/b/2.png"], 2),
        (["a/b/1.png", "a/c/2.png"], 1),
        (["a/1.png", "a/b/2.png"], 1),
        (["train/1.png", "train/2.png"], 0),
        (["set/Train/1.png", "set/Train/2.png"], 1),
        (["set/train/1.png", "set/test/2.png"], 1),
        (["set/x/1.png"], 2),
    ],
)
def test_common_root_counts_wrappers_but_no_split(paths, depth):
    assert common_root(paths) == depth


@pytest.mark.parametrize(
    ("path", "skip", "expected"),
    [
        ("1.png", 0, ("", "")),
        ("cat/1.png", 0, ("", "cat")),
        ("train/1.png", 0, ("train", "")),
        ("train/cat/1.png", 0, ("train", "cat")),
        ("TESTING/cat/1.png", 0, ("test", "cat")),
        ("valid/cat/deep/1.png", 0, ("val", "cat")),
        ("Validation/1.png", 0, ("val", "")),
        ("set/test/cat/1.png", 1, ("test", "cat")),
        ("set/test/cat/1.png", 0, ("", "set")),
        ("cat/train/1.png", 0, ("", "cat")),
        ("trains/1.png", 0, ("", "trains")),
        ("training/train/1.png", 0, ("train", "train")),
    ],
)
def test_official_and_label_come_from_the_folders(path, skip, expected):
    assert official_and_label(path, skip) == expected

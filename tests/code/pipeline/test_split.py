"""Split: fixed by content, honest about duplicates, obedient to folders that name a split."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from pipeline.split import assign, common_root, folder_hashes, official_and_label


def hashes(start: int, stop: int) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(start, stop)]


def splits(digests: list[str], official: list[str] | None = None, val: float = 0.1, test: float = 0.1) -> np.ndarray:
    """The split of images that have no double."""
    return assign(digests, official or [""] * len(digests), np.arange(len(digests)), val, test)[0]


def test_assign_more_images_move_no_old_one():
    before, after = splits(hashes(0, 1000), test=0.2), splits(hashes(0, 2000), test=0.2)
    assert list(after[:1000]) == list(before)
    assert set(before) == {"train", "val", "test"}


def test_assign_a_double_that_arrives_moves_no_old_one():
    """Whatever the doubles' hashes are: an old image may be left out, but never lies in another split than before."""
    old = hashes(0, 400)
    before = dict(zip(old, splits(old, val=0.3, test=0.3), strict=True))
    for seed in range(5):
        grown = old + hashes(1000 * (seed + 1), 1000 * (seed + 1) + 400)  # number 400 + i shows what i shows
        split, left_out, _ = assign(grown, [""] * 800, np.arange(800) % 400, 0.3, 0.3)
        assert all(before[digest] == split[i] for i, digest in enumerate(old))
        kept = ~left_out
        for group in range(400):
            assert len({split[i] for i in (group, 400 + group) if kept[i]}) == 1
        assert 0 < left_out.sum() < 400


@pytest.mark.parametrize(("val", "test"), [(0.1, 0.1), (0.05, 0.4), (0.3, 0.3), (0.5, 0.01)])
def test_assign_fractions_are_kept_within_chance(val, test):
    chosen = splits(hashes(0, 20_000), val=val, test=test)
    for name, expected in (("val", val), ("test", test), ("train", 1 - val - test)):
        assert abs((chosen == name).mean() - expected) < 4.5 * (expected * (1 - expected) / 20_000) ** 0.5, name


def test_assign_folders_stay_together_and_none_moves_when_others_come():
    paths = [f"clip-{i // 7:03d}/{i % 7}.png" for i in range(3500)]
    digests, alone = hashes(0, 3500), np.arange(3500)
    split, left_out, _ = assign(digests, [""] * 3500, alone, 0.1, 0.2, folder_hashes(paths))
    assert not left_out.any()
    of_folder = dict(zip([path[:8] for path in paths], split, strict=True))
    assert all(of_folder[path[:8]] == name for path, name in zip(paths, split, strict=True))
    for name, expected in (("val", 0.1), ("test", 0.2)):
        assert abs((split == name).mean() - expected) < 4.5 * (expected * (1 - expected) / 500) ** 0.5, name
    some = [i for i in range(3500) if i % 3]  # without some of the frames the others lie where they lay
    fewer = assign(
        [digests[i] for i in some], [""] * len(some), alone[: len(some)], 0.1, 0.2, folder_hashes([paths[i] for i in some])
    )
    assert (fewer[0] == split[some]).all()


def test_assign_double_of_another_folders_image_is_left_out_of_one_side():
    paths = [f"clip-{i:03d}/{k}.png" for i in range(60) for k in range(3)]
    digests = [digest for i in range(60) for digest in (hashes(0, 1)[0], *hashes(10 + 2 * i, 12 + 2 * i))]  # each begins alike
    group = np.array([0 if i % 3 == 0 else i for i in range(180)])
    split, left_out, _ = assign(digests, [""] * 180, group, 0.2, 0.2, folder_hashes(paths))
    first = np.arange(0, 180, 3)
    assert len(set(split[first])) == 3 and len(set(split[first][~left_out[first]])) == 1
    assert not left_out[np.arange(180) % 3 > 0].any()


def test_assign_larger_test_fraction_takes_nothing_back():
    small, large = splits(hashes(0, 3000), test=0.1), splits(hashes(0, 3000), test=0.3)
    assert (large[small == "test"] == "test").all() and (large[small == "val"] == "val").all()


def test_assign_order_of_rows_does_not_matter():
    digests, official = np.array(hashes(0, 500)), np.array(["test", "", "val", "train", ""] * 100)
    group = np.random.default_rng(2).integers(0, 300, 500)
    straight = assign(digests.tolist(), official.tolist(), group, 0.2, 0.2)
    order = np.random.default_rng(1).permutation(500)
    mixed = assign(digests[order].tolist(), official[order].tolist(), group[order], 0.2, 0.2)
    for a, b in zip(straight[:2], mixed[:2], strict=True):
        np.testing.assert_array_equal(a[order], b)
    np.testing.assert_array_equal(straight[2][order], order[mixed[2]])


def test_assign_all_official_splits_are_kept_as_they_are():
    official = ["train", "val", "test", "train"] * 250
    assert list(splits(hashes(0, 1000), official, 0.3, 0.3)) == official


def test_assign_official_test_is_kept_and_validation_comes_from_training():
    official = (["train"] * 9 + ["test"]) * 200
    chosen, train = splits(hashes(0, 2000), official, 0.2, 0.3), np.array(official) == "train"
    assert ((chosen == "test") == ~train).all()
    assert abs((chosen[train] == "val").mean() - 0.2) < 4.5 * (0.16 / 1800) ** 0.5


def test_assign_official_validation_gets_nothing_else():
    official = ["train", "val"] * 500
    chosen, train = splits(hashes(0, 1000), official, 0.4, 0.2), np.array(official) == "train"
    assert ((chosen == "val") == ~train).all()
    assert 0.12 < (chosen[train] == "test").mean() < 0.28


@pytest.mark.parametrize(
    ("official", "expected"),
    [
        (["train", "test"], [False, True]),
        (["test", "train"], [True, False]),
        (["val", "train"], [True, False]),
        (["train", "val", "test"], [False, False, True]),
        (["test", "val", "test"], [True, False, True]),
        (["", "test"], [False, True]),
        (["", "val"], [False, True]),
        (["train", "train"], [True, True]),
    ],
)
def test_assign_of_doubles_in_several_official_splits_those_of_the_judgement_are_kept(official, expected):
    for digest in hashes(0, 50):  # exact copies of one picture
        split, left_out, named = assign([digest] * len(official), official, np.zeros(len(official), int), 0.1, 0.0)
        kept = [not out for out in left_out]
        assert kept == expected or (set(official) == {"train"} and all(kept)) or (official[0] == "" and kept == expected)
        assert len({s for s, k in zip(split, kept, strict=True) if k}) == 1 and {
            ([digest] * len(official))[n] for n in named
        } == {digest}


def test_assign_groups_never_cross_splits_and_are_named_by_their_smallest_hash():
    digests, group = hashes(0, 900), np.arange(900) % 300
    official = ["train"] * 300 + [["", "test", "val"][i % 3] for i in range(300)] + [""] * 300
    split, left_out, named = assign(digests, official, group, 0.2, 0.2)
    for number in range(300):
        members = [number, number + 300, number + 600]
        assert len({split[i] for i in members if not left_out[i]}) == 1
        assert {digests[named[i]] for i in members} == {min(digests[i] for i in members)}


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

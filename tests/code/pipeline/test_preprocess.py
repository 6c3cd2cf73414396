"""Preprocess: every file ends in one place, the shards hold what the index says, and the bytes depend on the input alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from pipeline import preprocess as module
from pipeline.errors import BadDataError
from pipeline.paths import INDEX, METRICS, REJECTED
from pipeline.preprocess import PARAMS, preprocess
from vae.data import ImageShards
from vae.files import DamagedError, read_manifest

SMALL = {
    "base__image_size": 8,
    "preprocess__val_fraction": 0.3,
    "preprocess__test_fraction": 0.3,
    "preprocess__shard_images": 50,
    "preprocess__max_pixels": 3000,
}
BAD = {
    "bad/empty.png": (b"", "empty_file"),
    "bad/text.jpg": (b"text", "not_an_image"),
    "bad/icon.png": ("ICO", "format_not_allowed"),
    "bad/tiny.png": ("tiny", "too_small"),
    "bad/large.png": ("large", "too_many_pixels"),
    "bad/cut.png": ("cut", "corrupt"),
    'bad/odd "name",\n with a break.png': (b"text", "not_an_image"),
}
SKIPPED = [".DS_Store", "a/.hidden.png", "a/Thumbs.db", "__MACOSX/a/._1.png", "desktop.ini"]


@pytest.fixture
def mixed(picture):
    """300 good images (among them 20 exact duplicates under other names), bad ones of every kind, and what systems leave."""
    files = {f"{'ab'[i % 2]}/{i:03d}.png": picture(i, 8 + i % 7, 8 + i % 5, ("RGB", "L")[i % 3 == 0]) for i in range(280)}
    files |= {f"copies/{i:03d}.png": files[f"{'ab'[i % 2]}/{i:03d}.png"] for i in range(20)}
    made = {
        "ICO": picture(900, 16, 16, form="ICO"),
        "tiny": picture(901, 30, 5),
        "large": picture(902, 60, 60),
        "cut": picture(903)[:-60],
    }
    files |= {name: made[what] if isinstance(what, str) else what for name, (what, _) in BAD.items()}
    return files | dict.fromkeys(SKIPPED, b"whatever")


def everything(folder) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for part in ("data/processed", "reports/preprocess")
        for p in (folder / part).rglob("*")
        if p.is_file()
    }


def test_preprocess_every_file_ends_in_exactly_one_place(project, mixed):
    project.raw(mixed)
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX)
    rejected = pd.read_csv(project.paths.processed / REJECTED)
    metrics = json.loads((project.paths.preprocess_report / METRICS).read_text())
    assert sorted([*index["path"], *rejected["path"], *SKIPPED]) == sorted(mixed)
    assert dict(zip(rejected["path"], rejected["reason"], strict=True)) == {name: reason for name, (_, reason) in BAD.items()}
    assert rejected["detail"].notna().all()
    counted = {"seen": len(mixed), "accepted": 300, "rejected": len(BAD), "skipped": len(SKIPPED), "exact_duplicates": 20}
    assert {name: metrics[name] for name in counted} == counted
    assert sum(metrics[f"{split}_images"] for split in ("train", "val", "test")) == 300
    assert Counter(index["label"]) == {"a": 140, "b": 140, "copies": 20}


def test_preprocess_index_has_the_columns_of_the_contract(project, mixed):
    project.raw(mixed)
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX)
    contract = {"shard", "row", "path", "label", "sha256", "width", "height", "mode", "split", "group"}
    assert contract <= set(index) <= contract | {"official"}
    one = index.set_index("path").loc["b/003.png"]
    assert (one["width"], one["height"], one["mode"]) == (11, 11, "L")


def test_preprocess_pixels_at_shard_and_row_match_the_hash(project, mixed):
    project.raw(mixed)
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX)
    assert not index.duplicated(["split", "shard", "row"]).any()
    for (split, shard), rows in index.groupby(["split", "shard"]):
        images = np.load(project.paths.processed / split / shard)
        assert images.dtype == np.uint8 and images.shape == (len(rows), 8, 8, 3) and len(images) <= 50
        for row, expected in zip(rows["row"], rows["sha256"], strict=True):
            assert hashlib.sha256(images[row].tobytes()).hexdigest() == expected
    for split, rows in index.groupby("split", sort=False):  # rows of the index stand in the order of the stream
        pixels = ImageShards(project.paths.processed / split).slice(0, len(rows) + 1)
        assert [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels] == list(rows["sha256"])


def test_preprocess_duplicates_share_group_and_split(project, mixed):
    project.raw(mixed)
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX)
    assert (index.groupby("sha256")["split"].nunique() == 1).all()
    assert (index.groupby("sha256")["group"].nunique() == 1).all()
    assert index["group"].nunique() == 280


def test_preprocess_same_bytes_whatever_the_number_of_processes(project, mixed, monkeypatch):
    project.raw(mixed)
    values, results = project.values(PARAMS, **SMALL), []
    monkeypatch.setattr(module, "CHUNK_FILES", 16)  # more chunks than wait in the window at a time
    for pool_from, processors in ((2**40, {0, 1}), (0, {0}), (0, {0, 1, 2})):
        monkeypatch.setattr(module, "POOL_FROM_BYTES", pool_from)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, processors=processors: processors)
        preprocess(values, project.paths)
        results.append(everything(project.root))
    assert results[0] == results[1] == results[2]
    assert len(results[0]) > 8


def test_preprocess_processes_are_really_used(project, mixed, monkeypatch):
    """Without this, the test above could compare one way with itself."""
    project.raw(mixed)
    monkeypatch.setattr(module, "POOL_FROM_BYTES", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(module, "decode_members", None)  # the way without processes would fail at once
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    assert len(pd.read_parquet(project.paths.processed / INDEX)) == 300


def test_preprocess_order_of_the_archive_does_not_matter(project, mixed, tmp_path):
    other = type(project)(tmp_path / "other")
    names = list(mixed)
    project.raw(mixed)
    other.raw({names[i]: mixed[names[i]] for i in np.random.default_rng(0).permutation(len(names))})
    for one in (project, other):
        preprocess(one.values(PARAMS, **SMALL), one.paths)
    assert everything(project.root) == everything(other.root)


def test_preprocess_more_images_move_no_old_one(project, picture, tmp_path):
    files = {f"{i:03d}.png": picture(i) for i in range(200)}
    other = type(project)(tmp_path / "other")
    project.raw(dict(list(files.items())[:100]))
    other.raw(files)
    splits = []
    for one in (project, other):
        preprocess(one.values(PARAMS, **SMALL), one.paths)
        splits.append(pd.read_parquet(one.paths.processed / INDEX).set_index("path")["split"])
    assert (splits[1][splits[0].index] == splits[0]).all()


def test_preprocess_official_splits_are_honoured(project, picture):
    folders = ("train/cat", "train/dog", "Test/cat", "valid/dog")
    files = {f"set/{folder}/{i}.png": picture(100 * k + i) for k, folder in enumerate(folders) for i in range(10)}
    files["set/train/cat/leak.png"] = files["set/Test/cat/3.png"]
    project.raw(files)
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX).set_index("path")
    named = {"train": "train", "Test": "test", "valid": "val"}
    for path, row in index.iterrows():
        _, folder, label, file = str(path).split("/")
        assert row["label"] == label
        assert row["split"] == ("test" if file == "leak.png" else named[folder])


def test_preprocess_official_splits_are_honoured_beside_a_readme(project, picture):
    files = {f"set/{split}/{i}.png": picture(100 * k + i) for k, split in enumerate(("train", "val", "test")) for i in range(12)}
    project.raw(files | {"README.md": b"about the set", "LICENSE": b"free"})
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX)
    assert (index["split"] == index["path"].str.split("/").str[1]).all()


def test_preprocess_factors_of_the_sprites_reach_the_index(project):
    from pipeline import download

    values = project.values(download.PARAMS, download__sprite_images=120, base__image_size=8)
    download.download(values, project.paths)
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX)
    factors = pd.read_parquet(project.paths.raw / "factors.parquet").set_index("path")
    for column in factors:
        np.testing.assert_array_equal(index[f"factor_{column}"], factors.loc[index["path"], column])


def test_preprocess_facts_describe_the_set(project, mixed):
    project.raw(mixed)
    preprocess(project.values(PARAMS, base__mode="L", **SMALL), project.paths)
    facts = read_manifest(project.paths.processed)
    assert facts["image_shape"] == [8, 8, 1] and facts["mode"] == "L" and facts["labels"] == ["a", "b", "copies"]
    assert facts["counts"] == {split: len(ImageShards(project.paths.processed / split)) for split in ("train", "val", "test")}


def test_preprocess_too_few_images_say_what_to_do_and_leave_nothing(project, picture):
    project.raw({f"{i}.png": picture(i) for i in range(3)})
    with pytest.raises(BadDataError) as caught:
        preprocess(project.values(PARAMS), project.paths)
    assert "3 usable images" in str(caught.value) and "add images" in str(caught.value)
    assert not project.paths.processed.exists() and not project.paths.preprocess_report.exists()
    assert [p.name for p in project.paths.raw.parent.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    ("files", "part"), [({"a.txt": b"x", "b.txt": b""}, "2 files, all rejected"), ({".hidden": b"x"}, "no files")]
)
def test_preprocess_no_image_at_all_is_bad_data(project, files, part):
    project.raw(files)
    with pytest.raises(BadDataError, match=part):
        preprocess(project.values(PARAMS), project.paths)
    assert not project.paths.processed.exists()


def test_preprocess_failure_keeps_what_was_there(project, picture):
    project.raw({f"{i}.png": picture(i) for i in range(60)})
    values = project.values(PARAMS, **SMALL)
    preprocess(values, project.paths)
    before = everything(project.root)
    (project.paths.raw / "images.zip").write_bytes(b"damaged")
    with pytest.raises(DamagedError, match=r"images\.zip"):
        preprocess(values, project.paths)
    assert everything(project.root) == before
    assert [p.name for p in project.paths.processed.parent.iterdir() if p.name.startswith(".")] == []


def test_preprocess_damaged_raw_of_the_same_size_is_refused(project, picture):
    project.raw({f"{i}.png": picture(i) for i in range(60)})
    archive = project.paths.raw / "images.zip"
    data = bytearray(archive.read_bytes())
    data[500] ^= 1
    archive.write_bytes(data)
    with pytest.raises(DamagedError, match="differs from the sha256"):
        preprocess(project.values(PARAMS, **SMALL), project.paths)
    assert not project.paths.processed.exists()


def test_preprocess_without_manifest_is_refused(project):
    with pytest.raises(DamagedError, match="is missing"):
        preprocess(project.values(PARAMS), project.paths)


def test_preprocess_leaves_no_second_copy_of_the_pixels(project, picture):
    project.raw({f"{i}.png": picture(i) for i in range(60)})
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    scratch = project.paths.work
    assert not scratch.exists() or not list(scratch.rglob("*.npy"))

"""Preprocess: every file ends in one place, the shards hold what the index says, and the bytes depend on the input alone."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import console, duplicates, ingest
from pipeline.errors import BadDataError
from pipeline.paths import INDEX, METRICS, REJECTED, SKIPPED
from pipeline.preprocess import PARAMS, preprocess
from pipeline.previous import FOLDER, VERDICTS
from pipeline.raw import RawWriter, read_files
from tests.code.pipeline.test_duplicates import strokes
from vae.data import ImageShards
from vae.files import DamagedError, read_manifest, write_manifest

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
LEFT_BEHIND = [".DS_Store", "a/.hidden.png", "a/Thumbs.db", "__MACOSX/a/._1.png", "desktop.ini"]


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
    return files | dict.fromkeys(LEFT_BEHIND, b"whatever")


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


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
    assert sorted([*index["path"], *rejected["path"], *LEFT_BEHIND]) == sorted(mixed)
    assert dict(zip(rejected["path"], rejected["reason"], strict=True)) == {name: reason for name, (_, reason) in BAD.items()}
    assert rejected["detail"].notna().all()
    counted = {"seen": len(mixed), "accepted": 300, "rejected": len(BAD), "skipped": len(LEFT_BEHIND), "exact_duplicates": 20}
    assert {name: metrics[name] for name in counted} == counted
    assert sum(metrics[f"{split}_images"] for split in ("train", "val", "test")) == 300
    assert Counter(index["label"]) == {"a": 140, "b": 140, "copies": 20}


def test_preprocess_index_has_the_columns_of_the_contract(project, mixed):
    project.raw(mixed)
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX)
    contract = {"shard", "row", "path", "label", "sha256", "width", "height", "mode", "split", "group", "source_sha256"}
    assert set(index) == contract | {"official", "brightness", "deviation", "sharpness", "perceptual_hash"}
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


def test_preprocess_keeps_folders_together_where_it_is_asked_to(project, picture):
    project.raw({f"clip{i % 40:02d}/{i:03d}.png": picture(i) for i in range(200)})
    preprocess(project.values(PARAMS, **SMALL | {"preprocess__split_by": "folder"}), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX)
    assert len(index) == 200 and index["split"].nunique() == 3
    assert (index.groupby(index["path"].str.split("/").str[0])["split"].nunique() == 1).all()


def test_preprocess_too_few_folders_are_told(project, picture):
    project.raw({f"{'ab'[i % 2]}/{i:03d}.png": picture(i) for i in range(60)})
    with pytest.raises(BadDataError, match=r"add folders .*split_by is folder; 30 are a start"):
        preprocess(project.values(PARAMS, **SMALL | {"preprocess__split_by": "folder"}), project.paths)


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
        _, folder, label, _ = str(path).split("/")
        assert row["label"] == label and row["split"] == named[folder]
    skipped = pd.read_csv(project.paths.processed / SKIPPED)
    assert list(skipped["path"]) == ["set/train/cat/leak.png"] and list(skipped["reason"]) == ["duplicate_across_splits"]
    assert len(index) == 40


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
    known = read_files(project.paths.raw).to_pandas().set_index("path")
    columns = [column for column in known if column.startswith("factor_")]
    assert set(columns) == {f"factor_{name}" for name in ("shape", "scale", "orientation", "x", "y", "hue")}
    for column in columns:
        np.testing.assert_array_equal(index[column], known.loc[index["path"], column])


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
    (project.paths.raw / "images-00000.zip").write_bytes(b"damaged")
    with pytest.raises(DamagedError, match=r"images-00000\.zip"):
        preprocess(values, project.paths)
    assert everything(project.root) == before
    assert [p.name for p in project.paths.processed.parent.iterdir() if p.name.startswith(".")] == []


def test_preprocess_damaged_raw_of_the_same_size_is_refused(project, picture):
    project.raw({f"{i}.png": picture(i) for i in range(60)})
    archive = project.paths.raw / "images-00000.zip"
    data = bytearray(archive.read_bytes())
    data[500] ^= 1
    archive.write_bytes(data)
    with pytest.raises(DamagedError, match="differs from the sha256"):
        preprocess(project.values(PARAMS, **SMALL), project.paths)
    assert not project.paths.processed.exists()


def test_preprocess_archives_that_nothing_is_read_from_are_not_hashed_again(project, picture):
    """Of a grown folder the old archives may be many gigabytes; their pictures are known, and those have hashes of their own."""
    project.raw({f"{i}.png": picture(i) for i in range(60)})
    values = project.values(PARAMS, **SMALL)
    preprocess(values, project.paths)
    before = (project.paths.processed / "MANIFEST.json").read_bytes()
    archive = project.paths.raw / "images-00000.zip"
    data = bytearray(archive.read_bytes())
    data[500] ^= 1
    archive.write_bytes(data)
    preprocess(values, project.paths)
    assert (project.paths.processed / "MANIFEST.json").read_bytes() == before
    shutil.rmtree(project.paths.work / FOLDER)
    with pytest.raises(DamagedError, match="differs from the sha256"):
        preprocess(values, project.paths)


def test_preprocess_progress_counts_every_file_once(project, mixed, monkeypatch, caplog):
    """Accepted and rejected alike, and to the end, however the files lie in blocks."""
    project.raw(mixed)
    monkeypatch.setattr(console, "LINE_SECONDS", 0)
    monkeypatch.setattr(ingest, "BLOCK_FILES", 40)
    with caplog.at_level("INFO", "pipeline"):
        preprocess(project.values(PARAMS, **SMALL), project.paths)
    told = [re.fullmatch(r"decoding (\d+)/(\d+) files \((\d+) %\)", line) for line in caplog.messages if "decoding" in line]
    counts = [tuple(map(int, line.groups())) for line in told if line]
    total = len(mixed) - len(LEFT_BEHIND)
    assert len(counts) == len(told) == -(-total // 40)
    assert counts == [(done, total, 100 * done // total) for done in [*range(40, total, 40), total]]


def test_preprocess_many_copies_of_one_picture_are_no_data(project, picture):
    project.raw({f"{i}.png": picture(5, 16, 16) for i in range(200)})
    with pytest.raises(BadDataError, match="the 200 usable images all show the same: a model needs different images"):
        preprocess(project.values(PARAMS, **SMALL), project.paths)
    assert not project.paths.processed.exists()


def test_preprocess_without_manifest_is_refused(project):
    with pytest.raises(DamagedError, match="is missing"):
        preprocess(project.values(PARAMS), project.paths)


def test_preprocess_keeps_no_second_copy_of_the_pixels(project, picture):
    """What the next run takes over are other names of the same bytes on the disk."""
    project.raw({f"{i}.png": picture(i) for i in range(60)})
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    kept, own = (
        {p.name: p.stat().st_ino for p in root.glob("train/*.npy")}
        for root in (project.paths.work / FOLDER, project.paths.processed)
    )
    assert kept == own and kept


def test_preprocess_takes_away_what_a_killed_run_had_decoded(project, picture):
    left = project.paths.work / "decoded-killed"
    left.mkdir(parents=True)
    (left / "shard-00000.npy").write_bytes(b"pixels")
    project.raw({f"{i}.png": picture(i) for i in range(60)})
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    assert list(project.paths.work.glob("decoded-*")) == []


def test_preprocess_of_a_grown_folder_decodes_only_what_is_new(project, picture, tmp_path, monkeypatch):
    files = {f"{i:03d}.png": picture(i) for i in range(120)} | {"bad.png": b"text", "z.png": b""}
    grown = files | {f"new/{i}.png": picture(1000 + i) for i in range(10)} | {"new/bad.png": b"more text"}
    decoded: list[str] = []
    real = ingest.decode_block
    monkeypatch.setattr(ingest, "decode_block", lambda task, *how: (decoded.extend(task.names), real(task, *how))[1])
    project.raw(files)
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    assert sorted(decoded) == sorted(files)
    decoded.clear()
    shutil.rmtree(project.paths.raw)
    shutil.rmtree(project.paths.processed)  # as DVC does before it runs a stage
    project.raw(grown)
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    assert sorted(decoded) == sorted(set(grown) - set(files))
    fresh = type(project)(tmp_path / "fresh")
    fresh.raw(grown)
    preprocess(fresh.values(PARAMS, **SMALL), fresh.paths)
    assert everything(project.root) == everything(fresh.root)


@pytest.mark.parametrize("damaged", [False, True])
def test_preprocess_of_a_grown_folder_looks_at_no_two_old_pictures_again(project, tmp_path, monkeypatch, caplog, damaged):
    """Strokes, of which many look alike; a kept table that is damaged is told, and not used."""
    files = {f"{i % 7}/{i:03d}.png": png(stroke) for i, stroke in enumerate(strokes(600))}
    changes = SMALL | {"base__image_size": 16, "base__mode": "L", "preprocess__duplicates": "near"}
    looked_at: list[int] = []
    real = duplicates._differences
    monkeypatch.setattr(duplicates, "_differences", lambda a, b: (looked_at.append(len(a)), real(a, b))[1])
    project.raw(dict([*files.items()][:560]))
    preprocess(project.values(PARAMS, **changes), project.paths)
    whole = sum(looked_at)
    looked_at.clear()
    if damaged:
        table = project.paths.work / FOLDER / VERDICTS
        data = bytearray(table.read_bytes())
        data[100 : len(data) // 2] = bytes(len(data) // 2 - 100)
        table.write_bytes(data)
    shutil.rmtree(project.paths.raw)
    project.raw(files)
    preprocess(project.values(PARAMS, **changes), project.paths)
    assert ("cannot be used again" in caplog.text) == damaged
    assert sum(looked_at) > whole if damaged else 0 < sum(looked_at) < 0.4 * whole
    fresh = type(project)(tmp_path / "fresh")
    fresh.raw(files)
    preprocess(fresh.values(PARAMS, **changes), fresh.paths)
    assert everything(project.root) == everything(fresh.root)


def test_preprocess_a_file_without_label_is_taken_when_labels_are_no_longer_asked_for(project, picture):
    project.raw({f"a/{i}.png": picture(i) for i in range(80)} | {"loose.png": picture(99)})
    preprocess(project.values(PARAMS, **SMALL, preprocess__require_label=True), project.paths)
    assert list(pd.read_csv(project.paths.processed / REJECTED)["path"]) == ["loose.png"]
    preprocess(project.values(PARAMS, **SMALL, preprocess__require_label=False), project.paths)
    assert pd.read_csv(project.paths.processed / REJECTED).empty


@pytest.mark.parametrize("change", [{"preprocess__fit": "pad"}, {"preprocess__min_deviation_levels": 35.0}, {"base__mode": "L"}])
def test_preprocess_takes_nothing_over_that_was_decoded_otherwise(project, picture, tmp_path, change):
    files = {f"{i:03d}.png": picture(i, 10, 14) for i in range(100)}
    fresh = type(project)(tmp_path / "fresh")
    project.raw(files)
    fresh.raw(files)
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    first = everything(project.root)
    for one in (project, fresh):
        preprocess(one.values(PARAMS, **SMALL | change), one.paths)
    assert everything(project.root) == everything(fresh.root) != first


def test_preprocess_damaged_memory_of_the_last_run_is_not_used(project, picture):
    project.raw({f"{i:03d}.png": picture(i) for i in range(100)})
    values = project.values(PARAMS, **SMALL)
    preprocess(values, project.paths)
    before = everything(project.root)
    kept = project.paths.work / FOLDER / "train" / "shard-00000.npy"
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.unlink()
    kept.write_bytes(data)
    preprocess(values, project.paths)
    assert everything(project.root) == before


def smooth(seed: int, side: int = 64) -> np.ndarray:
    """A picture with large shapes: unlike noise it survives a JPEG and a change of size."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def encoded(image: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()


def test_preprocess_near_duplicates_stay_on_one_side_and_are_shown(project):
    files = {f"{i:03d}.png": encoded(smooth(i)) for i in range(150)}
    for i in range(0, 150, 3):
        half = np.asarray(Image.fromarray(smooth(i)).resize((40, 40)))
        files |= {f"copies/{i:03d}.jpg": encoded(smooth(i), "JPEG", quality=60), f"copies/{i:03d}-half.png": encoded(half)}
        files |= {f"copies/{i:03d}-mirrored.png": encoded(smooth(i)[:, ::-1])}
    project.raw(files)
    big = SMALL | {"base__image_size": 32, "preprocess__max_pixels": 10**6, "preprocess__duplicates": "near"}
    preprocess(project.values(PARAMS, **big), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX)
    skipped = pd.read_csv(project.paths.processed / SKIPPED)
    metrics = json.loads((project.paths.preprocess_report / METRICS).read_text())
    assert (index.groupby("group")["split"].nunique() == 1).all()
    number = index["path"].str.extract(r"(\d{3})")[0]
    assert (index.groupby(number)["split"].nunique() == 1).all()  # so all four were found, or left out
    assert (index.groupby("group")["path"].apply(lambda p: p.str.extract(r"(\d{3})")[0].nunique()) == 1).all()
    assert len(index) + len(skipped) == len(files) == metrics["seen"] and len(skipped) > 20
    assert set(skipped["reason"]) == {"duplicate_across_splits"}
    assert metrics["duplicate_groups"] > 20 and (project.paths.preprocess_report / "duplicates.png").stat().st_size > 5000


def test_preprocess_filters_reject_with_their_reason(project, picture):
    files = {f"a/{i}.png": picture(i) for i in range(60)}
    ramp = np.repeat(np.linspace(40, 200, 12).astype(np.uint8)[None, :, None], 12, 0).repeat(3, 2)
    odd = {
        "flat": np.full((12, 12, 3), 90, np.uint8),
        "soft": ramp,
        "dark": (picture_of(5) // 8).astype(np.uint8),
        "bright": (255 - picture_of(6) // 8).astype(np.uint8),
    }
    files |= {f"a/{name}.png": encoded(image) for name, image in odd.items()} | {
        "loose.png": picture(99),
        "a/long.png": picture(98, 90, 9),
    }
    limits = {
        "min_deviation_levels": 1.0,
        "min_sharpness_levels": 2.5,
        "min_brightness_levels": 25.0,
        "max_brightness_levels": 230.0,
    }
    limits |= {"require_label": True, "max_aspect_ratio": 5.0}
    project.raw(files)
    preprocess(project.values(PARAMS, **SMALL, **{f"preprocess__{k}": v for k, v in limits.items()}), project.paths)
    rejected = pd.read_csv(project.paths.processed / REJECTED).set_index("path")["reason"]
    assert dict(rejected) == {
        "a/flat.png": "nearly_uniform",
        "a/dark.png": "too_dark",
        "a/bright.png": "too_bright",
        "a/soft.png": "blurred",
        "loose.png": "label_missing",
        "a/long.png": "extreme_aspect_ratio",
    }


def picture_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)


def test_preprocess_files_that_the_source_could_not_bring_are_rejected_too(project, picture):
    project.paths.raw.mkdir(parents=True)
    with RawWriter(project.paths.raw) as writer:
        for i in range(60):
            writer.add(f"{i}.png", picture(i))
        writer.fail("a fifo", "not_a_file", "a FIFO")
    write_manifest(project.paths.raw, files=writer.files, failed=writer.failures)
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    rejected = pd.read_csv(project.paths.processed / REJECTED)
    assert rejected[["path", "reason"]].to_numpy().tolist() == [["a fifo", "not_a_file"]]
    assert json.loads((project.paths.preprocess_report / METRICS).read_text())["seen"] == 61


def test_preprocess_labels_and_splits_of_the_source_come_before_those_of_the_folders(project, picture):
    project.paths.raw.mkdir(parents=True)
    with RawWriter(project.paths.raw) as writer:
        for i in range(60):
            writer.add(f"train/folder/{i}.png", picture(i), label="told", split=("train", "val", "test")[i % 3])
    write_manifest(project.paths.raw, files=writer.files, failed=writer.failures)
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX)
    assert set(index["label"]) == {"told"}
    number = index["path"].str.extract(r"(\d+)\.png")[0].astype(int)
    assert list(index["split"]) == [("train", "val", "test")[n % 3] for n in number]


@pytest.mark.parametrize(("size", "mode"), [([12, 8], "RGB"), (12, "RGBA"), ([8, 16], "HSV")])
def test_preprocess_other_shapes_and_modes(project, picture, size, mode):
    project.raw({f"{i}.png": picture(i, 20, 20) for i in range(60)})
    preprocess(project.values(PARAMS, **SMALL | {"base__image_size": size, "base__mode": mode}), project.paths)
    height, width = size if isinstance(size, list) else (size, size)
    assert ImageShards(project.paths.processed / "train").image_shape == (height, width, len(mode))
    assert Image.open(project.paths.preprocess_report / "images.png").mode == "RGB"

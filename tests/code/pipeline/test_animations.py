"""animations: every frame becomes an image in its order; stills, other files and what is broken go the way they went before."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import download as download_stage
from pipeline.listing import changes
from pipeline.paths import INDEX
from pipeline.preprocess import PARAMS, preprocess
from pipeline.raw import RawWriter, read_failures, read_files
from pipeline.sources import animations, path
from vae import frames as frames_module
from vae.decode import RejectedError
from vae.frames import Animation

LEVELS = (10, 60, 110, 160, 210)


def animation(form: str, levels: tuple[int, ...] = LEVELS, side: int = 12, **how: object) -> bytes:
    """Even pictures of these levels, one after the other."""
    first, *rest = [Image.new("RGB", (side, side), (level, level // 2, 255 - level)) for level in levels]
    buffer = io.BytesIO()
    first.save(buffer, form, save_all=True, append_images=rest, **how)
    return buffer.getvalue()


KINDS = {"gif": {}, "webp": {"lossless": True}, "png": {}, "tiff": {}}


@pytest.mark.parametrize("form", KINDS)
def test_frames_are_the_pictures_in_their_order(form):
    data = animation(form, **KINDS[form])
    assert Animation(data).count == len(LEVELS)
    found = [np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in Animation(data).frames()]
    for image, level in zip(found, LEVELS, strict=True):
        assert image.shape == (12, 12, 3) and abs(int(image[3, 4, 0]) - level) <= 4, form


def test_frame_that_changes_a_part_is_the_whole_picture():
    pictures = [np.zeros((12, 12), np.uint8) for _ in range(4)]
    for number, picture in enumerate(pictures):
        picture[:, : 3 * number] = 255
    first, *rest = [Image.fromarray(picture) for picture in pictures]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, optimize=True)  # which stores what differs
    for picture, frame in zip(pictures, Animation(buffer.getvalue()).frames(), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(frame)).convert("L")), picture)


@pytest.mark.parametrize("mode", ["CMYK", "F", "I;16", "1", "LAB"])
def test_pages_in_other_modes_come_through_as_they_are(mode):
    rng = np.random.default_rng(0)
    if mode == "F":
        pages = [Image.fromarray(rng.random((6, 9), np.float32)) for _ in range(3)]
    elif mode == "I;16":
        pages = [Image.fromarray(rng.integers(0, 65536, (6, 9)).astype(np.uint16)) for _ in range(3)]
    elif mode == "1":
        pages = [Image.fromarray(rng.random((6, 9)) < 0.5) for _ in range(3)]
    else:
        pages = [Image.fromarray(rng.integers(0, 256, (6, 9, len(mode))).astype(np.uint8), mode) for _ in range(3)]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    for page, frame in zip(pages, Animation(buffer.getvalue()).frames(), strict=True):
        found = Image.open(io.BytesIO(frame))
        assert found.mode == page.mode == mode
        np.testing.assert_array_equal(np.asarray(found), np.asarray(page))


def brought(project, origin: Path, **changes: object) -> tuple[list[str], dict[str, str]]:
    """The paths that download brings, and the reasons of what it does not."""
    values = project.values(
        download_stage.PARAMS, download__source="path", download__path=str(origin), download__animation_frames=True, **changes
    )
    out = project.root / "out"
    out.mkdir()
    with RawWriter(out) as writer:
        path.pack(values, writer)
    return read_files(out)["path"].to_pylist(), {name: reason for name, reason, _ in read_failures(out)}


def test_folder_of_clips_and_stills(project, tmp_path, picture):
    folder = tmp_path / "films"
    (folder / "b").mkdir(parents=True)
    (folder / "a.gif").write_bytes(animation("gif"))
    (folder / "b" / "frame2.png").write_bytes(picture(2))
    (folder / "b" / "frame1.jpg").write_bytes(picture(1, form="JPEG"))
    (folder / "one.GIF").write_bytes(picture(3, form="GIF"))
    (folder / "text.gif").write_bytes(b"no picture")
    (folder / "notes.txt").write_bytes(b"notes")
    whole = animation("png", side=64)
    (folder / "cut.png").write_bytes(whole[: int(0.7 * len(whole))])
    paths, failures = brought(project, folder)
    clip = [f"a.gif/{number:06d}.png" for number in range(5)]
    before_the_cut = [name for name in paths if name.startswith("cut.png/")]
    assert 1 <= len(before_the_cut) < len(LEVELS)
    left = [name for name in paths if name not in before_the_cut]
    assert left == [*clip, "b/frame1.jpg", "b/frame2.png", "notes.txt", "one.GIF", "text.gif"]  # which preprocess judges
    assert failures == {"cut.png": "corrupt"}


def test_one_animation_is_an_input(project, tmp_path):
    (tmp_path / "film.webp").write_bytes(animation("webp", lossless=True))
    assert brought(project, tmp_path / "film.webp")[0] == [f"film.webp/{number:06d}.png" for number in range(5)]


def test_without_the_parameter_an_animation_is_one_file(project, tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films/a.gif").write_bytes(animation("gif"))
    values = project.values(download_stage.PARAMS, download__source="path", download__path=str(tmp_path / "films"))
    out = project.root / "out"
    out.mkdir()
    with RawWriter(out) as writer:
        path.pack(values, writer)
    assert read_files(out)["path"].to_pylist() == ["a.gif"]


def test_bombs_are_refused_by_their_header(monkeypatch):
    data = animation("gif")
    monkeypatch.setattr(frames_module, "MOST_FRAMES", 4)
    with pytest.raises(RejectedError, match="too_many_frames"):
        Animation(data)
    monkeypatch.setattr(frames_module, "MOST_FRAMES", 5)
    monkeypatch.setattr(frames_module, "MOST_PIXELS_OF_ALL", 5 * 144 - 1)
    with pytest.raises(RejectedError, match="too_many_frames"):
        Animation(data)
    monkeypatch.setattr(frames_module, "MOST_PIXELS", 143)
    with pytest.raises(RejectedError, match="too_many_pixels"):
        Animation(data)
    for broken, reason in ((b"", "empty_file"), (b"GIF89a", "not_an_image"), (b"\x00\x00\x01\x00", "not_an_image")):
        with pytest.raises(RejectedError, match=reason):
            Animation(broken)


def test_large_animation_is_named_and_not_read_whole(project, tmp_path, monkeypatch):
    monkeypatch.setattr(animations, "MOST_BYTES", 100)
    (tmp_path / "films").mkdir()
    (tmp_path / "films/a.gif").write_bytes(animation("gif"))
    assert brought(project, tmp_path / "films") == ([], {"a.gif": "file_too_large"})


def test_clip_lies_in_one_split_under_the_label_of_its_folder(project, tmp_path):
    folder = tmp_path / "films"
    for number in range(60):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        levels = tuple(int(level) for level in np.random.default_rng(number).integers(0, 256, 4))
        (folder / "ab"[number % 2] / f"{number:02d}.gif").write_bytes(animation("gif", levels))
    where = {"download__source": "path", "download__path": str(folder), "download__animation_frames": True}
    values = project.values(download_stage.PARAMS, **where)
    project.paths.raw.parent.mkdir(parents=True, exist_ok=True)
    download_stage.download(values, project.paths)
    preprocess(project.values(PARAMS, base__image_size=8, preprocess__split_by="folder", **where), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX)
    clip, frame = (index["path"].str.rsplit("/", n=1).str[part] for part in (0, 1))
    assert (index.groupby(clip)["split"].nunique() == 1).all() and index["split"].nunique() == 3
    assert set(index["label"]) == {"a", "b"} and (index["label"] == index["path"].str[0]).all()
    assert frame.groupby(clip).apply(lambda names: names.is_monotonic_increasing).all()
    seen = changes(values, project.paths)  # the schedule's look at the input knows frames too
    assert seen is not None and not seen.new and not seen.gone
    (folder / "a/new.gif").write_bytes(animation("gif", (1, 2, 3), side=14))
    grown = changes(values, project.paths)
    assert grown is not None and grown.new == [f"a/new.gif/{number:06d}.png" for number in range(3)]

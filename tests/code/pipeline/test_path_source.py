"""One's own images: a folder, zip or tar give the same data set; what is missing, broken or hostile is refused or left alone."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import download as download_stage
from pipeline import preprocess as preprocess_stage
from pipeline.errors import BadDataError, InputMissingError
from pipeline.paths import INDEX, RAW_ARCHIVE, REJECTED
from pipeline.sources import path
from vae.data import ImageShards

KINDS = ("folder", "zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz")


def packed(folder: Path, kind: str) -> Path:
    """``folder`` as an archive of this kind, made by the standard library; the members' names as usual tools write them."""
    if kind == "folder":
        return folder
    target = folder.parent / f"{folder.name}.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in folder.rglob("*"):
                archive.write(file, file.relative_to(folder).as_posix())
    else:
        compression = {"tgz": "gz", "tar": ""}.get(kind, kind.removeprefix("tar."))
        with tarfile.open(target, f"w:{compression}") as tar:
            tar.add(folder, ".")  # as `tar c .` does: every name begins with ./
    return target


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def members(project, origin: Path) -> dict[str, bytes]:
    """What ``pack`` makes of ``origin``."""
    project.root.joinpath("out").mkdir()
    facts = path.pack(
        project.values(download_stage.PARAMS, download__source="path", download__path=str(origin)), project.root / "out"
    )
    with zipfile.ZipFile(project.root / "out" / RAW_ARCHIVE) as archive:
        found = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    assert facts["files"] == len(found) and facts["origin"] == origin.name
    return found


def refused(project, origin: Path) -> Exception:
    with pytest.raises((BadDataError, InputMissingError)) as caught:
        path.pack(project.values(download_stage.PARAMS, download__source="path", download__path=str(origin)), project.root)
    assert str(origin) in str(caught.value)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_path_source_every_kind_gives_the_same_data_set(project, picture, tmp_path, kind):
    files = {f"{label}/{i:03d}.png": picture(i) for i in range(40) for label in [("cat", "dog")[i % 2]]}
    files |= {"cat/broken.png": b"no image", ".DS_Store": b"x", "dog/._001.png": b"x", "dog/again.png": picture(1)}
    origin = packed(fill(tmp_path / "photos", files), kind)
    changes = {"base__image_size": 8, "preprocess__val_fraction": 0.3, "preprocess__test_fraction": 0.3}
    where = {"download__source": "path", "download__path": str(origin)}
    download_stage.download(project.values(download_stage.PARAMS, **where), project.paths)
    preprocess_stage.preprocess(project.values(preprocess_stage.PARAMS, **changes), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX)
    images = {name for name, data in files.items() if data.startswith(b"\x89PNG")}
    assert dict(zip(index["path"], index["label"], strict=True)) == {name: name.split("/")[0] for name in images}
    assert index["sha256"].nunique() == 40
    assert list(pd.read_csv(project.paths.processed / REJECTED)["path"]) == ["cat/broken.png"]
    expected = {name: reference(files[name]) for name in images}
    for split, rows in index.groupby("split"):
        pixels = ImageShards(project.paths.processed / split).slice(0, len(rows))
        for name, image in zip(rows["path"], pixels, strict=True):
            np.testing.assert_array_equal(image, expected[name])


def reference(data: bytes) -> np.ndarray:
    """The picture as preprocess must store it: Pillow's own resize of a square."""
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.resize((8, 8), Image.Resampling.LANCZOS))


NAMES = [
    "with space.png",
    'it\'s "quoted".png',
    "line\nbreak.png",
    "-rf.png",
    "写真.png",
    "😀.png",
    "back\\slash.png",
    "#hash: colon.png",
    "%41.png",
    "x" * 251 + ".png",
    "deep/er/and/deeper/1.png",
]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_pack_odd_names_survive(project, tmp_path, kind):
    files = {name: name.encode() for name in NAMES}
    assert members(project, packed(fill(tmp_path / "photos", files), kind)) == files


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_pack_name_that_is_no_utf8_is_escaped_and_its_bytes_kept(project, tmp_path, kind):
    folder = tmp_path / "photos"
    folder.mkdir()
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as stream:
        stream.write(b"latin")
    assert members(project, packed(folder, kind)) == {"caf\\xe9.png": b"latin"}


@pytest.mark.parametrize("kind", KINDS)
def test_pack_hidden_file_keeps_its_name_whatever_the_archive(project, tmp_path, kind):
    files = {".DS_Store": b"a", "._1.png": b"b", "1.png": b"c", ".hidden/2.png": b"d"}
    assert members(project, packed(fill(tmp_path / "photos", files), kind)) == files


def test_pack_folder_is_packed_in_one_order_without_times(project, tmp_path):
    fill(tmp_path / "a", {"2.png": b"2", "1.png": b"1", "b/0.png": b"0"})
    fill(tmp_path / "b", {"b/0.png": b"0", "1.png": b"1", "2.png": b"2"})
    os.utime(tmp_path / "b/1.png", (10**9, 10**9))
    archives = []
    for name in "ab":
        values = project.values(download_stage.PARAMS, download__source="path", download__path=str(tmp_path / name))
        path.pack(values, project.root)
        archives.append((project.root / RAW_ARCHIVE).read_bytes())
    assert archives[0] == archives[1]


def test_pack_links_out_of_the_folder_are_not_read(project, tmp_path):
    secret = fill(tmp_path / "elsewhere", {"secret.png": b"secret"})
    photos = fill(tmp_path / "photos", {"1.png": b"1"})
    (photos / "file.png").symlink_to(secret / "secret.png")
    (photos / "folder").symlink_to(secret)
    (photos / "loop").symlink_to(photos)
    (photos / "dangling.png").symlink_to(tmp_path / "gone")
    assert members(project, photos) == {"1.png": b"1"}


@pytest.mark.timeout(20)
def test_pack_fifo_is_left_alone_and_does_not_hang(project, tmp_path):
    photos = fill(tmp_path / "photos", {"1.png": b"1"})
    os.mkfifo(photos / "pipe.png")
    assert members(project, photos) == {"1.png": b"1"}


def test_pack_tar_links_devices_and_climbing_names_stay_inside(project, tmp_path):
    origin = tmp_path / "hostile.tar"
    with tarfile.open(origin, "w") as tar:
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("dev", tarfile.CHRTYPE),
            ("f", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        source = fill(tmp_path / "photos", {"1.png": b"1"}) / "1.png"
        tar.add(source, "../../escaped.png")
        tar.add(source, "/absolute.png")
    before = set(tmp_path.rglob("*"))
    found = members(project, origin)
    assert list(found.values()) == [b"1", b"1"]
    new = {p for p in tmp_path.rglob("*") if p not in before}
    assert all(p.is_relative_to(project.root) for p in new)
    assert not (tmp_path.parent / "escaped.png").exists()


def test_pack_missing_origin_is_named(project, tmp_path):
    error = refused(project, tmp_path / "nowhere")
    assert isinstance(error, InputMissingError) and error.exit_code == 66


@pytest.mark.parametrize("kind", KINDS)
def test_pack_nothing_inside_is_input_missing(project, tmp_path, kind):
    (tmp_path / "photos" / "only" / "folders").mkdir(parents=True)
    assert isinstance(refused(project, packed(tmp_path / "photos", kind)), InputMissingError)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "a.tar.bz2"])
@pytest.mark.parametrize("content", [b"", b"this is no archive at all" * 50], ids=["empty", "text"])
def test_pack_file_that_is_no_archive_is_bad_data(project, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    error = refused(project, tmp_path / name)
    assert isinstance(error, BadDataError) and "readable" in str(error) and error.exit_code == 65


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_pack_archive_cut_short_is_bad_data(project, tmp_path, kind, share):
    rng = np.random.default_rng(0)
    origin = packed(fill(tmp_path / "photos", {f"{i}.png": rng.bytes(30_000) for i in range(4)}), kind)
    origin.write_bytes(origin.read_bytes()[: int(origin.stat().st_size * share)])
    assert isinstance(refused(project, origin), BadDataError)


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "tar.bz2"])
def test_pack_archive_with_flipped_bytes_is_bad_data(project, tmp_path, kind):
    rng = np.random.default_rng(0)
    origin = packed(fill(tmp_path / "photos", {f"{i}.png": rng.bytes(30_000) for i in range(4)}), kind)
    data = bytearray(origin.read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 200):
        data[place] ^= 0xFF
    origin.write_bytes(data)
    assert isinstance(refused(project, origin), BadDataError)


def test_pack_encrypted_zip_is_refused_with_the_remedy(project, tmp_path):
    origin = packed(fill(tmp_path / "photos", {"1.png": b"1" * 100}), "zip")
    data = bytearray(origin.read_bytes())
    local, central = data.index(b"PK\x03\x04"), data.index(b"PK\x01\x02")
    data[local + 6] |= 1  # general purpose bit 0: encrypted
    data[central + 8] |= 1
    origin.write_bytes(data)
    error = refused(project, origin)
    assert isinstance(error, BadDataError) and "encrypted (1.png)" in str(error) and "password" in str(error)


def test_pack_other_file_is_refused(project, tmp_path):
    (tmp_path / "photo.rar").write_bytes(b"Rar!")
    error = refused(project, tmp_path / "photo.rar")
    assert isinstance(error, BadDataError) and "neither a folder nor" in str(error)


def test_pack_suffix_in_capitals_is_known(project, tmp_path):
    origin = packed(fill(tmp_path / "photos", {"1.png": b"1"}), "zip")
    assert members(project, origin.rename(tmp_path / "PHOTOS.ZIP")) == {"1.png": b"1"}


def test_pack_home_is_expanded(project, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "photos", {"1.png": b"1"})
    values = project.values(download_stage.PARAMS, download__source="path", download__path="~/photos")
    assert path.pack(values, project.root)["files"] == 1

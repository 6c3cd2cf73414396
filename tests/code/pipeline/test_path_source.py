"""One's own images: a folder, zip or tar give the same data set; what is missing, broken or hostile is refused or left alone."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import socket
import stat
import tarfile
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline import download as download_stage
from pipeline.errors import BadDataError, InputMissingError, PipelineError
from pipeline.raw import RawWriter, Unreadable, read_failures, read_files
from pipeline.sources import path
from pipeline.sources.folder import open_regular

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


def pack(project, origin: Path | str, **changes: object) -> tuple[dict[str, bytes], dict[str, str]]:
    """What ``pack`` makes of ``origin``: the files' bytes and the failures' reasons, by path."""
    return brought(project, project.values(download_stage.PARAMS, download__source="path", download__path=str(origin), **changes))


def brought(project, values: SimpleNamespace) -> tuple[dict[str, bytes], dict[str, str]]:
    """The same for parameters that were read already."""
    out = project.root / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    with RawWriter(out) as writer:
        path.pack(values, writer)
    found = {}
    for name, number in zip(*read_files(out).select(["path", "archive"]).to_pydict().values(), strict=True):
        with zipfile.ZipFile(out / f"images-{number:05d}.zip") as archive:
            found[name] = archive.read(name)
    failed = {name: reason for name, reason, _ in read_failures(out)}
    assert (len(found), len(failed)) == (writer.files, writer.failures)
    return found, failed


def members(project, origin: Path) -> dict[str, bytes]:
    """The files that ``pack`` makes of ``origin``, where nothing fails."""
    found, failed = pack(project, origin)
    assert failed == {}
    return found


def refused(project, origin: Path, **changes: object) -> PipelineError:
    """The error of the whole stage, which leaves nothing."""
    values = project.values(download_stage.PARAMS, download__source="path", download__path=str(origin), **changes)
    with pytest.raises((BadDataError, InputMissingError)) as caught:
        download_stage.download(values, project.paths)
    assert str(origin) in str(caught.value) and "\n" not in str(caught.value)
    assert not list(project.paths.raw.parent.iterdir())
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_download_every_kind_gives_the_same_files(project, picture, tmp_path, kind):
    files = {f"{label}/{i:03d}.png": picture(i) for i in range(20) for label in [("cat", "dog")[i % 2]]}
    files |= {"cat/broken.png": b"no image", ".DS_Store": b"x", "dog/._001.png": b"x", "dog/again.png": picture(1)}
    origin = packed(fill(tmp_path / "photos", files), kind)
    where = {"download__source": "path", "download__path": str(origin)}
    download_stage.download(project.values(download_stage.PARAMS, **where), project.paths)
    table = read_files(project.paths.raw).to_pandas().set_index("path")
    assert table["sha256"].to_dict() == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert table["bytes"].to_dict() == {name: len(data) for name, data in files.items()}
    assert read_failures(project.paths.raw) == []


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
    fill(tmp_path / "a", {"2.png": b"2", "1.png": b"1", "b/0.png": b"0", "b.png": b"3"})
    fill(tmp_path / "b", {"b.png": b"3", "b/0.png": b"0", "1.png": b"1", "2.png": b"2"})
    os.utime(tmp_path / "b/1.png", (10**9, 10**9))
    archives = []
    for name in "ab":
        assert list(members(project, tmp_path / name)) == ["1.png", "2.png", "b/0.png", "b.png"]
        archives.append((project.root / "out/images-00000.zip").read_bytes())
    assert archives[0] == archives[1]


def test_pack_links_are_not_read_and_named(project, tmp_path):
    secret = fill(tmp_path / "elsewhere", {"secret.png": b"secret"})
    photos = fill(tmp_path / "photos", {"1.png": b"1"})
    (photos / "file.png").symlink_to(secret / "secret.png")
    (photos / "folder").symlink_to(secret)
    (photos / "loop").symlink_to(photos)
    (photos / "dangling.png").symlink_to(tmp_path / "gone")
    found, failed = pack(project, photos)
    assert found == {"1.png": b"1"}
    assert failed == dict.fromkeys(("file.png", "folder", "loop", "dangling.png"), "link")


@pytest.mark.timeout(20)
def test_pack_fifo_and_socket_are_named_and_do_not_hang(project, tmp_path):
    photos = fill(tmp_path / "photos", {"1.png": b"1"})
    os.mkfifo(photos / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(photos):  # a socket's path may not be long
        listening.bind("socket.png")
    assert pack(project, photos) == ({"1.png": b"1"}, {"pipe.png": "not_a_file", "socket.png": "not_a_file"})


@pytest.mark.timeout(20)
def test_open_regular_what_was_exchanged_after_the_walk_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "real").write_bytes(b"1")
    (tmp_path / "link").symlink_to("real")
    for name, reason in (("pipe", "not_a_file"), ("link", "link"), ("gone", "unreadable"), (".", "not_a_file")):
        with pytest.raises(Unreadable) as caught:
            open_regular(tmp_path / name)
        assert caught.value.reason == reason


def test_pack_empty_class_folder_is_named(project, tmp_path):
    photos = fill(tmp_path / "photos", {"cat/1.png": b"1"})
    (photos / "dog").mkdir()
    assert pack(project, photos) == ({"cat/1.png": b"1"}, {})


def test_pack_unreadable_file_and_folder_are_named(project, tmp_path):
    photos = fill(tmp_path / "photos", {"1.png": b"1", "2.png": b"2", "cat/3.png": b"3"})
    (photos / "2.png").chmod(0)
    (photos / "cat").chmod(0)
    with everyday_user(tmp_path):
        found, failed = pack(project, photos)
    assert (found, failed) == ({"1.png": b"1"}, {"2.png": "unreadable", "cat": "unreadable"})


@contextlib.contextmanager
def everyday_user(folder: Path):
    """Not root, whom no permission stops; ``folder`` and all that is in it, and the way to it, are that user's."""
    if os.geteuid():
        yield
        return
    way = stat.S_IXGRP | stat.S_IXOTH
    modes = {parent: parent.stat().st_mode for parent in folder.parents if parent.stat().st_mode & way != way}
    for parent in modes:
        parent.chmod(modes[parent] | way)
    for owned in (folder, *folder.rglob("*")):
        os.chown(owned, 65534, 65534, follow_symlinks=False)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for parent, mode in modes.items():
            parent.chmod(mode)


def tar_of(origin: Path, *added: tuple[str, bytes | None]) -> Path:
    """A tar with one good member, then members of these names and types (None: a regular file)."""
    with tarfile.open(origin, "w") as tar:
        for name, kind in (("good.png", None), *added):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind or tarfile.REGTYPE, "/etc/passwd" if kind else ""
            info.size = 0 if kind else 3
            tar.addfile(info, None if kind else io.BytesIO(b"abc"))
    return origin


HOSTILE = [
    ("../../escaped.png", None, "leads out of the archive"),
    ("a/../../escaped.png", None, "leads out of the archive"),
    ("..\\escaped.png", None, "leads out of the archive"),
    ("/absolute.png", None, "absolute"),
    ("C:\\absolute.png", None, "absolute"),
    ("good.png", None, "two of this name"),
    ("./good.png", None, "two of this name"),
    ("link.png", tarfile.SYMTYPE, "a link"),
    ("hard.png", tarfile.LNKTYPE, "a link"),
    ("device", tarfile.CHRTYPE, "no regular file"),
    ("disk", tarfile.BLKTYPE, "no regular file"),
    ("pipe", tarfile.FIFOTYPE, "no regular file"),
]


@pytest.mark.parametrize(("name", "kind", "why"), HOSTILE)
def test_download_tar_with_a_hostile_member_is_refused_by_its_name(project, tmp_path, name, kind, why):
    error = refused(project, tar_of(tmp_path / "hostile.tar", (name, kind)))
    assert error.exit_code == 65 and repr(name) in str(error) and why in str(error)
    assert not (tmp_path.parent / "escaped.png").exists()


@pytest.mark.parametrize(("name", "kind", "why"), HOSTILE)
def test_download_zip_with_a_hostile_member_is_refused_by_its_name(project, tmp_path, name, kind, why):
    modes = {tarfile.SYMTYPE: stat.S_IFLNK, tarfile.LNKTYPE: stat.S_IFLNK, tarfile.CHRTYPE: stat.S_IFCHR}
    modes |= {tarfile.BLKTYPE: stat.S_IFBLK, tarfile.FIFOTYPE: stat.S_IFIFO, None: stat.S_IFREG}
    origin = tmp_path / "hostile.zip"
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(origin, "w") as archive:
        archive.writestr("good.png", b"abc")
        info = zipfile.ZipInfo(name)
        info.external_attr, info.create_system = (modes[kind] | 0o644) << 16, 3
        archive.writestr(info, b"/etc/passwd")
    error = refused(project, origin)
    assert error.exit_code == 65 and repr(name) in str(error) and why in str(error)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_download_bomb_by_ratio_is_refused_by_its_name(project, tmp_path, kind):
    origin = packed(fill(tmp_path / "photos", {"good.png": b"abc", "zeros.bmp": bytes(2**25)}), kind)
    assert origin.stat().st_size < 2**17
    error = refused(project, origin)
    assert "zeros.bmp" in str(error) and "bombs" in str(error)


def test_download_bomb_of_many_small_members_is_refused(project, tmp_path):
    files = {f"{i:02d}.bmp": bytes(2**20) for i in range(24)}
    error = refused(project, packed(fill(tmp_path / "photos", files), "zip"))
    assert ".bmp" in str(error) and "bombs" in str(error)


def test_download_zip_whose_members_share_bytes_is_refused(project, tmp_path):
    origin = packed(fill(tmp_path / "photos", {"1.png": b"1" * 500, "2.png": b"2" * 500}), "zip")
    data = bytearray(origin.read_bytes())
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 1)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]  # both begin at the same place
    origin.write_bytes(data)
    assert "shares its bytes" in str(refused(project, origin))


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize(("key", "value"), [("max_members", 3), ("max_gib", 3000 / 2**30)])
def test_download_archive_beyond_a_limit_is_refused_by_a_members_name(project, tmp_path, kind, key, value):
    origin = packed(fill(tmp_path / "photos", {f"{i}.png": bytes([i]) * 1000 for i in range(4)}), kind)
    error = refused(project, origin, **{f"download__{key}": value})
    assert f"download.{key}" in str(error) and ".png'" in str(error)


def test_pack_damaged_member_of_a_zip_is_a_failure_and_the_others_stay(project, tmp_path):
    rng = np.random.default_rng(0)
    files = {f"{i}.png": rng.bytes(200_000) for i in range(4)}
    origin = packed(fill(tmp_path / "photos", files), "zip")
    with zipfile.ZipFile(origin) as archive:
        places = {info.filename: info.header_offset for info in archive.infolist()}
    data = bytearray(origin.read_bytes())
    data[places["1.png"] + 100_000] ^= 1  # its content: the sum is wrong
    data[places["2.png"]] ^= 1  # its local header
    origin.write_bytes(data)
    found, failed = pack(project, origin)
    assert found == {name: files[name] for name in ("0.png", "3.png")}
    assert failed == {"1.png": "corrupt", "2.png": "corrupt"}


def test_download_tar_with_a_damaged_header_is_no_short_tar(project, tmp_path):
    origin = tar_of(tmp_path / "photos.tar", ("1.png", None), ("2.png", None))
    data = bytearray(origin.read_bytes())
    data[2 * 1024 + 150] ^= 0xFF  # the sum of the third header: tarfile alone would stop here and say nothing
    origin.write_bytes(data)
    assert "no valid header" in str(refused(project, origin))


def test_download_tar_with_more_behind_its_end_is_refused(project, tmp_path):
    origin = tar_of(tmp_path / "photos.tar")
    origin.write_bytes(origin.read_bytes() * 2)
    assert "follows its end" in str(refused(project, origin))


def test_download_tar_without_an_end_is_cut_short(project, tmp_path):
    origin = tar_of(tmp_path / "photos.tar", ("1.png", None))
    origin.write_bytes(origin.read_bytes()[: 2 * 1024])
    assert "no valid header" in str(refused(project, origin))


def test_download_tar_with_an_endless_header_is_refused(project, tmp_path):
    origin = tmp_path / "photos.tar"
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**40
    origin.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert "extended header" in str(refused(project, origin))


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


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_pack_any_damage_is_refused_or_every_file_is_accounted_for(project, tmp_path, kind):
    rng = np.random.default_rng(0)
    origin = packed(fill(tmp_path / "photos", {f"{i}.png": rng.bytes(300) for i in range(4)}), kind)
    good, refusals = origin.read_bytes(), 0
    values = project.values(download_stage.PARAMS, download__source="path", download__path=str(origin))
    for _ in range(120):
        data = bytearray(good)
        for place in rng.integers(0, len(data), 2):
            data[place] = rng.choice((0, 255, rng.integers(0, 256)))
        origin.write_bytes(data[: rng.integers(0, len(data))] if rng.random() < 0.1 else data)
        try:
            found, failed = brought(project, values)
            assert len(found) + len(failed) == 4
        except BadDataError:
            refusals += 1
    assert refusals


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
    assert members(project, "~/photos") == {"1.png": b"1"}


def test_download_only_unreadable_things_is_bad_data(project, tmp_path):
    photos = fill(tmp_path / "photos", {})
    photos.mkdir()
    (photos / "1.png").symlink_to("2.png")
    error = refused(project, photos)
    assert isinstance(error, BadDataError) and "1.png" in str(error) and "link" in str(error)

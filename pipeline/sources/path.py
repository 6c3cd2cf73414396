"""One's own images: a folder, .zip, .tar or .tar.gz, brought into one zip archive. Nothing is ever extracted to disk."""

from __future__ import annotations

import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import IO

from pipeline.console import progress
from pipeline.errors import BadDataError, InputMissingError
from pipeline.paths import RAW_ARCHIVE
from pipeline.sources.sprites import ZIP_EPOCH

ARCHIVE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def _text(name: str) -> str:
    """A name that any archive can hold: bytes that are no UTF-8 become backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _copy_zip(origin: Path, target: Path) -> int:
    try:
        with zipfile.ZipFile(origin) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            locked = next((info.filename for info in members if info.flag_bits & 1), None)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise BadDataError(f"{origin} is not a readable zip archive ({error}): make it anew, or name a folder") from None
    if locked:
        raise BadDataError(f"{origin} is encrypted ({locked}): unpack it with its password and name the folder")
    if members:
        shutil.copyfile(origin, target)
    return len(members)


def _pack(streams: Iterator[tuple[str, IO[bytes]]], total: int | None, target: Path) -> int:
    count = 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, stream in progress(streams, total or 0, "files", "packing"):
            info = zipfile.ZipInfo(name, ZIP_EPOCH)
            with stream, archive.open(info, "w", force_zip64=True) as member:
                shutil.copyfileobj(stream, member, 1 << 20)
            count += 1
    return count


def files_of(root: Path) -> list[Path]:
    """Regular files below ``root`` in byte order of their names; links, sockets and devices are left alone."""
    return sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())


def _tar_members(origin: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Regular files of a tar archive. gzip is read by its own module, which checks its sum; tarfile's stream mode does not."""
    with origin.open("rb") as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
    with gzip.open(origin) if gzipped else nullcontext() as unzipped:
        with tarfile.open(origin, fileobj=unzipped, mode="r|" if gzipped else "r|*") as archive:
            for member in archive:
                if member.isreg() and (stream := archive.extractfile(member)) is not None:
                    yield _text(member.name.removeprefix("./").lstrip("/")), stream
        while unzipped is not None and unzipped.read(1 << 20):
            pass  # to the end, where the sum is


def _pack_tar(origin: Path, target: Path) -> int:
    try:
        return _pack(_tar_members(origin), None, target)
    except (*ARCHIVE_ERRORS, gzip.BadGzipFile) as error:
        raise BadDataError(f"{origin} is not a readable tar archive ({error}): make it anew, or name a folder") from None


def pack(values: SimpleNamespace, destination: Path) -> dict:
    """Bring ``download.path`` into the archive; InputMissingError where there is nothing, BadDataError where it cannot be read."""
    origin, target = Path(values.download.path).expanduser(), destination / RAW_ARCHIVE
    if not origin.exists():
        raise InputMissingError(f"{origin} does not exist: download.path names a folder, .zip, .tar or .tar.gz of images")
    name = origin.name.lower()
    if origin.is_dir():
        files = files_of(origin)
        named = ((_text(file.relative_to(origin).as_posix()), file.open("rb")) for file in files)
        count = _pack(named, len(files), target)
    elif name.endswith(".zip"):
        count = _copy_zip(origin, target)
    elif name.endswith(TAR_SUFFIXES):
        count = _pack_tar(origin, target)
    else:
        raise BadDataError(f"{origin} is neither a folder nor a .zip, .tar or .tar.gz: pack the images or name their folder")
    if not count:
        raise InputMissingError(f"{origin} holds no files: put images into it, or name another folder or archive")
    return {"files": count, "origin": origin.name}

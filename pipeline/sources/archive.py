"""Reads zip and tar archives of strangers, member by member, without ever extracting to disk.

A member that could do harm (a path out of the archive, a link, a device, a name given twice, a bomb) refuses the whole archive
and is named; a zip's member that is merely damaged is a failure of its own, since the others can still be read.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from pipeline.errors import BadDataError
from pipeline.raw import BLOCK_BYTES, RawWriter, Readable, Unopened, Unreadable, safe_name

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
ARCHIVE_SUFFIXES = (".zip", *TAR_SUFFIXES)
ARCHIVE_ERRORS = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, struct.error,
)  # fmt: skip
MEMBER_ERRORS = (*ARCHIVE_ERRORS, NotImplementedError, RuntimeError, ValueError, OSError)
MOST_RATIO = 200  # unpacked to packed: images are compressed already, only a bomb goes far beyond
RATIO_FREE_BYTES = 2**24  # below this much unpacked the ratio is not looked at
MOST_HEADER_BYTES = 2**20  # of a tar's extended header, which tarfile reads whole
OPENERS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
END_BYTES = 22 + 2**16  # of a zip: its end record with the longest comment
ODD = re.compile(
    r"\\|\.\.|:/|(?:^|/)\.?(?:/|$)"
)  # in names to be looked at more closely: absolute, or with ., .. or an empty part
ZIP_KINDS = {0, stat.S_IFREG, stat.S_IFDIR}


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold: members, and bytes unpacked."""

    members: int
    total_bytes: int


class Gate:
    """Every member of one archive passes here before a byte of it is read; BadDataError names the one that may not."""

    def __init__(self, origin: Path, limits: Limits) -> None:
        self._origin, self._limits = origin, limits
        self._packed = origin.stat().st_size
        self._seen: set[str] = set()
        self._count = self._unpacked = 0

    def refuse(self, name: str, why: str) -> BadDataError:
        return BadDataError(
            f"{self._origin} is refused for its member {safe_name(name)!r}: {why}; "
            "if you trust it, unpack it yourself and name the folder"
        )

    def admit(self, name: str, length_bytes: int, is_file: bool, kind: str = "") -> str:
        """The member's clean path ('' for a folder); ``kind`` names what it is where it is neither file nor folder."""
        self._count += 1
        if self._count > self._limits.members:
            raise self.refuse(name, f"there are more than download.max_members = {self._limits.members} members")
        if kind:
            raise self.refuse(name, f"it is {kind}")
        clean = self._clean(name) if ODD.search(name) else name
        if not is_file:
            if length_bytes:
                raise self.refuse(name, "it is a folder with content of its own")
            return ""
        if not clean:
            raise self.refuse(name, "it has no name")
        if clean in self._seen:
            raise self.refuse(name, "there are two of this name")
        self._seen.add(clean)
        self._unpacked += length_bytes
        if self._unpacked > self._limits.total_bytes:
            raise self.refuse(name, f"unpacked there are more than download.max_gib = {self._limits.total_bytes / 2**30:g} GiB")
        if self._unpacked > RATIO_FREE_BYTES + MOST_RATIO * self._packed:
            raise self.refuse(name, f"it unpacks to more than {MOST_RATIO} times what the archive holds, as bombs do")
        return clean

    def _clean(self, name: str) -> str:
        """The name without empty parts and those that stay where they are."""
        if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name):
            raise self.refuse(name, "its name is absolute")
        if ".." in re.split(r"[/\\]", name):
            raise self.refuse(name, "its name leads out of the archive")
        return "/".join(part for part in name.split("/") if part not in ("", "."))


class _Member:
    """A zip's member whose damage, found while it is read, is a reason."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except MEMBER_ERRORS as error:
            raise Unreadable("corrupt", f"damaged in its archive: {error}") from None


def _zip_infos(archive: zipfile.ZipFile, gate: Gate) -> list[tuple[str, zipfile.ZipInfo]]:
    """The files of a zip that may be read as a whole, in its order."""
    admitted = []
    for info in archive.infolist():
        # The upper half holds the Unix mode where a Unix made the archive, or pretended to.
        kind = stat.S_IFMT(info.external_attr >> 16)
        what = "a link" if kind == stat.S_IFLNK else "" if kind in ZIP_KINDS else "no regular file"
        if info.flag_bits & 1:
            raise BadDataError(
                f"{archive.filename} is encrypted ({safe_name(info.filename)}): unpack it with its password and name the folder"
            )
        if info.file_size > RATIO_FREE_BYTES + MOST_RATIO * info.compress_size:
            raise gate.refuse(info.filename, f"it unpacks to more than {MOST_RATIO} times its size, as bombs do")
        clean = gate.admit(info.filename, info.file_size, not info.filename.endswith("/"), what)
        if clean:
            admitted.append((clean, info))
    end = -1
    for info in sorted((info for _, info in admitted), key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise gate.refuse(info.filename, "it shares its bytes with another member, as bombs do")
        end = info.header_offset + info.compress_size
    return admitted


def _announced(origin: Path) -> int | None:
    """How many members a zip says that it has, which zipfile does not compare; None where that is told elsewhere (zip64)."""
    with origin.open("rb") as stream:
        stream.seek(max(0, origin.stat().st_size - END_BYTES))
        tail = stream.read()
    count = struct.unpack_from("<H", tail, tail.rfind(b"PK\x05\x06") + 10)[0]
    return None if count == 0xFFFF else count


def _opened_zip(origin: Path, limits: Limits) -> tuple[zipfile.ZipFile, list[tuple[str, zipfile.ZipInfo]]]:
    """A zip and its files; BadDataError where it is none, or one that may not be read."""
    try:
        archive = zipfile.ZipFile(origin)
        if _announced(origin) not in (None, len(archive.infolist())):
            raise zipfile.BadZipFile(f"its list has {len(archive.infolist())} members, it should have {_announced(origin)}")
    except MEMBER_ERRORS as error:
        raise BadDataError(f"{origin} is not a readable zip archive ({error}): make it anew, or name a folder") from None
    return archive, _zip_infos(archive, Gate(origin, limits))


@contextmanager
def _opened_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[_Member]:
    try:
        stream = archive.open(info)
    except MEMBER_ERRORS as error:
        raise Unreadable("corrupt", f"damaged in its archive: {error}") from None
    with stream:
        yield _Member(stream)


def read_zip(origin: Path, limits: Limits, step: int = 1) -> Iterator[tuple[str, Unopened]]:
    """(path, member) of each ``step``-th file in a zip, which stays open as long as somebody holds one of its members."""
    archive, infos = _opened_zip(origin, limits)
    for path, info in infos[::step]:
        stamp = f"{info.CRC:08x}:{info.file_size}:{info.compress_size}:{info.date_time}"
        yield path, Unopened(partial(_opened_member, archive, info), stamp)


class _Info(tarfile.TarInfo):
    """tarfile takes a damaged header for the end of the archive, and reads extended headers of any length; not here."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _Info:
        info = super().frombuf(buf, encoding, errors)
        if info.type in EXTENDED and info.size > MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"an extended header of {info.size} bytes")
        return info

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Info:
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"no valid header at byte {archive.offset}: {error}") from None


class _Unpacked:
    """The bytes of a compressed file; whatever is wrong with them is a tarfile.ReadError."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise tarfile.ReadError(str(error)) from None


def read_tar(origin: Path, limits: Limits) -> Iterator[tuple[str, Readable]]:
    """(path, stream) of every file in a tar, compressed or not; the stream is good until the next one. Raises tarfile.TarError."""
    gate = Gate(origin, limits)
    with origin.open("rb") as raw:
        head = raw.read(8)
    opener: Any = next((opener for magic, opener in OPENERS if head.startswith(magic)), open)
    with (
        opener(origin, "rb") as unpacked,
        tarfile.open(mode="r|", fileobj=_Unpacked(unpacked), tarinfo=_Info) as archive,  # type: ignore[call-overload]
    ):
        for member in archive:
            archive.members = []  # tarfile keeps them all
            kind = "" if member.isreg() or member.isdir() else "a link" if member.issym() or member.islnk() else "no regular file"
            path = gate.admit(member.name, member.size, member.isreg(), kind)
            if path and (stream := archive.extractfile(member)) is not None:
                yield path, stream
        # To the very end, where a compressed file keeps its sum; what is no padding would have been lost in silence.
        while block := archive.fileobj.read(BLOCK_BYTES):
            if block.strip(b"\0"):
                raise tarfile.ReadError("something follows its end")


def count_files(origin: Path, limits: Limits) -> int:
    """How many files an archive holds; a tar has to be read for that. Errors as when it is read."""
    if not origin.name.lower().endswith(".zip"):
        return sum(1 for _ in read_tar(origin, limits))
    return len(_opened_zip(origin, limits)[1])


def pack_archive(origin: Path, writer: RawWriter, limits: Limits, name: str = "") -> None:
    """Hand every file of the archive ``origin`` to ``writer``; the kind is told by ``name`` (or the file's own name)."""
    lower = (name or origin.name).lower()
    try:
        for path, content in (read_zip if lower.endswith(".zip") else read_tar)(origin, limits):
            writer.add(path, content)
    except tarfile.TarError as error:
        raise BadDataError(f"{origin} is not a readable tar archive ({error}): make it anew, or name a folder") from None

"""data/raw: the input's files as they came, in zip archives of bounded length, and one table of what each of them is.

``images-00000.zip`` and so on hold the bytes; ``files.parquet`` has a row for each file in their order: path, archive, bytes,
sha256, and what the source knows of it: label, split ('' where it knows none) and true factors (``factor_*``). ``failed.csv``
has path, reason and detail of what could not be brought here. Every file of the input is in exactly one of the two.

Where an archive begins is told by a file's own name and length, as long as it is neither too long nor too full: so a file that is
added or taken away changes its own archive and no other, and the next run takes over the others (pipeline/kept.py).
"""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.paths import FACTOR

ARCHIVE_NAME = "images-{:05d}.zip"
FILES, FAILED = "files.parquet", "failed.csv"
TARGET_FILES, TARGET_BYTES = 2048, 2**25  # in an archive, on average: of files without bytes, or bytes of large ones
MOST_FILES, MOST_BYTES = 8192, 2**28  # zipfile holds an archive's whole directory in memory, with a million files too
ROW_GROUP_FILES = 8192  # of files.parquet, wherever its archives begin: the same rows give the same bytes
BLOCK_BYTES = 2**20
SPOOL_BYTES = 2**26  # a larger file is read by way of the disk
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # no time stamps: the same input gives the same bytes
COLUMNS = {"path": pa.string(), "archive": pa.int32(), "bytes": pa.int64(), "sha256": pa.string(), "label": pa.string(),
           "split": pa.string()}  # fmt: skip


class Readable(Protocol):
    """What a source hands over: bytes in blocks, b'' at the end."""

    def read(self, size: int = -1, /) -> bytes: ...


class Unreadable(Exception):  # noqa: N818 - no fault of the program but what a source says of one file
    """One file of the input cannot be brought: ``reason`` is a code for machines, ``detail`` a text for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Unopened(NamedTuple):
    """A file that a source hands over before it reads it; ``open`` gives its bytes or raises Unreadable.

    The same path with the same ``stamp`` has the same bytes as in the last run; '' says nothing about them.
    """

    open: Callable[[], AbstractContextManager[Readable]]
    stamp: str


Content = bytes | Readable | Unopened


def opened(content: Content) -> AbstractContextManager[Readable]:
    """What can be read; entering it raises Unreadable where there is no such file any more."""
    if isinstance(content, bytes):
        return io.BytesIO(content)
    return content.open() if isinstance(content, Unopened) else nullcontext(content)


def safe_name(path: str) -> str:
    """A name that any archive and any table can hold: bytes that are no UTF-8, and NUL, become backslash escapes."""
    if path.isascii() and "\0" not in path:
        return path
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def begins_archive(name: str, length_bytes: int, files: int, archive_bytes: int) -> bool:
    """Whether a file of this name and length begins a new archive after one that has so many files and bytes."""
    if files >= MOST_FILES or archive_bytes >= MOST_BYTES:
        return True
    return zlib.crc32(name.encode()) < 2**32 * (length_bytes / TARGET_BYTES + 1 / TARGET_FILES)


class RawWriter:
    """Fills a folder in the order of the calls; to be closed by ``with``. Memory does not grow with the bytes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._zip: zipfile.ZipFile | None = None
        self._archive, self._in_archive, self._bytes_in_archive = -1, 0, 0
        self._rows: list[dict[str, Any]] = []  # of the archive that is open
        self._row_stamps: list[str] = []
        self._waiting: list[pa.Table] = []  # less than a row group
        self._table: pq.ParquetWriter | None = None
        self._seen: set[str] = set()
        self._failed = (directory / FAILED).open("w", encoding="utf-8", newline="")
        self._failures = csv.writer(self._failed, lineterminator="\n", quoting=csv.QUOTE_ALL)  # a lone \r too
        self._failures.writerow(["path", "reason", "detail"])
        self.stamps: list[pa.Array] = []  # of all files in their order
        self.files = self.failures = 0
        self.reasons: Counter[str] = Counter()  # of the failures
        self.first_failure = ""

    def add(self, path: str, content: Content, *, label: str = "", split: str = "", **factors: float) -> bool:
        """Store one file; what ``content`` raises while it is read leaves nothing behind. Every file has the same factors.

        False where it became a failure instead: ``content`` raised Unreadable, or the path is there already
        (``duplicate_name``).
        """
        name = safe_name(path)
        if name in self._seen:
            self.fail(path, "duplicate_name", "another file of the input has this path")
            return False
        try:  # whole, before the archive knows of it
            stream, length_bytes = self._spooled(content)
        except Unreadable as error:
            self.fail(path, error.reason, error.detail)
            return False
        self._seen.add(name)
        archive = self._archive_for(name, length_bytes)
        digest = hashlib.sha256()
        with stream, archive.open(zipfile.ZipInfo(name, ZIP_EPOCH), "w", force_zip64=True) as member:
            while block := stream.read(BLOCK_BYTES):
                member.write(block)
                digest.update(block)
        self._in_archive += 1
        self._bytes_in_archive += length_bytes
        self.files += 1
        row = {"path": name, "archive": self._archive, "bytes": length_bytes, "sha256": digest.hexdigest()}
        self._rows.append(row | {"label": label, "split": split} | {f"{FACTOR}{k}": float(v) for k, v in factors.items()})
        self._row_stamps.append(content.stamp if isinstance(content, Unopened) else "")
        return True

    def fail(self, path: str, reason: str, detail: str) -> None:
        """Note a file that could not be brought here."""
        name, text = safe_name(path), " ".join(safe_name(detail).split())[:200]
        self._failures.writerow([name, reason, text])
        self.failures += 1
        self.reasons[reason] += 1
        self.first_failure = self.first_failure or f"{' '.join(name.split())}: {text} ({reason})"

    def _spooled(self, content: Content) -> tuple[Any, int]:
        """All bytes as a stream at its begin, and their number."""
        if isinstance(content, bytes):
            return io.BytesIO(content), len(content)
        stream = tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=str(self._directory))  # noqa: SIM115 - closed by the caller
        with opened(content) as readable:
            shutil.copyfileobj(readable, stream, BLOCK_BYTES)
        length_bytes = stream.tell()
        stream.seek(0)
        return stream, length_bytes

    def _begins(self, name: str, length_bytes: int) -> bool:
        return self._zip is None or begins_archive(name, length_bytes, self._in_archive, self._bytes_in_archive)

    def _archive_for(self, name: str, length_bytes: int) -> zipfile.ZipFile:
        """The archive that takes this file: the one that is open, or a new one."""
        if self._begins(name, length_bytes):
            self._end_archive()
            self._archive += 1
            self._zip = zipfile.ZipFile(self._directory / ARCHIVE_NAME.format(self._archive), "w", zipfile.ZIP_STORED)
        assert self._zip is not None
        return self._zip

    def _end_archive(self) -> None:
        if self._zip is None:
            return
        self._zip.close()
        extra = {name: pa.float64() for name in (self._rows[0] if self._rows else ()) if name not in COLUMNS}
        schema = pa.schema(list((COLUMNS | extra).items()))
        self._note(pa.Table.from_pylist(self._rows, schema=schema), pa.array(self._row_stamps, pa.string()))
        self._zip, self._rows, self._row_stamps, self._in_archive, self._bytes_in_archive = None, [], [], 0, 0

    def _note(self, rows: pa.Table, stamps: pa.Array) -> None:
        """Put the rows of one archive into the table."""
        self.stamps.append(stamps)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= ROW_GROUP_FILES:
            self._write_rows(only_whole_groups=True)

    def _write_rows(self, *, only_whole_groups: bool = False) -> None:
        table = pa.concat_tables(self._waiting) if self._waiting else pa.schema(list(COLUMNS.items())).empty_table()
        if self._table is None:
            self._table = pq.ParquetWriter(self._directory / FILES, table.schema)
        end = len(table) // ROW_GROUP_FILES * ROW_GROUP_FILES if only_whole_groups else len(table)
        self._table.write_table(table.slice(0, end).combine_chunks(), row_group_size=ROW_GROUP_FILES)
        self._waiting = [table.slice(end)] if end < len(table) else []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left; the folder is whole afterwards. Once."""
        self._end_archive()
        if self._waiting or self._table is None:
            self._write_rows()
        if self._table is not None:
            self._table.close()
        self._failed.close()


def read_files(directory: Path) -> pa.Table:
    """The table of all files in ``directory``."""
    return pq.read_table(directory / FILES)


def read_failures(directory: Path) -> list[tuple[str, str, str]]:
    """(path, reason, detail) of what the source could not bring."""
    with (directory / FAILED).open(encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream)
        next(rows)
        return [(path, reason, detail) for path, reason, detail in rows]

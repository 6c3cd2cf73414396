"""data/raw: the input's files as they came, in zip archives of bounded length, and one table of what each of them is.

``images-00000.zip`` and so on hold the bytes; ``files.parquet`` has a row for each file in their order: path, archive, bytes,
sha256, and what the source knows of it: label, split ('' where it knows none) and true factors (``factor_*``). ``failed.csv``
has path, reason and detail of what could not be brought here. Every file of the input is in exactly one of the two.
"""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.paths import FACTOR

ARCHIVE_NAME = "images-{:05d}.zip"
FILES, FAILED = "files.parquet", "failed.csv"
ARCHIVE_FILES = 8192  # per archive: zipfile holds an archive's whole directory in memory, with a million files too
ARCHIVE_BYTES = 2**30
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


def safe_name(path: str) -> str:
    """A name that any archive and any table can hold: bytes that are no UTF-8, and NUL, become backslash escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\0", "\\x00")


class RawWriter:
    """Fills a folder in the order of the calls; to be closed by ``with``. Memory does not grow with the bytes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._zip: zipfile.ZipFile | None = None
        self._archive, self._in_archive, self._bytes_in_archive = -1, 0, 0
        self._rows: list[dict[str, Any]] = []
        self._table: pq.ParquetWriter | None = None
        self._seen: set[str] = set()
        self._failed = (directory / FAILED).open("w", encoding="utf-8", newline="")
        self._failures = csv.writer(self._failed, lineterminator="\n", quoting=csv.QUOTE_ALL)  # a lone \r too
        self._failures.writerow(["path", "reason", "detail"])
        self.files = self.failures = 0
        self.reasons: Counter[str] = Counter()  # of the failures
        self.first_failure = ""

    def add(self, path: str, content: bytes | Readable, *, label: str = "", split: str = "", **factors: float) -> bool:
        """Store one file; what ``content`` raises while it is read leaves nothing behind. Every file has the same factors.

        False where it became a failure instead: ``content`` raised Unreadable, or the path is there already
        (``duplicate_name``).
        """
        name = safe_name(path)
        if name in self._seen:
            self.fail(path, "duplicate_name", "another file of the input has this path")
            return False
        if isinstance(content, bytes):
            stream: Any = io.BytesIO(content)
        else:  # whole, before the archive knows of it
            stream = tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=str(self._directory))  # noqa: SIM115 - closed below
            try:
                shutil.copyfileobj(content, stream, BLOCK_BYTES)
            except Unreadable as error:
                self.fail(path, error.reason, error.detail)
                return False
            stream.seek(0)
        self._seen.add(name)
        if self._zip is None or self._in_archive == ARCHIVE_FILES or self._bytes_in_archive >= ARCHIVE_BYTES:
            self._next_archive()
        assert self._zip is not None
        digest, length = hashlib.sha256(), 0
        with stream, self._zip.open(zipfile.ZipInfo(name, ZIP_EPOCH), "w", force_zip64=True) as member:
            while block := stream.read(BLOCK_BYTES):
                member.write(block)
                digest.update(block)
                length += len(block)
        self._in_archive += 1
        self._bytes_in_archive += length
        self.files += 1
        row = {"path": name, "archive": self._archive, "bytes": length, "sha256": digest.hexdigest()}
        self._rows.append(row | {"label": label, "split": split} | {f"{FACTOR}{k}": float(v) for k, v in factors.items()})
        if len(self._rows) == ARCHIVE_FILES:
            self._flush()
        return True

    def fail(self, path: str, reason: str, detail: str) -> None:
        """Note a file that could not be brought here."""
        name, text = safe_name(path), " ".join(safe_name(detail).split())[:200]
        self._failures.writerow([name, reason, text])
        self.failures += 1
        self.reasons[reason] += 1
        self.first_failure = self.first_failure or f"{' '.join(name.split())}: {text} ({reason})"

    def _next_archive(self) -> None:
        if self._zip is not None:
            self._zip.close()
        self._archive, self._in_archive, self._bytes_in_archive = self._archive + 1, 0, 0
        path = self._directory / ARCHIVE_NAME.format(self._archive)
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)

    def _flush(self) -> None:
        extra = {name: pa.float64() for name in (self._rows[0] if self._rows else ()) if name not in COLUMNS}
        schema = pa.schema(list((COLUMNS | extra).items())) if self._table is None else self._table.schema
        if self._table is None:
            self._table = pq.ParquetWriter(self._directory / FILES, schema)
        self._table.write_table(pa.Table.from_pylist(self._rows, schema=schema))
        self._rows = []

    def __enter__(self) -> RawWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left; the folder is whole afterwards. Once."""
        if self._rows or self._table is None:
            self._flush()
        if self._zip is not None:
            self._zip.close()
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

"""A list of links: CSV or Parquet with a column of URLs or paths, and optional ones of label, split and sha256.

Fetched in parallel, written in the order of the list. One bad link is one row of failed.csv and never stops the rest.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BadDataError, InputMissingError
from pipeline.raw import RawWriter
from pipeline.sources.gather import Row, pack_rows

SUFFIXES = (".csv", ".parquet")
SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "val", "valid": "val", "validation": "val",
}  # fmt: skip
MOST_FIELD = 2**16  # characters of one field of the list


def _is_url(place: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place) is not None


def name_of(place: str) -> str:
    """A row's path in data/raw, which no other row changes: of a URL a digest and the file's name, of a path itself."""
    digest = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    parts = [part for part in place.split("/") if part not in ("", ".")]
    if not _is_url(place) and parts and ".." not in parts:
        return "/".join(parts)
    try:
        last = unquote(urlsplit(place).path.rpartition("/")[2])
    except ValueError:
        last = ""
    return f"{digest}-{re.sub(r'[^A-Za-z0-9._-]+', '_', last)[-80:]}".rstrip("-")


def _tables(origin: Path) -> Iterator[dict[str, Any]]:
    """The rows of the file as mappings; ValueError where it cannot be read."""
    if origin.name.lower().endswith(".parquet"):
        with pq.ParquetFile(origin) as opened:
            for batch in opened.iter_batches(4096):
                yield from batch.to_pylist()
        return
    csv.field_size_limit(MOST_FIELD)
    with origin.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"line {reader.line_num} has more or fewer fields than the header")
            yield row


def columns(origin: Path) -> list[str]:
    """The names of the list's columns; BadDataError where it is no list."""
    if not origin.is_file():
        raise InputMissingError(f"{origin} does not exist: download.path names a .csv or .parquet file with a column of links")
    try:
        if origin.name.lower().endswith(".parquet"):
            return list(pq.read_schema(origin).names)
        with origin.open(encoding="utf-8-sig", newline="") as stream:
            return next(csv.reader(stream, strict=True), [])
    except (ValueError, OSError, csv.Error, pa.ArrowException) as error:
        raise BadDataError(f"{origin} is no readable CSV (UTF-8) or Parquet file: {' '.join(str(error).split())}") from None


def read(origin: Path, names: SimpleNamespace) -> Iterator[Row]:
    """The rows of the list at ``origin`` with the columns that ``names`` (section download) names; BadDataError."""
    have = columns(origin)
    wanted = {key: getattr(names, f"{key}_column") for key in ("url", "label", "split", "sha256")}
    for key, name in wanted.items():
        if name and name not in have:
            raise BadDataError(f"{origin} has no column {name!r} (download.{key}_column); it has {', '.join(have) or 'none'}")
    try:
        for number, row in enumerate(_tables(origin), start=1):
            value = {key: "" if not name or row[name] is None else str(row[name]).strip() for key, name in wanted.items()}
            split = SPLITS.get(value["split"].lower(), "")
            if value["split"] and not split:
                raise BadDataError(f"{origin}, row {number}: split {value['split']!r} is none of train, val, test")
            place = value["url"]
            yield Row(number, place, name_of(place), _is_url(place), value["label"], split, value["sha256"].lower())
    except (ValueError, OSError, csv.Error, pa.ArrowException) as error:
        raise BadDataError(f"{origin} cannot be read as a list: {' '.join(str(error).split())}") from None


def pack(values: SimpleNamespace, writer: RawWriter) -> None:
    """Bring every row of the list ``download.path``; paths in it are below its own folder."""
    origin = Path(values.download.path).expanduser()
    total = sum(1 for _ in read(origin, values.download))  # also: every fault of the list before the first link is asked
    pack_rows(values, read(origin, values.download), total, origin.parent, writer)

"""What the last run of download brought, kept for the next: of a grown folder or zip, only what is new is read and copied.

The keeper is a folder of hard links to the last data/raw (DVC may remove its own), and a table of the stamps of its files. An archive
is taken over, as a link, where the same files come in the same order; otherwise it is written anew, to the same bytes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import raw
from pipeline.paths import Paths
from pipeline.raw import ARCHIVE_NAME, COLUMNS, FILES, read_files
from vae.files import (
    DamagedError,
    canonical_json,
    manifest_hashes,
    read_json,
    read_manifest,
    replaced_directory,
    sha256_file,
    write_text,
)

FOLDER, FACTS, STAMPS = "downloaded", "kept.json", "stamps.parquet"
Told = tuple[str, str, str, str]  # what a source says of a file that it has not read: path, stamp, label, split
log = logging.getLogger("pipeline.download")


def _key() -> str:
    """A name for this way of filling archives: under the same one, the same files give the same archives."""
    limits = (raw.TARGET_FILES, raw.TARGET_BYTES, raw.MOST_FILES, raw.MOST_BYTES)
    return f"{sha256_file(Path(raw.__file__))} {limits} {platform.python_version()}"


def _untouched(archive: Path) -> list[int]:
    """What is different once somebody has written to the file."""
    known = archive.stat()
    return [known.st_size, known.st_mtime_ns, known.st_ino]


class Archive(NamedTuple):
    """One archive of the last run, and what was told of its files."""

    file: Path
    sha256: str
    rows: pa.Table
    stamps: pa.Array
    told: list[Told]


class Kept:
    """The last run's archives; OSError, ValueError (DamagedError), LookupError, TypeError or ArrowException where they are not whole."""

    def __init__(self, directory: Path, facts: dict[str, Any]) -> None:
        # Sizes alone: to hash the archives is to read all of them. They keep the hash of their manifest, so whoever reads them
        # finds damage as if they had never been linked, and takes the keeper away (read_raw_manifest).
        read_manifest(directory, hashes=(FILES,))
        self._directory, self._sha256s = directory, manifest_hashes(directory)
        for name, untouched in facts["archives"].items():
            if _untouched(directory / name) != untouched:
                raise DamagedError(f"{directory / name} was written to")
        if sha256_file(directory / STAMPS) != facts["stamps_sha256"]:
            raise DamagedError(f"{directory / STAMPS} differs from its sha256")
        self._rows, self._stamps = read_files(directory), pq.read_table(directory / STAMPS)["stamp"]
        archives = self._rows["archive"].to_numpy()
        self._starts = np.flatnonzero(np.diff(archives, prepend=-1)).tolist()
        first = self._rows["path"].take(pa.array(self._starts, pa.int64())).to_pylist()
        self._beginning = {path: number for number, path in enumerate(first)}
        self.length_bytes = pc.sum(self._rows["bytes"]).as_py()

    def beginning_with(self, told: Told) -> Archive | None:
        """The archive whose first file is the one that is told of."""
        number = self._beginning.get(told[0])
        if number is None or self._rows.column_names != list(COLUMNS):  # with factors: of a source that tells no stamps
            return None
        begin, end = [*self._starts, len(self._rows)][number : number + 2]
        rows, stamps = self._rows.slice(begin, end - begin), self._stamps.slice(begin, end - begin).combine_chunks()
        columns = (rows["path"], stamps, rows["label"], rows["split"])
        all_told = list(zip(*(column.to_pylist() for column in columns), strict=True))
        if all_told[0] != told:
            return None
        name = ARCHIVE_NAME.format(number)
        return Archive(self._directory / name, self._sha256s[name], rows, stamps, all_told)


def load(paths: Paths) -> Kept | None:
    """The last run, if it filled archives in the same way and is whole."""
    directory = paths.work / FOLDER
    try:
        facts = read_json(directory / FACTS)
        return Kept(directory, facts) if facts["key"] == _key() else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException) as error:
        if directory.exists():
            log.warning(
                "what the last run brought cannot be used again (%s): reading everything", str(error).split(": remove")[0]
            )
        return None


def keep(paths: Paths, stamps: list[pa.Array]) -> None:
    """Link data/raw for the next run, with the stamps of its files; where links are impossible the next run reads everything."""
    column = pa.chunked_array(stamps, pa.string())
    if not pc.any(pc.not_equal(column, "")).as_py():
        forget(paths)
        return
    with contextlib.suppress(OSError), replaced_directory(paths.work / FOLDER) as directory:
        for file in paths.raw.iterdir():
            os.link(file, directory / file.name)
        pq.write_table(pa.table({"stamp": column}), directory / STAMPS)
        archives = {name: _untouched(directory / name) for name in manifest_hashes(directory) if name.endswith(".zip")}
        facts = {"key": _key(), "archives": archives, "stamps_sha256": sha256_file(directory / STAMPS)}
        write_text(directory / FACTS, canonical_json(facts))


def forget(paths: Paths) -> None:
    """The next run reads everything."""
    shutil.rmtree(paths.work / FOLDER, ignore_errors=True)


def read_raw_manifest(paths: Paths, **hashes: Any) -> dict[str, Any]:
    """vae.files.read_manifest of data/raw; where it is damaged, what is damaged is not taken over again."""
    try:
        return read_manifest(paths.raw, **hashes)
    except DamagedError:
        forget(paths)
        raise

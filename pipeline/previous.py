"""What the last run of preprocess decoded, kept for the next: of a grown folder, only what is new is decoded.

The keeper is a folder of hard links to the last data/processed: no second copy on the disk, and DVC may remove its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import simplejpeg

from pipeline import duplicates, measures, plain_jpeg
from pipeline.duplicates import Verdicts, lookup
from pipeline.fates import LABEL_MISSING
from pipeline.measures import Filters
from pipeline.paths import INDEX, REJECTED, Paths
from vae import decode, looks
from vae.data import ImageShards
from vae.decode import Rules
from vae.files import DamagedError, read_manifest, sha256_file

KEY, VERDICTS = "decoded-by", "verdicts.parquet"
FOLDER = "preprocessed"
# What decides the pixels of a file, beside the rules and the libraries.
CODE = tuple(inspect.getfile(module) for module in (decode, looks, plain_jpeg, measures, duplicates))
log = logging.getLogger("pipeline.preprocess")


def decoding_key(rules: Rules, filters: Filters) -> str:
    """A name for this way of decoding: under the same one, the same file gives the same pixels or the same reason."""
    code = [sha256_file(Path(file)) for file in CODE]
    described = [asdict(rules), asdict(filters), code, PIL.__version__, simplejpeg.__version__, np.__version__]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _bytes(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy().astype("S64")


class Previous:
    """The last run's index in the order of its shards, its shards, and the hashes of the files that it rejected."""

    def __init__(self, directory: Path) -> None:
        table = pq.read_table(directory / INDEX)
        self.shards = [directory / split for split in ("train", "val", "test")]
        self.index = table
        rejected = pyarrow.csv.read_csv(
            directory / REJECTED,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(("path", "reason", "detail", "source_sha256"), pa.string()), strings_can_be_null=False
            ),
        )
        # Only what the file itself is rejected for: its label depends on where it lies.
        of_content = pc.and_(pc.not_equal(rejected["source_sha256"], ""), pc.not_equal(rejected["reason"], LABEL_MISSING))
        self.rejected = rejected.filter(of_content)
        assert len(ImageShards(*self.shards)) == len(table)
        self.verdicts = _read(directory / VERDICTS) if (directory / VERDICTS).exists() else None

    def accepted(self, source_sha256: np.ndarray) -> np.ndarray:
        """For each file's hash its row in ``index``, or -1."""
        return lookup(_bytes(self.index["source_sha256"]), source_sha256)

    def refused(self, source_sha256: np.ndarray) -> np.ndarray:
        """For each file's hash its row in ``rejected``, or -1."""
        return lookup(_bytes(self.rejected["source_sha256"]), source_sha256)


def load(paths: Paths, key: str) -> Previous | None:
    """The last run, if it decoded in the same way and is whole."""
    directory = paths.work / FOLDER
    try:
        if (directory / KEY).read_text() != key:
            return None
        read_manifest(directory)
        return Previous(directory)
    except (OSError, DamagedError, ValueError, pa.ArrowException) as error:
        if not isinstance(error, FileNotFoundError):
            log.warning("what the last run decoded cannot be used again (%s): decoding everything", error)
        return None


def _read(path: Path) -> Verdicts:
    table = pq.read_table(path, page_checksum_verification=True)
    first, second, *answers = (table[name].to_numpy() for name in table.column_names)
    return Verdicts(np.stack([first, second], 1).astype(np.int64), *answers)


def keep(paths: Paths, key: str, verdicts: Verdicts) -> None:
    """Link data/processed for the next run, with what was found of pairs of its images, numbered as in the index.

    Where links are impossible the next run decodes everything.
    """
    directory = paths.work / FOLDER
    shutil.rmtree(directory, ignore_errors=True)
    with contextlib.suppress(OSError):
        shutil.copytree(paths.processed, directory, copy_function=os.link)
        if len(verdicts.pairs_P2):
            first, second = verdicts.pairs_P2.astype(np.int32).T
            columns = {"first": first, "second": second} | dict(zip(("mirrored", "crowded", "alone"), verdicts[1:], strict=True))
            pq.write_table(pa.table(columns), directory / VERDICTS, write_page_checksum=True)
        (directory / KEY).write_text(key)

"""``python -m pipeline.verify``: every artefact against its manifest, because DVC hands out a damaged cache object without a word.

Reads all bytes of data/ and models/; exit code 0 if whatever is there is whole, 65 with a line for each folder that is not.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from pipeline import kept, stage
from pipeline.errors import BadDataError, InputMissingError
from pipeline.paths import INDEX, Paths
from vae.data import ImageShards
from vae.files import DamagedError, read_manifest

# Artefact, and the stage that makes it anew.
ARTEFACTS = {"raw": "download", "processed": "preprocess", "augmented": "augment", "extractor": "extractor", "model": "train"}


def _rows_match(directory: Path) -> None:
    """DamagedError where the index and the shards of a data set disagree."""
    if not (directory / INDEX).exists():
        return
    shards = [part for part in (directory / split for split in ("train", "val", "test")) if list(part.glob("shard-*.npy"))]
    images = len(ImageShards(*shards)) if shards else 0
    rows = pq.read_metadata(directory / INDEX).num_rows
    if rows != images:
        raise DamagedError(f"{directory / INDEX} has {rows} rows, the shards hold {images} images")


def verify(paths: Paths) -> None:
    """Print a line per artefact; BadDataError with the remedy if any is damaged, InputMissingError if there is none."""
    damaged, seen = [], 0
    for name, made_by in ARTEFACTS.items():
        directory: Path = getattr(paths, name)
        if not directory.exists():
            print(f"{directory.relative_to(paths.root)}: not there")
            continue
        seen += 1
        try:
            if name == "raw":
                kept.read_raw_manifest(paths)
            else:
                read_manifest(directory)
            _rows_match(directory)
            print(f"{directory.relative_to(paths.root)}: whole")
        except (DamagedError, ValueError, OSError) as error:
            what = str(error).split(": remove")[0]
            damaged.append(f"{what}: `rm -r {directory.relative_to(paths.root)}` and `dvc repro --force --single-item {made_by}`")
    if not seen:
        raise InputMissingError(f"no artefact in {paths.root}: run `make run` or `dvc repro` first")
    if damaged:
        raise BadDataError("\n".join(damaged))


if __name__ == "__main__":
    stage.command("verify", lambda: verify(Paths.here()), __doc__)

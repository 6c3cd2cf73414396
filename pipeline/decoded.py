"""Every file of data/raw as pixels or as a rejection: taken over from the last run, or decoded here or on the cluster."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline import previous
from pipeline.cluster import connected, load_profile
from pipeline.console import Progress
from pipeline.duplicates import Verdicts
from pipeline.fates import Fates
from pipeline.ingest import Block, Task, block_files, decode_here, decode_on_ray
from pipeline.kept import read_raw_manifest
from pipeline.measures import Filters
from pipeline.paths import Paths
from pipeline.raw import ARCHIVE_NAME
from vae.data import ImageShards, ShardWriter
from vae.decode import Rules

# Ray takes some seconds to start; below this estimate of the work for one processor it costs more than it saves.
RAY_FROM_SECONDS, FILES_PER_SECOND, BYTES_PER_SECOND = 20.0, 10_000, 50e6
SHARD_IMAGES = 4096  # of the temporary shards
MEASURES = ("brightness", "deviation", "sharpness", "perceptual_hash")
FACTS = ("sha256", "width", "height", "mode", *MEASURES)  # what decoding finds out about a picture
log = logging.getLogger("pipeline.preprocess")


def _tasks(raw: pa.Table, numbers: np.ndarray, files: int, directory: Path) -> Iterator[Task]:
    """Blocks of the files ``numbers`` (ascending), none over two archives."""
    archives = raw["archive"].to_numpy()[numbers]
    begins = np.flatnonzero(np.diff(archives, prepend=-1)).tolist()
    for begin, end in pairwise([*begins, len(numbers)]):
        for start in range(begin, end, files):
            block = numbers[start : min(start + files, end)]
            names = raw["path"].take(pa.array(block)).to_pylist()
            yield Task(directory / ARCHIVE_NAME.format(archives[begin]), block.tolist(), names)


def _blocks(raw: pa.Table, numbers: np.ndarray, rules: Rules, filters: Filters, paths: Paths) -> Generator[Block]:
    """The answers for all ``numbers`` in order, decoded here or on the Ray cluster."""
    tasks = _tasks(raw, numbers, block_files(rules), paths.raw)
    seconds = len(numbers) / FILES_PER_SECOND + raw["bytes"].to_numpy()[numbers].sum() / BYTES_PER_SECOND
    if seconds < RAY_FROM_SECONDS:
        yield from decode_here(tasks, rules, filters)
        return
    with connected(load_profile(paths), paths, 1):
        yield from decode_on_ray(tasks, rules, filters)


def _decode_new(
    raw: pa.Table, numbers: np.ndarray, how: tuple[Rules, Filters], pending: ShardWriter, fates: Fates, paths: Paths
) -> pa.Table:
    """Decode ``numbers`` into ``pending``; returns number and FACTS of the accepted ones. DamagedError before that."""
    read_raw_manifest(paths, hashes={ARCHIVE_NAME.format(archive) for archive in np.unique(raw["archive"].to_numpy()[numbers])})
    parts: list[pa.Table] = []
    names, hashes = raw["path"], raw["sha256"]
    blocks, shown = _blocks(raw, numbers, *how, paths), Progress(len(numbers), "files", "decoding")
    done = 0
    with contextlib.closing(blocks), contextlib.closing(shown):
        for block in blocks:
            done += len(block.numbers) + len(block.rejected)
            shown.to(done)
            pending.add_all(block.pixels)
            columns = {
                "number": block.numbers,
                "sha256": block.sha256,
                "width": block.widths,
                "height": block.heights,
                "mode": block.modes,
            }
            # Copies: an arrow array would share the memory of Ray's store, and keep the whole block in it.
            measured = {name: block.measures[name].copy() for name in MEASURES} if block.numbers else {}
            if block.numbers:
                parts.append(pa.table({name: pa.array(column) for name, column in (columns | measured).items()}))
            for number, reason, detail in block.rejected:
                picture = block.refused_pixels.get(number)
                fates.reject(names[number].as_py(), reason, detail, hashes[number].as_py(), picture)
    pending.close()
    return pa.concat_tables(parts) if parts else _no_facts()


def _no_facts() -> pa.Table:
    kinds = {"number": pa.int64(), "sha256": pa.string(), "width": pa.int64(), "height": pa.int64(), "mode": pa.string()}
    kinds |= dict.fromkeys(MEASURES, pa.float32()) | {"perceptual_hash": pa.uint64()}
    return pa.schema(list(kinds.items())).empty_table()


def decoded(
    raw: pa.Table, wanted: np.ndarray, how: tuple[Rules, Filters], temporary: Path, fates: Fates, paths: Paths
) -> tuple[pa.Table, ImageShards | None, Verdicts | None]:
    """number, FACTS and ``place`` of every accepted file, and the images by place: of the last run, then what is new.

    And what the last run found of pairs of its images, by place.
    """
    rules, filters = how
    last = previous.load(paths, previous.decoding_key(rules, filters))
    known, directories, before = _no_facts().append_column("place", pa.array([], pa.int64())), [], 0
    if last is not None:
        hashes = raw["sha256"].to_numpy()[wanted].astype("S64")
        row, refused = last.accepted(hashes), last.refused(hashes)
        again = row >= 0
        facts = last.index.select(FACTS).take(pa.array(row[again]))
        known = facts.add_column(0, "number", pa.array(wanted[again])).append_column("place", pa.array(row[again]))
        for number, at in zip(wanted[~again & (refused >= 0)], refused[~again & (refused >= 0)], strict=True):
            _, reason, detail, digest = (
                last.rejected[name][int(at)].as_py() for name in ("path", "reason", "detail", "source_sha256")
            )
            fates.reject(raw["path"][int(number)].as_py(), reason, detail, digest)
        wanted = wanted[~again & (refused < 0)]
        directories, before = [d for d in last.shards if d.is_dir()], len(last.index)
        log.info("%d files are known from the last run, %d are to be decoded", int(again.sum()), len(wanted))
    pending = ShardWriter(temporary, rules.shape, SHARD_IMAGES)
    new = _decode_new(raw, wanted, how, pending, fates, paths)
    new = new.append_column("place", pa.array(np.arange(before, before + len(new)), pa.int64()))
    found = pa.concat_tables([known.cast(new.schema), new])
    if not len(found):
        return found, None, None
    images = ImageShards(*directories, *([temporary] if pending.count else []))
    return found, images, last.verdicts if last is not None else None

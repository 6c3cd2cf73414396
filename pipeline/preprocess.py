"""Stage preprocess: validates, converts, resizes, splits and packs; every file of the input ends in exactly one place.

In: data/raw. Out: data/processed/{train,val,test}/shard-*.npy, index.parquet, rejected.csv, MANIFEST.json; reports/preprocess.
The bytes of the result depend on the input and the parameters, not on the number of processes.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from pipeline import stage
from pipeline.console import progress
from pipeline.decode import Decoded, Rules, decode_in_process, decode_members, open_in_process
from pipeline.errors import BadDataError
from pipeline.paths import INDEX, METRICS, RAW_ARCHIVE, RAW_FACTORS, REJECTED, Paths
from pipeline.split import SPLITS, assign, common_root, official_and_label
from vae.data import ImageShards, ShardWriter
from vae.files import canonical_json, read_manifest, replaced_directory, write_manifest, write_text
from vae.images import grid, save_png

PARAMS = ("base.image_size", "base.mode", "preprocess")
CHUNK_FILES = 128  # files a process decodes at a time
SHEET_IMAGES = 64  # on the picture of the report
POOL_FROM_BYTES = 16 * 2**20  # below this, starting processes costs more than it saves
SKIPPED_NAMES = ("thumbs.db", "desktop.ini")
SKIPPED_FOLDERS = ("__MACOSX",)
COLUMNS = ["path", "label", "official", "sha256", "width", "height", "mode", "group", "decoded_row"]
log = logging.getLogger("pipeline.preprocess")


def _skipped(path: str) -> bool:
    """Files that operating systems leave behind: neither images nor worth a word."""
    parts = path.split("/")
    return parts[-1].startswith(".") or parts[-1].lower() in SKIPPED_NAMES or any(p in SKIPPED_FOLDERS for p in parts)


def _decoded(archive: Path, names: list[str], rules: Rules) -> Iterator[Decoded]:
    """Every named member's answer, in the order of the names, decoded by as many processes as there are processors."""
    chunks = [names[i : i + CHUNK_FILES] for i in range(0, len(names), CHUNK_FILES)]
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers == 1 or len(chunks) < 2 or archive.stat().st_size < POOL_FROM_BYTES:
        with zipfile.ZipFile(archive) as opened:
            for chunk in chunks:
                yield from decode_members(opened, chunk, rules)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that may have threads is a risk without a gain
    with ProcessPoolExecutor(workers, mp_context=context, initializer=open_in_process, initargs=(archive,)) as pool:
        window: list = []
        for chunk in chunks:  # a bounded window keeps memory flat however many files there are
            window.append(pool.submit(decode_in_process, chunk, rules))
            if len(window) > 2 * workers:
                yield from window.pop(0).result()
        for future in window:
            yield from future.result()


def _index_and_rejects(paths: Paths, pending: ShardWriter, rules: Rules) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Decode everything into ``pending``; returns the accepted rows, the rejected rows and the number skipped by policy."""
    archive = paths.raw / RAW_ARCHIVE
    with zipfile.ZipFile(archive) as opened:
        everything = sorted({info.filename for info in opened.infolist() if not info.is_dir()})
    names = [name for name in everything if not _skipped(name)]
    accepted, rejected = [], []
    for answer in progress(_decoded(archive, names, rules), len(names), "files", "decoding"):
        if answer.pixels_HWC is None:
            rejected.append((answer.path, answer.reason, answer.detail))
            continue
        pending.add(answer.pixels_HWC)
        # Exact duplicates share the hash of their pixels, which is therefore the name of their group.
        facts = (answer.sha256, answer.width, answer.height, answer.mode, answer.sha256)
        accepted.append((answer.path, *facts, len(accepted)))
    pending.close()
    # The folders that all images share are wrappers; what else lies beside them (a README) has no say in that.
    root = common_root([row[0] for row in accepted])
    rows = [(path, *reversed(official_and_label(path, root)), *facts) for path, *facts in accepted]
    index = pd.DataFrame(rows, columns=COLUMNS)
    return index, pd.DataFrame(rejected, columns=["path", "reason", "detail"]), len(everything) - len(names)


def _pack(index: pd.DataFrame, decoded: ImageShards, directory: Path, shard_images: int) -> pd.DataFrame:
    """Write each split's shards in the order of the paths; returns the index with ``shard`` and ``row`` filled in."""
    parts = []
    for split in SPLITS:
        part = index[index["split"] == split].copy()
        writer = ShardWriter(directory / split, decoded.image_shape, shard_images)
        places = []
        for start in range(0, len(part), 4096):
            for image in decoded.gather(part["decoded_row"].to_numpy()[start : start + 4096]):
                places.append(writer.add(image))
        writer.close()
        part["shard"], part["row"] = [p[0] for p in places], [p[1] for p in places]
        parts.append(part)
    return pd.concat(parts, ignore_index=True).drop(columns="decoded_row")


def _check(index: pd.DataFrame, rejected: pd.DataFrame) -> None:
    reasons = ", ".join(f"{count} {reason}" for reason, count in rejected["reason"].value_counts().items())
    if index.empty:
        found = f"{len(rejected)} files, all rejected ({reasons})" if len(rejected) else "no files"
        raise BadDataError(f"no image found in the input: {found}; see download.path in params.yaml")
    counts = index["split"].value_counts()
    missing = [split for split in SPLITS if not counts.get(split)]
    if missing:
        rest = f" ({len(rejected)} files were rejected: {reasons})" if len(rejected) else ""
        raise BadDataError(
            f"{len(index)} usable images leave the split {' and '.join(missing)} empty{rest}: "
            "add images (about 100 are a start), or raise preprocess.val_fraction and test_fraction"
        )


def preprocess(values: SimpleNamespace, paths: Paths) -> None:
    """data/raw to data/processed, and a report of what became of every file."""
    read_manifest(paths.raw)
    section, base = values.preprocess, values.base
    rules = Rules(base.image_size, base.mode, section.fit, section.min_side_pixels, section.max_pixels)
    shape = (base.image_size, base.image_size, len(base.mode))
    paths.work.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=paths.work, prefix="decoded-") as name,
        replaced_directory(paths.processed) as directory,
    ):
        temporary = Path(name)
        pending = ShardWriter(temporary / "all", shape, section.shard_images)
        index, rejected, skipped = _index_and_rejects(paths, pending, rules)
        index["split"] = assign(index, section.val_fraction, section.test_fraction) if len(index) else ""
        _check(index, rejected)
        index = _pack(index, ImageShards(temporary / "all"), directory, section.shard_images)
        if (paths.raw / RAW_FACTORS).exists():
            factors = pd.read_parquet(paths.raw / RAW_FACTORS)
            index = index.merge(factors.rename(columns=lambda c: c if c == "path" else f"factor_{c}"), on="path", how="left")
        index.to_parquet(directory / INDEX, index=False)
        rejected.to_csv(directory / REJECTED, index=False)
        labels = sorted(set(index["label"]) - {""})
        counts = {split: int((index["split"] == split).sum()) for split in SPLITS}
        write_manifest(directory, image_shape=list(shape), mode=base.mode, labels=labels, counts=counts)
        with replaced_directory(paths.preprocess_report) as report:
            metrics = {
                "seen": len(index) + len(rejected) + skipped,
                "accepted": len(index),
                "rejected": len(rejected),
                "skipped": skipped,
                "exact_duplicates": int(index["group"].duplicated().sum()),
                "labels": len(labels),
                **{f"{split}_images": count for split, count in counts.items()},
            }
            write_text(report / METRICS, canonical_json(metrics))
            save_png(grid(ImageShards(directory / "train").spread(SHEET_IMAGES), columns=16), report / "images.png")
    reasons = "; ".join(f"{n} {reason}" for reason, n in rejected["reason"].value_counts().items())
    log.info("%d accepted, %d rejected (%s), %d skipped", len(index), len(rejected), reasons or "none", skipped)
    log.info("%s", ", ".join(f"{count} {split}" for split, count in counts.items()))


if __name__ == "__main__":
    stage.main("preprocess", PARAMS, preprocess, __doc__)

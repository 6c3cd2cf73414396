"""Stage preprocess: validates, converts, resizes, splits and packs; every file of the input ends in exactly one place.

In: data/raw. Out: data/processed/{train,val,test}/shard-*.npy, index.parquet, rejected.csv, skipped.csv, MANIFEST.json;
reports/preprocess. The bytes of the result depend on the input and the parameters, not on the number of processes.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import preprocess_report, previous, stage
from pipeline.decoded import decoded
from pipeline.drawing import drawn
from pipeline.duplicates import NOTHING, Verdicts, groups, look
from pipeline.errors import BadDataError
from pipeline.fates import LABEL_MISSING, Fates
from pipeline.films import following
from pipeline.measures import Filters, luminance
from pipeline.paths import INDEX, Paths
from pipeline.raw import FAILED, FILES, read_failures, read_files
from pipeline.sections import image_shape
from pipeline.split import SPLITS, assign, common_root, folder_hashes, official_and_label
from vae.data import ImageShards, ShardWriter, save_following, save_labels
from vae.decode import Rules
from vae.files import HASHING_THREADS, read_manifest, replaced_directory, secured_sha256, write_manifest

PARAMS = ("base.image_size", "base.mode", "preprocess")
DECODED = "decoded-"  # how the name of the folder of this run's pixels begins
GATHERED_IMAGES = 4096  # at a time
DRAWN_BESIDE_FILES = 20_000  # from so many on: with fewer, a process that draws would take longer to start than the rest
# Files that operating systems leave behind: neither images nor worth a reason.
SYSTEM_FILE = r"(^|/)(\.[^/]*|(?i:thumbs\.db|desktop\.ini))$|(^|/)__MACOSX(/|$)"
log = logging.getLogger("pipeline.preprocess")


def rules(values: SimpleNamespace) -> tuple[Rules, Filters]:
    """How a file becomes pixels, and what the pixels must be like."""
    height, width, _ = image_shape(values.base.image_size, values.base.mode)
    own = {f.name: getattr(values.preprocess, f.name) for f in fields(Rules) if hasattr(values.preprocess, f.name)}
    limits = {f.name: getattr(values.preprocess, f.name) for f in fields(Filters)}
    return Rules(height=height, width=width, mode=values.base.mode, **own), Filters(**limits)


def _named(found: pa.Table, raw: pa.Table, section: SimpleNamespace, fates: Fates) -> pa.Table:
    """The accepted in the order of their paths, with what the source or the folders say: label and official split."""
    told = raw.drop_columns(["archive", "bytes"]).rename_columns({"sha256": "source_sha256"}).take(found["number"])
    for name in told.column_names:
        found = found.append_column(name, told[name])
    found = found.sort_by("path")
    paths = found["path"].to_pylist()
    # What lies in one split names no label: the folders above it do.
    units = [path.rpartition("/")[0] for path in paths] if section.split_by == "folder" else paths
    root = common_root(units)  # of the images alone: what else lies beside them (a README) has no say in that
    by_folder = [official_and_label(unit, root) for unit in units]
    official = [given or folder for given, (folder, _) in zip(found["split"].to_pylist(), by_folder, strict=True)]
    label = [given or folder for given, (_, folder) in zip(found["label"].to_pylist(), by_folder, strict=True)]
    found = found.set_column(found.column_names.index("label"), "label", pa.array(label, pa.string()))
    found = found.drop_columns("split").append_column("official", pa.array(official, pa.string()))
    if section.require_label and not all(label):
        for path, name, digest in zip(paths, label, found["source_sha256"].to_pylist(), strict=True):
            if not name:
                fates.reject(path, LABEL_MISSING, "preprocess.require_label is true", digest)
        found = found.filter(pa.array([bool(name) for name in label]))
    return found


def _grouped(found: pa.Table, verdicts: Verdicts) -> np.ndarray:
    """A number per image, equal for duplicates: exact ones by the hash of their pixels, near ones by what was found of them."""
    digests = found["sha256"].to_numpy(zero_copy_only=False).astype("S64")
    order = np.argsort(digests, kind="stable")
    equal = np.flatnonzero(digests[order][1:] == digests[order][:-1])
    return groups(len(digests), np.concatenate([np.stack([order[equal], order[equal + 1]], 1), verdicts.near_pairs()]))


def _looked_at(found: pa.Table, images: ImageShards, mode: str, before: Verdicts | None) -> Verdicts:
    """What is found of pairs of images, numbered as in ``found``, that may show the same."""
    places = found["place"].to_numpy()

    def light(rows: np.ndarray) -> np.ndarray:
        return luminance(images.gather(places[rows]), mode)

    return look(found["perceptual_hash"].to_numpy(), light, places, before)


def _split(found: pa.Table, group: np.ndarray, section: SimpleNamespace, fates: Fates) -> pa.Table:
    """The images that are kept, with ``split`` and ``group``; doubles of another split's images are skipped."""
    whole = folder_hashes(found["path"].to_pylist()) if section.split_by == "folder" else None
    chosen = assign(
        found["sha256"].to_pylist(), found["official"].to_pylist(), group, section.val_fraction, section.test_fraction, whole
    )
    split, left_out, names = chosen
    named = found["sha256"].take(pa.array(names))
    for i in np.flatnonzero(left_out):
        detail = f"shows what {named[int(i)].as_py()[:12]} shows, which lies in another split"
        fates.skip(found["path"][int(i)].as_py(), "duplicate_across_splits", detail)
    found = found.append_column("split", pa.array(split)).append_column("group", named)
    return found.filter(pa.array(~left_out))


def _check(found: pa.Table, fates: Fates, split_by: str) -> None:
    rejected = len(fates.rejected)
    reasons = ", ".join(f"{count} {reason}" for reason, count in fates.reasons().items())
    if not len(found):
        files = f"{rejected} files, all rejected ({reasons})" if rejected else "no files"
        raise BadDataError(f"no image found in the input: {files}; see download.path in params.yaml")
    present = set(found["split"].to_pylist())
    missing = [split for split in SPLITS if split not in present]
    if missing:
        rest = f" ({rejected} files were rejected: {reasons})" if rejected else ""
        if len({*found["group"].to_pylist()}) < len(SPLITS) <= len(found):
            raise BadDataError(f"the {len(found)} usable images all show the same{rest}: a model needs different images")
        folders = "folders (preprocess.split_by is folder; 30 are a start)"
        few = folders if split_by == "folder" else "images (about 100 are a start)"
        raise BadDataError(
            f"{len(found)} usable images leave the split {' and '.join(missing)} empty{rest}: "
            f"add {few}, or raise preprocess.val_fraction and test_fraction"
        )


def _pack(found: pa.Table, images: ImageShards, directory: Path, shard_images: int) -> tuple[pa.Table, dict[str, str]]:
    """Write each split's shards in the order of the paths; returns the index with ``shard`` and ``row``, and the hash of each file.

    A shard is hashed, and waits for the disk, while the next one is written.
    """
    parts, splits = [], found["split"].to_numpy(zero_copy_only=False)
    hashes: dict[str, Future[str]] = {}
    with ThreadPoolExecutor(HASHING_THREADS) as threads:

        def finished(shard: Path) -> None:
            hashes[shard.relative_to(directory).as_posix()] = threads.submit(secured_sha256, shard)

        for split in SPLITS:
            part = found.filter(pa.array(splits == split))
            writer, places = ShardWriter(directory / split, images.image_shape, shard_images, finished), part["place"].to_numpy()
            names, rows = [], [np.zeros(0, np.int64)]
            for start in range(0, len(places), GATHERED_IMAGES):
                name, row = writer.add_all(images.gather(places[start : start + GATHERED_IMAGES]))
                names += name
                rows.append(row)
            writer.close()
            part = part.append_column("shard", pa.array(names, pa.string()))
            parts.append(part.append_column("row", pa.array(np.concatenate(rows), pa.int64())))
        index = pa.concat_tables(parts).drop_columns("place")
        return index, {name: each.result() for name, each in hashes.items()}


def _rows(index: pa.Table, count: int) -> np.ndarray:
    """The row of the index of each of ``count`` files, by their numbers; -1 for those that are not in it."""
    row = np.full(count, -1, np.int64)
    row[index["number"].to_numpy()] = np.arange(len(index))
    return row


def _write_labels(index: pa.Table, labels: list[str], directory: Path) -> None:
    """The number of each image's label beside its shards."""
    number_N = pc.fill_null(pc.index_in(index["label"], pa.array(labels)), -1).to_numpy()
    splits = index["split"].to_numpy()
    for split in SPLITS:
        save_labels(directory / split, number_N[splits == split])


def _write_following(index: pa.Table, directory: Path) -> None:
    """Which image of its split is the next frame of each, beside the shards."""
    splits = index["split"].to_numpy()
    for split in SPLITS:
        save_following(directory / split, following(index["path"].filter(pa.array(splits == split)).to_pylist()))


def preprocess(values: SimpleNamespace, paths: Paths) -> None:
    """data/raw to data/processed, and a report of what became of every file."""
    read_manifest(paths.raw, hashes=(FILES, FAILED))  # of the archives, those that something is read from: decoded()
    section, base = values.preprocess, values.base
    how = rules(values)
    raw, fates = read_files(paths.raw), Fates()
    for path, reason, detail in read_failures(paths.raw):
        fates.reject(path, reason, detail)
    system = pc.match_substring_regex(raw["path"], SYSTEM_FILE)
    for path in raw["path"].filter(system).to_pylist():
        fates.skip(path, "system_file")
    paths.work.mkdir(parents=True, exist_ok=True)
    for left in paths.work.glob(f"{DECODED}*"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(dir=paths.work, prefix=DECODED) as temporary,
        replaced_directory(paths.processed) as directory,
        replaced_directory(paths.preprocess_report) as report,
        drawn(beside=len(raw) >= DRAWN_BESIDE_FILES) as draw,
    ):
        found, images, before = decoded(raw, np.flatnonzero(~system.to_numpy()), how, Path(temporary), fates, paths)
        if images is None:
            _check(found, fates, section.split_by)
        assert images is not None
        found = _named(found, raw, section, fates)
        files = len(raw)
        del raw  # of a million files, a few hundred MB each: these tables go when their work is done
        verdicts = NOTHING
        if len(found):
            if section.duplicates == "near":
                verdicts = _looked_at(found, images, base.mode, before)
            group = _grouped(found, verdicts)
            verdicts = verdicts.to_keep().renumbered(found["number"].to_numpy())
            found = _split(found, group, section, fates)
        _check(found, fates, section.split_by)
        draw(preprocess_report.drawings(report, found, fates, section, base.mode))
        index, known = _pack(found, images, directory, section.shard_images)
        verdicts = verdicts.renumbered(_rows(index, files))
        index = index.drop_columns("number")
        del found
        pa.default_memory_pool().release_unused()
        pq.write_table(index, directory / INDEX)
        fates.write(directory)
        labels = sorted(set(index["label"].to_pylist()) - {""})
        if labels:
            _write_labels(index, labels, directory)
        if section.split_by == "folder":
            _write_following(index, directory)
        counts = {split: index["split"].to_pylist().count(split) for split in SPLITS}
        write_manifest(
            directory,
            known=known,
            image_shape=list(how[0].shape),
            mode=base.mode,
            labels=labels,
            counts=counts,
            rules=asdict(how[0]),
        )
        preprocess_report.write(report, directory, index, fates, base.mode)
    previous.keep(paths, previous.decoding_key(*how), verdicts)
    reasons = "; ".join(f"{n} {reason}" for reason, n in fates.reasons().items())
    log.info("%d accepted, %d rejected (%s), %d skipped", len(index), len(fates.rejected), reasons or "none", len(fates.skipped))
    log.info("%s", ", ".join(f"{count} {split}" for split, count in counts.items()))


if __name__ == "__main__":
    stage.main("preprocess", PARAMS, preprocess, __doc__)

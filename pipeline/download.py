"""Stage download: brings the input, whatever its source, into data/raw, unchanged and with its hashes.

In: params ``download`` and what they name. Out: data/raw (pipeline/raw.py says what is in it).
"""

from __future__ import annotations

import gc
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from pipeline import kept, stage
from pipeline.errors import BadDataError, CannotWriteError, InputMissingError, PipelineError, UnavailableError
from pipeline.follower import Follower
from pipeline.paths import Paths
from pipeline.raw import FAILED, RawWriter
from pipeline.sources import SOURCES
from pipeline.sources.fetch import passing
from pipeline.sources.folder import length_bytes
from vae.files import replaced_directory, write_manifest

PARAMS = ("base.seed", "base.image_size", "base.mode", "download")
SPARE_BYTES = 200 * 2**20  # left free for everything that the other stages write
COLLECTED_OBJECTS = 50_000  # new ones, before cycles are looked for among them
log = logging.getLogger("pipeline.download")


def _need_room(path: Path | None, where: Path, last: kept.Kept | None) -> None:
    """CannotWriteError now rather than half-way, where the copy of what ``path`` has beside the ``last`` run's files cannot fit."""
    needed = 0
    if path is not None and path.exists():
        whole = length_bytes(path) if path.is_dir() else path.stat().st_size
        needed = max(0, whole - (last.length_bytes if last is not None else 0))
    free = shutil.disk_usage(where).free
    if free < needed + SPARE_BYTES:
        raise CannotWriteError(
            f"{where} has {free / 2**20:.0f} MiB free, {(needed + SPARE_BYTES) / 2**20:.0f} MiB are needed: free some space"
        )


@contextmanager
def _rare_collection() -> Iterator[None]:
    """Cycles are looked for rarely, and among new objects: a million records have none, and to go through all of them takes longer than to
    read them."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECTED_OBJECTS, 10, 10**6)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _nothing(path: str, writer: RawWriter) -> PipelineError:
    """The error for an input that gave no file at all."""
    if not writer.reasons:
        return InputMissingError(f"{path} holds no files: put images into it, or name another folder or archive")
    kind = UnavailableError if all(map(passing, writer.reasons)) else BadDataError
    return kind(f"nothing of {path} could be read; {writer.failures} failures, the first: {writer.first_failure}")


def download(values: SimpleNamespace, paths: Paths) -> None:
    """Fill data/raw from the source named in the parameters; whole or not at all."""
    last = kept.load(paths)
    origin = Path(values.download.path).expanduser() if values.download.source == "path" else None
    _need_room(origin, paths.root, last)
    given = SimpleNamespace(**vars(values), work=paths.work)
    with replaced_directory(paths.raw) as directory:
        with _rare_collection(), Follower(directory, last) as writer:
            SOURCES[values.download.source](given, writer)
        if not writer.files:
            raise _nothing(values.download.url if values.download.source == "remote" else values.download.path, writer)
        write_manifest(directory, known=writer.known, files=writer.files, failed=writer.failures)
    kept.keep(paths, writer.stamps)
    log.info("%d files in %s", writer.files, paths.raw)
    if writer.taken_over:
        log.info("%d files are those of the last run, %d were read", writer.taken_over, writer.files - writer.taken_over)
    if writer.failures:
        told = ", ".join(f"{count} {reason}" for reason, count in writer.reasons.most_common())
        log.warning("%d could not be brought, see %s: %s", writer.failures, paths.raw / FAILED, told)
    if any(map(passing, writer.reasons)):
        log.warning("some of these may pass: `dvc repro --force download` asks for them again, and for no other")


if __name__ == "__main__":
    stage.main("download", PARAMS, download, __doc__)

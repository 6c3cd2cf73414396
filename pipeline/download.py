"""Stage download: brings the input, whatever its source, into data/raw as one archive with its hash.

In: params ``download`` and what they name. Out: data/raw (pipeline/raw.py says what is in it).
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

from pipeline import stage
from pipeline.errors import CannotWriteError, InputMissingError
from pipeline.paths import Paths
from pipeline.raw import RawWriter
from pipeline.sources import SOURCES
from vae.files import replaced_directory, write_manifest

PARAMS = ("base.seed", "base.image_size", "base.mode", "download")
SPARE_BYTES = 200 * 2**20  # left free for everything that the other stages write
log = logging.getLogger("pipeline.download")


def _need_room(path: Path, where: Path) -> None:
    """CannotWriteError now rather than half-way, where the copy cannot fit."""
    needed = sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file()) if path.exists() else 0
    free = shutil.disk_usage(where).free
    if free < needed + SPARE_BYTES:
        raise CannotWriteError(
            f"{where} has {free / 2**20:.0f} MiB free, {(needed + SPARE_BYTES) / 2**20:.0f} MiB are needed for {path}: free some space"
        )


def download(values: SimpleNamespace, paths: Paths) -> None:
    """Fill data/raw from the source named in the parameters; whole or not at all."""
    _need_room(Path(values.download.path).expanduser(), paths.root)
    with replaced_directory(paths.raw) as directory:
        with RawWriter(directory) as writer:
            SOURCES[values.download.source](values, writer)
        if not writer.files + writer.failures:
            raise InputMissingError(f"{values.download.path} holds no files: put images into it, or name another folder or archive")
        write_manifest(directory, files=writer.files, failed=writer.failures)
    log.info("%d files in %s, %d could not be read", writer.files, paths.raw, writer.failures)


if __name__ == "__main__":
    stage.main("download", PARAMS, download, __doc__)

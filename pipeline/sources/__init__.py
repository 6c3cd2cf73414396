"""Where images come from: a source is one file and one line. Each packs its images into one zip, which DVC handles fastest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from pipeline.sources import path, sprites

# source(values, destination): write images.zip (and factors.parquet where known) into the folder ``destination``.
SOURCES: dict[str, Callable[[SimpleNamespace, Path], dict]] = {"sprites": sprites.pack, "path": path.pack}

"""Where images come from: a source is one file and one line."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from pipeline.raw import RawWriter
from pipeline.sources import catalogue, digits, manifest, moving_sprites, path, remote, sprites

# source(values, writer): hand every file of the input to the writer, in an order that depends on the input alone. ``values`` are
# the stage's parameters and ``work``, a folder that is kept between runs.
SOURCES: dict[str, Callable[[SimpleNamespace, RawWriter], None]] = {
    "sprites": sprites.pack,
    "path": path.pack,
    "digits": digits.pack,
    "manifest": manifest.pack,
    "catalogue": catalogue.pack,
    "remote": remote.pack,
    "moving_sprites": moving_sprites.pack,
}

"""Rendered clips: one of the embedded set's shapes moves, turns and grows evenly from one random state to another."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd

from pipeline.console import progress
from pipeline.raw import RawWriter
from pipeline.sources.sprites import SHAPES, as_png, draw_factors, render

FRAMES = 17  # of a clip: 16 steps, so that halves, quarters and eighths of the way are frames
MOVED = ("scale", "orientation", "x", "y")


def motion(first: pd.Series, last: pd.Series) -> pd.DataFrame:
    """The factors of a clip's frames: those of ``MOVED`` go evenly from the first to the last, the others stay."""
    way = np.linspace(0, 1, FRAMES)
    moved = {name: first[name] + way * (last[name] - first[name]) for name in MOVED}
    return pd.DataFrame({name: moved.get(name, np.full(FRAMES, first[name])) for name in first.index})


def pack(values: SimpleNamespace, writer: RawWriter) -> None:
    """Render about ``download.sprite_images`` frames as PNGs named clip/number, with their factors."""
    size, colour = values.base.image_size, values.base.mode == "RGB"
    clips = -(-values.download.sprite_images // FRAMES)
    ends = draw_factors(2 * clips, values.base.seed, colour)
    for clip in progress(range(clips), clips, "clips", "rendering"):
        factors = motion(ends.iloc[2 * clip], ends.iloc[2 * clip + 1])
        for number, (image, row) in enumerate(zip(render(factors, size, colour), factors.to_dict("records"), strict=True)):
            name = f"{SHAPES[int(row['shape'])]}/{clip:05d}/{number:02d}.png"
            writer.add(name, as_png(image), **{str(key): value for key, value in row.items()})

"""The embedded data set, rendered here in the way of dSprites (Matthey et al. 2017): one shape on black, known factors.

Shape (square, ellipse, heart), scale, orientation, x and y; in colour also hue. Every factor is drawn independently and
uniformly, and kept beside the images, so that disentanglement can be measured against the truth.
"""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.console import progress
from pipeline.raw import RawWriter

SHAPES = ("square", "ellipse", "heart")
OVERSAMPLING = 4  # points per pixel side; their average is the antialiased coverage
CHUNK_IMAGES = 100
SCALES = (0.5, 1.0)  # of the largest sprite
ORIENTATIONS = (-0.125, 0.125)  # turns: one period of the square, so that no shape has two names for one picture
LARGEST_RADIUS = 0.27  # of the picture's side
MARGIN = 1.15  # radii that every centre keeps from the border: no sprite leaves the picture
HUES = (0.0, 0.75)  # red to violet, not closing the circle, so that hue is a line and not a loop


def draw_factors(count: int, seed: int, colour: bool) -> pd.DataFrame:
    """One row of independent uniform factors per image; positions are in units of the free range [0, 1]."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x5B]))
    factors = {
        "shape": rng.integers(0, len(SHAPES), count),
        "scale": rng.uniform(*SCALES, count),
        "orientation": rng.uniform(*ORIENTATIONS, count),  # in turns, clockwise
        "x": rng.uniform(0, 1, count),
        "y": rng.uniform(0, 1, count),
        "hue": rng.uniform(*HUES, count) if colour else np.zeros(count),
    }
    if not colour:
        del factors["hue"]
    return pd.DataFrame(factors)


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether points (u, v), in units of the sprite's radius, lie in the shape."""
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) < 0.8
    if shape == "ellipse":
        return u * u + (v * v) * (1 / 0.55**2) < 1
    p2, q = (u * 1.25) ** 2, v * -1.2 + 0.1  # the sextic heart curve, centred and scaled to the radius
    q2 = q * q
    ring = p2 + q2 - 1
    return ring * ring * ring < p2 * q2 * q


def _coverage(shape: str, factors: pd.DataFrame, size: int) -> np.ndarray:
    """float32 (N, size, size): the share of each pixel that lies in the sprite, from OVERSAMPLING squared points."""
    column = {name: factors[name].to_numpy(np.float32)[:, None, None] for name in ("scale", "orientation", "x", "y")}
    points = (np.arange(size * OVERSAMPLING, dtype=np.float32) + 0.5) / (size * OVERSAMPLING)
    radius = LARGEST_RADIUS * column["scale"]
    margin = MARGIN * LARGEST_RADIUS
    centre_x, centre_y = (margin + column[axis] * (1 - 2 * margin) for axis in "xy")
    dx, dy = (points[None, None, :] - centre_x) / radius, (points[None, :, None] - centre_y) / radius
    angle = 2 * np.pi * column["orientation"]
    u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    inside = _inside(shape, u, v).view(np.uint8)
    rows = inside.reshape(len(factors), size, OVERSAMPLING, size * OVERSAMPLING).sum(2, dtype=np.uint8)
    return rows.reshape(len(factors), size, size, OVERSAMPLING).sum(3, dtype=np.uint8) / np.float32(OVERSAMPLING**2)


def render(factors: pd.DataFrame, size: int, colour: bool) -> np.ndarray:
    """uint8 (N, size, size, 3 or 1) pictures of the factors, in their order."""
    coverage = np.empty((len(factors), size, size), np.float32)
    shapes = factors["shape"].to_numpy()
    for number, shape in enumerate(SHAPES):
        if (shapes == number).any():
            coverage[shapes == number] = _coverage(shape, factors[shapes == number], size)
    levels = coverage[..., None] * 255
    if colour:
        levels = levels * _hue_to_rgb(factors["hue"].to_numpy()).astype(np.float32)[:, None, None, :]
    return np.round(levels).astype(np.uint8)


def _hue_to_rgb(hue: np.ndarray) -> np.ndarray:
    """Fully saturated colours (N, 3) in [0, 1] of hues in turns (HSV with S = V = 1)."""
    offsets = (hue[:, None] * 6 + np.array([5, 3, 1])) % 6
    return 1 - np.clip(np.minimum(offsets, 4 - offsets), 0, 1)


def as_png(image_HWC: np.ndarray) -> bytes:
    """A rendered picture as a file."""
    buffer = io.BytesIO()
    Image.fromarray(image_HWC[..., 0] if image_HWC.shape[2] == 1 else image_HWC).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def pack(values: SimpleNamespace, writer: RawWriter) -> None:
    """Render ``download.sprite_images`` pictures as PNGs named shape/number, with their factors."""
    count, size, colour = values.download.sprite_images, values.base.image_size, values.base.mode == "RGB"
    factors = draw_factors(count, values.base.seed, colour)
    names = [f"{SHAPES[shape]}/{number:07d}.png" for number, shape in enumerate(factors["shape"])]
    starts = range(0, count, CHUNK_IMAGES)
    for start in progress(starts, len(starts), "chunks", "rendering"):
        chunk = factors.iloc[start : start + CHUNK_IMAGES]
        for name, image, row in zip(names[start:], render(chunk, size, colour), chunk.to_dict("records"), strict=False):
            writer.add(name, as_png(image), **row)

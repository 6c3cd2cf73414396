"""How small a model that can compress makes test images, beside JPEG at the same PSNR and beside lossless formats. N images."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.plots import draw_rate_distortion
from pipeline.rate_distortion import Point, bd_rate, jpegs, lossless_bytes
from pipeline.scores import Scores
from vae.artefact import Generator
from vae.compress import Compressed, compress, compress_lossless
from vae.data import ImageShards
from vae.metrics.terms import mean_psnr_db
from vae.pictures import grid, save_png

TABLE, CURVE, PICTURE = "codec.csv", "codec.png", "codec-pictures.png"
IMAGES, SHOWN = 512, 12
DEVIATIONS = (0.5, 1.0, 2.0, 3.5, 5.0, 7.0, 10.0, 14.0)  # steps of quantisation
OURS = "ours"
log = logging.getLogger("pipeline.codec_scores")


def write(generator: Generator, test: ImageShards, report: Path) -> Scores:
    """The table, curve and pictures, and as scores the Bjontegaard rate and the lossless sizes; nothing of a model without tables."""
    if generator.tables is None:
        return {}
    images = test.spread(IMAGES)
    mode = generator.contract["mode"]
    log.info("%d test images compressed in %d steps", len(images), len(DEVIATIONS))
    found = {deviations: compress(generator, images, deviations) for deviations in DEVIATIONS}
    curves = {OURS: [point(deviations, [each], images) for deviations, each in found.items()]} | jpegs(images, mode)
    rows = [{"coder": name, **vars(point)} for name, points in curves.items() for point in points]
    scores: Scores = {"codec_bd_rate_percent": _worst(curves)}
    scores |= _lossless(generator, images, mode)
    rows += [
        {"coder": name.removeprefix("codec_").removesuffix("_bytes"), "file_bytes": value}
        for name, value in scores.items()
        if name.endswith("_bytes")
    ]
    pd.DataFrame(rows).to_csv(report / TABLE, index=False)
    draw_rate_distortion(curves, report / CURVE)
    shown = [images[:SHOWN], *(found[deviations].images_NHWC[:SHOWN] for deviations in DEVIATIONS[3::2])]
    save_png(grid(np.concatenate(shown), columns=min(SHOWN, len(images)), mode=mode), report / PICTURE)
    return scores


def point(deviations: float, files: list[Compressed], images_NHWC: np.ndarray) -> Point:
    """What so coarse a step makes of images that are compressed in one file or in several."""
    file_bytes, count = sum(len(each.container.pack()) for each in files), len(images_NHWC)
    psnr = mean_psnr_db(np.concatenate([each.images_NHWC for each in files]), images_NHWC)
    return Point(deviations, sum(each.container.payload_bytes for each in files) / count, file_bytes / count, psnr)


def _worst(curves: dict[str, list[Point]]) -> float | None:
    """Against the better JPEG, where there are two."""
    found = [bd_rate(*_axes(curves[OURS]), *_axes(points)) for name, points in curves.items() if name != OURS]
    return max((each for each in found if each is not None), default=None)


def _axes(points: list[Point]) -> tuple[list[float], list[float]]:
    return [point.payload_bytes for point in points], [point.psnr_db for point in points]


def _lossless(generator: Generator, images_NHWC: np.ndarray, mode: str) -> Scores:
    """Bytes of a picture: in one file of ours with all of them, and as PNG and WebP."""
    if generator.model.likelihood.binary:
        return {}
    ours = compress_lossless(generator, images_NHWC)
    others = lossless_bytes(images_NHWC, mode) if mode in ("L", "RGB", "RGBA") else {}
    count = len(images_NHWC)
    return {
        "codec_lossless_bytes": len(ours.container.pack()) / count,
        "codec_bound_bytes": ours.estimated_bits / 8 / count,
        **{f"codec_{name}_bytes": value for name, value in others.items()},
    }

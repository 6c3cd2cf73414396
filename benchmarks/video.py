"""Frames between frames: ``python -m benchmarks.video`` writes docs/results/video.json and a picture.

Rendered clips (1,200 to train on, 150 to judge by; seventeen frames each), 100,000 images seen,
by recipes/video.yaml, with several weights of the smoothness term; medians of three seeds. Of the frame in the middle between two that
lie 2, 4, 8 or 16 steps apart: PSNR of a cross-fade, of vae/inbetween.py, of what the model alone draws, and of what it makes of the frame
itself.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks import recipe, tables
from benchmarks.case import shards
from benchmarks.rows import RESULTS, measure
from pipeline import film_scores
from pipeline.films import following
from pipeline.sources.moving_sprites import FRAMES, motion
from pipeline.sources.sprites import draw_factors, render
from pipeline.train import Choice, configs
from vae.artefact import Generator
from vae.data import ImageShards, save_following
from vae.samplers import fit_prior
from vae.trainer import fit

CLIPS = {"train": 1200, "val": 60, "test": 150}
WEIGHTS, SEEDS, IMAGES, REPORT = (0.0, 100.0), (0, 1, 2), 100_000, 50_000


def _films(folder: Path, size: int) -> dict[str, ImageShards]:
    """Each split's clips as shards that know which frame follows which."""
    ends, found, first = draw_factors(2 * sum(CLIPS.values()), 0, colour=False), dict[str, ImageShards](), 0
    for split, count in CLIPS.items():
        clips = range(first, first + count)
        frames = [render(motion(ends.iloc[2 * clip], ends.iloc[2 * clip + 1]), size, colour=False) for clip in clips]
        shards(folder / split, np.concatenate(frames))
        save_following(folder / split, following([f"{clip}/{frame}" for clip in clips for frame in range(FRAMES)]))
        found[split] = ImageShards(folder / split)
        first += count
    return found


def _measured(folder: Path, sets: dict[str, ImageShards], weight: float, seed: int) -> tuple[pd.DataFrame, float]:
    """PSNR by gap and way of one training, and its bound."""
    values = recipe.values("video")
    choice = Choice(values.train.beta, values.train.latent_dim, replace(values.fit, smoothness=weight))
    model_config, config = configs(values, sets["train"].image_shape, choice, classes=0)
    config = replace(config, seed=seed, total_images=IMAGES, validate_every_images=REPORT)
    bounds: list[float] = []
    fitted = fit(model_config, config, sets["train"], sets["val"], on_report=lambda told, _: bounds.append(told["val_elbo_nats"]))
    prior = fit_prior(fitted.model, sets["val"].slice(0, 64), replace(values.fit.prior_config, name="normal"), 0)
    generator = Generator(fitted.model, model_config, prior, {"mode": "L"})
    film_scores.write(generator, sets["test"], folder)
    return pd.read_csv(folder / film_scores.TABLE), bounds[-1]


def _row(folder: Path) -> dict[str, Any]:
    sets, found, begun = _films(folder, 32), dict[str, Any](), time.monotonic()
    for weight in WEIGHTS:
        runs = [_measured(folder, sets, weight, seed) for seed in SEEDS]
        medians = pd.concat([table for table, _ in runs]).groupby(["gap", "way"])["psnr_db"].median()
        found[f"{weight:g}"] = {
            "psnr_db": {
                str(gap): {way: round(float(medians[gap, way]), 2) for way in medians[gap].index} for gap in film_scores.GAPS
            },
            "val_elbo_nats": round(statistics.median(bound for _, bound in runs), 1),
        }
        print(weight, found[f"{weight:g}"], flush=True)
        if weight == WEIGHTS[1]:
            (RESULTS / "video.png").write_bytes((folder / film_scores.PICTURE).read_bytes())
    return {"weights": found, "clips": CLIPS["test"], "images": IMAGES, "seconds": round(time.monotonic() - begun)}


def main() -> None:
    """Measure, then write the table."""
    torch.set_num_threads(2)
    measure("video", {"moving sprites": _row}, __doc__ or "")
    tables.write()


if __name__ == "__main__":
    main()

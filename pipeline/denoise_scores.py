"""How much noise a model that was trained for it takes away, beside doing nothing and two classical filters. N images.

Noise of known strength is added to test images, which are cut off and rounded as files are (vae/corruption.py). Each filter has the
width that suits these very images best, so that it is not the width that is compared.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from pipeline.scores import Scores
from vae.artefact import Generator
from vae.corruption import noisy
from vae.data import ImageShards
from vae.denoise import averaged, trained_levels
from vae.metrics.terms import mean_psnr_db
from vae.pictures import grid, save_png

TABLE, PICTURE = "denoise.csv", "denoise.png"
IMAGES, SHOWN, STRENGTHS = 500, 16, (0.25, 0.5, 1.0)  # of the strongest noise of the training
GAUSSIAN_PIXELS, MEDIAN_PIXELS = (0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0), (3, 5, 7)
Filter = Callable[[np.ndarray], np.ndarray]
log = logging.getLogger("pipeline.denoise_scores")


def filters() -> dict[str, list[Filter]]:
    """Each classical way, once for each of its widths."""

    def gaussian(sigma: float) -> Filter:
        return lambda x_NHWC: ndimage.gaussian_filter(x_NHWC.astype(np.float64), (0, sigma, sigma, 0)).round().astype(np.uint8)

    def median(size: int) -> Filter:
        return lambda x_NHWC: ndimage.median_filter(x_NHWC, (1, size, size, 1))

    return {"gaussian": [gaussian(s) for s in GAUSSIAN_PIXELS], "median": [median(s) for s in MEDIAN_PIXELS]}


def best_of(ways: list[Filter], noisy_NHWC: np.ndarray, clean_NHWC: np.ndarray) -> np.ndarray:
    """What the best of them makes of the images."""
    return max((way(noisy_NHWC) for way in ways), key=lambda found_NHWC: mean_psnr_db(found_NHWC, clean_NHWC))


def write(generator: Generator, test: ImageShards, seed: int, report: Path) -> Scores:
    """The table, the picture, and as scores those of the strongest noise; nothing of a model that was not trained for it."""
    most = trained_levels(generator)
    if not most:
        return {}
    clean, label_N = test.labelled(IMAGES)
    log.info("noise of up to %g levels taken from %d test images", most, len(clean))
    rows, found = [], dict[str, np.ndarray]()
    for levels in (share * most for share in STRENGTHS):
        seen = noisy(clean, levels, seed)
        found = {"input": seen} | {name: best_of(ways, seen, clean) for name, ways in filters().items()}
        found |= {"mean": generator.reconstruct(seen, label_N), "model": averaged(generator, seen, label_N=label_N)}
        rows += [{"levels": levels, "way": way, "psnr_db": mean_psnr_db(images, clean)} for way, images in found.items()]
    table = pd.DataFrame(rows)
    table.to_csv(report / TABLE, index=False)
    shown = np.concatenate([each[:SHOWN] for each in (clean, found["input"], found["gaussian"], found["model"])])
    save_png(grid(shown, columns=min(SHOWN, len(clean)), mode=generator.contract["mode"]), report / PICTURE)
    last = table[table["levels"] == most].set_index("way")["psnr_db"]
    return {
        "denoise_psnr_db": float(last["model"]),
        "denoise_input_psnr_db": float(last["input"]),
        "denoise_filter_psnr_db": float(last[list(filters())].max()),
    }

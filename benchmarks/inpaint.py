"""How well missing parts are drawn: ``python -m benchmarks.inpaint`` after ``make run`` writes docs/results/inpaint.json and a picture.

Of test images a square in the middle, the left half, or three pixels of four (at random) are taken away. Error of the missing pixels
alone, as PSNR over all images: by ``vae inpaint``, by what the encoder makes of the picture with its hole filled evenly, by the even
filling, and by the mean of the pixels around each missing one, again and again (Laplace's equation).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from benchmarks import tables
from benchmarks.machine import machine
from benchmarks.rows import RESULTS, result
from pipeline.paths import Paths
from vae.artefact import load_artefact
from vae.data import ImageShards
from vae.files import canonical_json, write_text
from vae.inpaint import inpainted
from vae.pictures import grid, save_png

IMAGES, SHOWN, SWEEPS = 200, 8, 2000


def _masks(height: int, width: int) -> dict[str, np.ndarray]:
    square, half = np.zeros((height, width), bool), np.zeros((height, width), bool)
    square[height // 4 : -height // 4, width // 4 : -width // 4] = True
    half[:, : width // 2] = True
    return {"square": square, "half": half, "three of four": np.random.default_rng(0).random((height, width)) < 0.75}


def _even(images_NHWC: np.ndarray, missing_HW: np.ndarray) -> np.ndarray:
    known = ~missing_HW[None, ..., None]
    return np.where(known, images_NHWC, (images_NHWC * known).sum((1, 2), keepdims=True) / known.sum()).round().astype(np.uint8)


def _laplace(images_NHWC: np.ndarray, missing_HW: np.ndarray) -> np.ndarray:
    known, x = ~missing_HW[None, ..., None], _even(images_NHWC, missing_HW).astype(float)
    for _ in range(SWEEPS):
        wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        around = (wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:]) / 4
        x = np.where(known, images_NHWC, around)
    return x.round().astype(np.uint8)


def _psnr_db(found_NHWC: np.ndarray, truth_NHWC: np.ndarray, missing_HW: np.ndarray) -> float:
    error = (found_NHWC.astype(float) - truth_NHWC)[:, missing_HW]
    return round(10 * math.log10(255**2 / float(np.square(error).mean())), 2)


def main() -> None:
    """Measure the last run's model."""
    torch.set_num_threads(1)
    paths = Paths.here()
    generator, test = load_artefact(paths.model), ImageShards(paths.processed / "test")
    images = test.spread(IMAGES)
    shown, found, rows = np.linspace(0, IMAGES - 1, SHOWN).round().astype(int), {}, [images]
    for name, missing in _masks(*images.shape[1:3]).items():
        even = _even(images, missing)
        drawn = inpainted(generator, images, np.broadcast_to(missing, images.shape[:3]))
        ways: dict[str, np.ndarray] = {
            "inpaint": drawn,
            "encoder": generator.reconstruct(even),
            "laplace": _laplace(images, missing),
            "even": even,
        }
        found[name] = {way: _psnr_db(pictures, images, missing) for way, pictures in ways.items()}
        rows += [np.where(missing[None, ..., None], np.uint8(128), images), drawn]
        print(name, found[name], flush=True)
    told: dict[str, Any] = {"psnr_db": found, "images": IMAGES, "machine": machine()}
    write_text(result("inpaint"), canonical_json(told))
    picture = grid(np.concatenate([each[shown] for each in rows]), columns=SHOWN, mode=generator.contract["mode"])
    save_png(picture, RESULTS / "inpaint.png")
    tables.write()


if __name__ == "__main__":
    main()

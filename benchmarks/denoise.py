"""How much noise is taken away: ``python -m benchmarks.denoise`` writes docs/results/denoise.json and two pictures for each set.

``mnist``: noise of half the range (127.5 levels) on the handwritten digits; ``cifar10``: of 25 levels on colour pictures (a JPEG copy of
the set). A model is trained by recipes/denoise.yaml on the training images, for noise of up to a tenth more, and judged on 1,000
test images, whose noisy copies are cut off and rounded as files are; beside it a Gaussian, a median and non-local means (scikit-image),
each with the settings that suit these images best.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks import recipe, tables
from benchmarks.case import DATA, bordered, shards, unpacked
from benchmarks.rows import RESULTS, measure
from pipeline.denoise_scores import Filter, best_of, filters
from pipeline.plots import ACCENT, INK, save, subplots
from pipeline.train import Choice, configs
from vae.artefact import Generator
from vae.corruption import noisy
from vae.denoise import averaged
from vae.metrics.terms import mean_psnr_db
from vae.models.base import VAE
from vae.pictures import grid, save_png
from vae.samplers import fit_prior
from vae.trainer import fit

SIGMAS, STRONGER, JUDGED, VALIDATED, SHOWN, REPORT = {"mnist": 127.5, "cifar10": 25.0}, 1.1, 1000, 500, 12, 20_000
NAMED = {
    "input": "the input",
    "gaussian": "Gaussian",
    "median": "median",
    "nl_means": "non-local means",
    "mean": "ours, one pass",
    "model": "ours, mean of 16",
}


def _non_local(sigma: float) -> list[Filter]:
    """Non-local means with every setting that is tried; each is told the noise that there really is."""
    from skimage.restoration import denoise_nl_means

    def way(patch: int, reach: int, strength: float) -> Filter:
        def applied(image_HWC: np.ndarray) -> np.ndarray:
            image, axis = (image_HWC[..., 0], None) if image_HWC.shape[2] == 1 else (image_HWC, 2)
            found = denoise_nl_means(image / 255, patch, reach, strength * sigma / 255, sigma=sigma / 255, channel_axis=axis)
            return found.reshape(image_HWC.shape)

        return lambda x_NHWC: (np.stack([applied(image) for image in x_NHWC]) * 255).round().clip(0, 255).astype(np.uint8)

    return [way(*setting) for setting in itertools.product((3, 5), (5, 9), (0.5, 0.7, 0.9))]


def _images(data: str) -> tuple[np.ndarray, np.ndarray]:
    """Training and test images at 32x32 pixels, MNIST with a black border; each in an order of its own."""
    names, images = unpacked(data)
    images = bordered(images)
    training, order = np.array([name.startswith("train") for name in names]), np.random.default_rng(0).permutation(len(images))
    return images[order[training[order]]], images[order[~training[order]]]


def _row(data: str, folder: Path) -> dict[str, Any]:
    sigma, (training, test), mode = SIGMAS[data], _images(data), DATA[data][1]
    clean = test[:JUDGED]
    seen, curve = noisy(clean, sigma, 0), dict[int, float]()
    classical = filters() | {"nl_means": _non_local(sigma)}
    found = {"input": seen} | {name: best_of(ways, seen, clean) for name, ways in classical.items()}
    values = _values(sigma * STRONGER)
    choice = Choice(values.train.beta, values.train.latent_dim, values.fit)
    model_config, config = configs(values, clean.shape[1:], choice, classes=0)
    config = replace(config, validate_every_images=REPORT)

    def generator(model: VAE) -> Generator:
        prior = fit_prior(model, clean[:64], values.fit.prior_config, 0)  # N(0, I), which nothing here draws of
        return Generator(model, model_config, prior, {"mode": mode, "denoise_levels": values.fit.denoise_levels})

    def look(told: dict[str, float], model: VAE) -> None:
        curve[int(told["images"])] = round(mean_psnr_db(generator(model).reconstruct(seen), clean), 2)
        print(data, told["images"], curve[int(told["images"])], flush=True)

    sets = shards(folder / "train", training), shards(folder / "val", test[JUDGED : JUDGED + VALIDATED])
    begun = time.monotonic()
    trained = generator(fit(model_config, config, *sets, on_report=look).model)
    seconds = time.monotonic() - begun
    found |= {"mean": trained.reconstruct(seen), "model": averaged(trained, seen)}
    scores = {way: round(mean_psnr_db(images, clean), 2) for way, images in found.items()}
    shown = np.concatenate([each[:SHOWN] for each in (clean, seen, found["nl_means"], found["model"])])
    save_png(grid(shown, columns=SHOWN, mode=mode), RESULTS / f"denoise-{data}.png")
    _draw(data, curve, scores)
    return {
        "sigma_levels": sigma, "psnr_db": scores, "psnr_db_by_images_seen": curve, "images": JUDGED,
        "trained_seconds": round(seconds), "trained_images": config.total_images,
    }  # fmt: skip


def _values(levels: float) -> SimpleNamespace:
    """The parameters with the recipe's, for noise of up to ``levels``."""
    values = recipe.values("denoise")
    values.fit = replace(values.fit, denoise_levels=levels)
    return values


def _draw(data: str, curve: dict[int, float], scores: dict[str, float]) -> None:
    """PSNR over the images that the training has seen; the other ways as lines."""
    figure, axes = subplots(6, 3)
    axes.plot(list(curve), list(curve.values()), marker="o", markersize=3, color=ACCENT, label=NAMED["mean"])
    for way, style in (("nl_means", "--"), ("gaussian", ":"), ("input", "-.")):
        axes.axhline(scores[way], color=INK, linestyle=style, linewidth=1, label=NAMED[way])
    axes.set_xlabel("images seen in training")
    axes.set_ylabel("PSNR, dB")
    axes.legend(fontsize=8)
    save(figure, RESULTS / f"denoise-{data}-curve.png")


ROWS = {data: partial(_row, data) for data in SIGMAS}

if __name__ == "__main__":
    measure("denoise", ROWS, __doc__)
    tables.write()

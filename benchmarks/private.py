"""What a private model is worth: ``python -m benchmarks.private`` writes docs/results/private.json, and pictures.

MNIST at 28x28 pixels, 60,000 training images, the network and training of recipes/private.yaml, for epsilon 10, 1 and none (the same
without cut, noise and Poisson samples); and the same network trained as suits it where nothing is to be hidden (``free``). A
classifier is trained on 20,000 images that the model draws, of all labels equally many, and judged on the 10,000 real test images;
beside it the same classifier trained on real ones. An attacker who holds the model guesses by the bound of an image whether it was
trained on: the area under his curve, 0.5 being chance.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from benchmarks import recipe, tables
from benchmarks.case import shards, unpacked
from benchmarks.rows import RESULTS, measure
from pipeline.train import Choice, configs
from vae.artefact import Generator
from vae.data import ImageShards, save_labels
from vae.extractor import ExtractorConfig, train_extractor
from vae.pictures import grid, save_png
from vae.private import spent
from vae.samplers import fit_to
from vae.trainer import fit

EPSILONS, DRAWN, ATTACKED, CLASSES, VALIDATED = (10.0, 1.0, 0.0), 20_000, 10_000, 10, 500
TRAINED_IMAGES, REPORT = 600_000, 120_000
FREE = {"global_batch_size": 128, "learning_rate": 0.003, "ema_decay": 0.999}
FREE_IMAGES, FREE_BETA = 1_200_000, 1.0
CLASSIFIER = {"total_images": 100_000, "batch_size": 64, "peak_learning_rate": 2e-3, "seed": 0}


def _labelled(folder: Path, images: np.ndarray, labels: np.ndarray) -> ImageShards:
    shards(folder, images)
    save_labels(folder, labels)
    return ImageShards(folder)


def _accuracy(training: ImageShards, labels: np.ndarray, test: tuple[np.ndarray, np.ndarray]) -> float:
    """Of a classifier trained on the one and judged on the other."""
    config = ExtractorConfig(channels=1, width=16, feature_dim=64, classes=CLASSES, task="labels")
    network, _ = train_extractor(config, training, labels, **CLASSIFIER)
    return float((network.told(test[0]).numpy() == test[1]).mean())


def _row(epsilon: float, name: str, folder: Path, free: bool = False) -> dict[str, Any]:
    names, images = unpacked("mnist")
    labels = np.array([int(name.split("/")[1]) for name in names])
    member = np.array([name.startswith("train") for name in names])
    order = np.random.default_rng(0).permutation(np.flatnonzero(member))
    test = images[~member], labels[~member]
    training = _labelled(folder / "train", images[order], labels[order])
    values = recipe.values("private")
    values.train = replace(values.train, epsilon=epsilon, total_images=TRAINED_IMAGES)
    if free:
        values.fit = replace(values.fit, **FREE)
        values.train = replace(values.train, total_images=FREE_IMAGES, beta=FREE_BETA)
    choice = Choice(values.train.beta, values.train.latent_dim, values.fit)
    model_config, config = configs(values, images.shape[1:], choice, classes=CLASSES)
    config = replace(config, validate_every_images=REPORT, checkpoint_every_images=2**40)
    told: list[dict[str, float]] = []

    def look(report: dict[str, float], _: Any) -> None:
        told.append(report)
        print(name, report["images"], round(report["val_elbo_nats"], 1), flush=True)

    begun = time.monotonic()
    model = fit(
        model_config, config, training, _labelled(folder / "val", *(each[:VALIDATED] for each in test)), on_report=look
    ).model
    seconds = time.monotonic() - begun
    label_N = torch.arange(DRAWN) % CLASSES
    prior = fit_to(torch.zeros(DRAWN, model.latent_dim), values.fit.prior_config, 0, CLASSES, label_N)
    generator = Generator(model, model_config, prior, {})
    drawn = generator.sample(DRAWN, 0, label_N=label_N)
    save_png(grid(drawn[: CLASSES**2], columns=CLASSES), RESULTS / f"private-{name}.png")
    inside = generator.bound(images[order[:ATTACKED]], torch.from_numpy(labels[order[:ATTACKED]])).numpy()
    outside = generator.bound(test[0][:ATTACKED], torch.from_numpy(test[1][:ATTACKED])).numpy()
    guess = roc_auc_score(np.repeat([1, 0], [len(inside), len(outside)]), np.concatenate([inside, outside]))
    found = {
        "accuracy_of_drawn": _accuracy(_labelled(folder / "drawn", drawn, label_N.numpy()), label_N.numpy(), test),
        "val_elbo_nats": told[-1]["val_elbo_nats"],
        "membership_auc": float(guess),
        "trained_seconds": round(seconds),
        "trained_images": config.total_images,
        "privacy": spent(config, len(training)) if epsilon else None,
    }
    if free:
        real = _labelled(folder / "real", images[order[:DRAWN]], labels[order[:DRAWN]])
        found["accuracy_of_real"] = _accuracy(real, labels[order[:DRAWN]], test)
    return found


ROWS = {f"epsilon {epsilon:g}" if epsilon else "without": partial(_row, epsilon, f"{epsilon:g}") for epsilon in EPSILONS}
ROWS["free"] = partial(_row, 0.0, "free", free=True)

if __name__ == "__main__":
    measure("private", ROWS, __doc__)
    tables.write()

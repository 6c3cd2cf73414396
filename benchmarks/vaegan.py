"""What a critic is worth: ``python -m benchmarks.vaegan [--minutes M]`` writes docs/results/vaegan.json, and pictures.

CIFAR-10 at 32x32 pixels: the same network in batches of 32, once by its likelihood alone and once with the critic of
recipes/vaegan.yaml, each as long by the clock, three seeds. FCD of 10,000 samples and of reconstructed test images against the training
split, seen through two extractors of different architecture and seed, which neither training knows; the floor is what the test images
score.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import recipe, tables
from benchmarks.budget import data, train_for
from benchmarks.quality import LATENT_DIM, SAMPLES, TWO_CORES, extractors, model_of, scores
from benchmarks.rows import RESULTS, measure
from vae.artefact import Generator
from vae.config import PriorConfig
from vae.data import ImageShards
from vae.metrics.frechet import moments
from vae.metrics.terms import mean_psnr_db
from vae.pictures import grid, save_png
from vae.samplers import fit_prior

SEEDS, MINUTES, THREADS = (0, 1, 2), 3.0, 2
BOTH = {"global_batch_size": 32, "learning_rate": 1e-3}  # of short trainings small batches are better for both
PRIOR = PriorConfig(name="mixture", mixture_components=128, hidden_units=128, steps=5000)
KEYS = ("adversary_weight", "adversary_start_share", "feature_weight", "critic_width", "critic_learning_rate")
SHOWN = 16


def _trained(splits: dict[str, ImageShards], minutes: float, **changes: Any) -> tuple[Generator, dict[str, Any]]:
    train = splits["train"]
    model = model_of("conv", "gaussian", train.image_shape, LATENT_DIM["cifar10"], TWO_CORES)
    fitted, facts = train_for(minutes, model, splits, **BOTH, **changes)
    prior = fit_prior(fitted.model, train.spread(20_000), PRIOR, 0)
    return Generator(fitted.model, model, prior, {}), facts


def _row(folder: Path, minutes: float) -> dict[str, Any]:
    torch.set_num_threads(THREADS)
    splits, fit = data("cifar10"), recipe.values("vaegan").fit
    train, test = splits["train"], splits["test"].slice(0, len(splits["test"]))
    critic = {key: getattr(fit, key) for key in KEYS}
    networks = extractors("cifar10", splits)
    features = {key: network.features(train.slice(0, len(train))) for key, network in networks.items()}
    of_real = {key: moments(every) for key, every in features.items()}

    def judged(images: np.ndarray) -> dict[str, dict[str, float]]:
        return {key: scores(images, network, features[key], of_real[key]) for key, network in networks.items()}

    found: dict[str, Any] = {"real test images": judged(test), "ways": {}, "minutes": minutes, "critic": critic}
    for way, changes in (("likelihood alone", {}), ("with critic", critic)):
        rows, shown = [], []
        for seed in SEEDS:
            generator, facts = _trained(splits, minutes, seed=seed, **changes)
            drawn, copied = generator.sample(SAMPLES, seed), generator.reconstruct(test)
            rows.append(facts | {
                "samples": judged(drawn), "reconstructions": judged(copied), "psnr_db": mean_psnr_db(copied, test),
                "elbo_nats": float(generator.bound(test[:2000]).mean()),
            })  # fmt: skip
            shown.append(drawn[:SHOWN])
            print(way, seed, rows[-1]["samples"], flush=True)
        shown += [test[:SHOWN], copied[:SHOWN]]
        save_png(grid(np.concatenate(shown), columns=SHOWN), RESULTS / f"vaegan-{way.replace(' ', '-')}.png")
        found["ways"][way] = rows
    return found


ROWS = {"cifar10": _row}

if __name__ == "__main__":
    measure("vaegan", ROWS, __doc__, minutes=MINUTES)
    tables.write()

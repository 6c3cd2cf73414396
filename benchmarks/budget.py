"""Data and trainings of a comparison of quality: official splits as shards, and a fit that lasts as long as it may."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import replace

import numpy as np
import torch

from benchmarks.case import FIT, shards, unpacked
from benchmarks.rows import ROOT
from vae.config import FitConfig, ModelConfig
from vae.data import LABELS, ImageShards, save_labels
from vae.distributed import default_device
from vae.loader import Loader
from vae.run import Fitted, Run
from vae.trainer import fit

SHARDS = ROOT / ".work" / "quality-data"
HELD_OUT = 5000  # of the training images, the last after a shuffle: for choices
WARM_STEPS, TIMED_SECONDS = 10, 8
SAFETY = 0.97  # of the budget: reports and checks take the rest


def data(name: str) -> dict[str, ImageShards]:
    """train, val and test of a set at its own size; the training images with their labels."""
    folder = SHARDS / name
    if not (folder / "train" / LABELS).exists():
        names, images = unpacked(name)
        official = np.array([n.split("/")[0] for n in names])
        labels = np.unique([n.split("/")[1] for n in names], return_inverse=True)[1]
        train = np.random.default_rng(0).permutation(np.flatnonzero(official == "train"))
        parts = {"train": train[:-HELD_OUT], "val": train[-HELD_OUT:], "test": np.flatnonzero(official == "test")}
        for part, rows in parts.items():
            shards(folder / part, images[rows])
        save_labels(folder / "train", labels[parts["train"]])
    return {part: ImageShards(folder / part) for part in ("train", "val", "test")}


def recipe(seconds: float, images_per_second: float, **changes: object) -> FitConfig:
    """A training of so many seconds on this machine: AdamW 2e-3 at batch 128, warm-up, cosine to 0, EMA 0.999."""
    total = max(1, int(seconds * SAFETY * images_per_second))
    own = {
        "learning_rate": 2e-3, "warmup_images": 20_000, "clip_norm": 30_000.0, "beta_schedule": "linear", "beta_start": 0.0,
        "beta_anneal_share": 0.1, "memory_format": "channels_last", "exactness": "run", "skip_nonfinite_steps": 20,
        "total_images": total, "validate_every_images": max(1, total // 10),
    }  # fmt: skip
    return FitConfig(**(FIT | own | changes))


def images_per_second(model: ModelConfig, config: FitConfig, train: ImageShards) -> float:
    """Of training steps, after the first ones."""
    run = Run(model, config, default_device(), None)
    loader, times = Loader(train, config, run.device, None), []
    for step in itertools.count():
        if sum(times) > TIMED_SECONDS:
            return config.global_batch_size / statistics.mean(times)
        started = time.perf_counter()
        run.step(loader)
        if step >= WARM_STEPS:
            times.append(time.perf_counter() - started)


def _speed(model: ModelConfig, config: FitConfig, train: ImageShards) -> float:
    """Images a second over the whole training, of which a critic may see the last part only."""
    share = config.adversary_start_share if config.adversary_weight else 0.0
    later = images_per_second(model, replace(config, adversary_start_share=0.0), train)
    if not share:
        return later
    return 1 / (share / images_per_second(model, replace(config, adversary_weight=0.0), train) + (1 - share) / later)


def train_for(minutes: float, model: ModelConfig, images: dict[str, ImageShards], **changes: object) -> tuple[Fitted, dict]:
    """Train within the budget; the averaged model, and what the training was: images, minutes, held-out bound on its way."""
    speed = _speed(model, recipe(60, 1000, **changes), images["train"])
    config = recipe(minutes * 60, speed, **changes)
    bounds: list[float] = []

    def report(metrics: dict[str, float], _: torch.nn.Module) -> None:
        bounds.append(round(metrics["val_elbo_nats"], 2))
        print(f"  {metrics['images']:>9.0f} images, held-out elbo {bounds[-1]}", flush=True)

    started = time.perf_counter()
    fitted = fit(model, config, images["train"], images["val"], on_report=report)
    took = time.perf_counter() - started
    return fitted, {
        "images": fitted.step * config.global_batch_size, "minutes": round(took / 60, 2), "held_out_elbo_nats": bounds,
        "parameters": sum(p.numel() for p in fitted.model.parameters()),
    }  # fmt: skip

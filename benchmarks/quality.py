"""How good the models get: ``python -m benchmarks.quality [rows] [--minutes M]`` writes docs/results/quality.json (0: as a row says).

mnist-nll: a hierarchy with Bernoulli pixels, the importance-weighted bound of test images, dynamically binarised.
mnist-samples, cifar10-samples: a VAE whose latents get a density afterwards, against pythae's VAE in the same time on the same
machine; S = (FCD - floor) / (FCD of pythae's VAE sampled from N(0, I) - floor), 10,000 samples as uint8 against the training
split, seen through two extractors of different architecture and seed; the floor is what the test images score.
...-gpu: the same on an accelerator, twenty minutes with larger networks; not among the rows of a call that names none.
sprites-factors: the embedded set with the parameters of this repository, whatever the minutes, five seeds: disentanglement.
The CIFAR images are a JPEG copy (quality 75): bits per dimension and Inception FID of papers do not apply to it.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks import tables
from benchmarks.budget import data, train_for
from benchmarks.contenders import OTHERS
from benchmarks.machine import machine
from benchmarks.project import Project
from benchmarks.rows import ROOT, Row, measure
from pipeline import params
from pipeline.paths import INDEX, Paths
from vae.artefact import Generator
from vae.config import ModelConfig, PriorConfig
from vae.data import ImageShards
from vae.distributed import default_device
from vae.extractor import Extractor, ExtractorConfig, train_extractor
from vae.files import read_json
from vae.images import to_model_range
from vae.metrics.bounds import importance_weighted_nll
from vae.metrics.factors import factor_scores
from vae.metrics.frechet import Moments, frechet_distance, moments
from vae.metrics.manifold import density_and_coverage
from vae.pictures import grid, save_png
from vae.samplers import fit_prior
from vae.trainer import fit
from vae.validation import observed

THREADS, SEED = 2, 0
NLL_IMAGES, NLL_SAMPLES = 1000, 1000
SAMPLES = 10_000
EXTRACTOR_IMAGES = 120_000
LATENT_DIM = {"mnist": 16, "cifar10": 64}


@dataclass(frozen=True)
class Scale:
    """How long a training lasts unless the command line says so, and what is made for such a machine."""

    minutes: float
    network: Mapping[str, Any]
    recipe: Mapping[str, Any]


TWO_CORES = Scale(30, {"widths": (32, 64), "hidden_units": 256, "blocks": 1, "stochastic_layers": 6}, {})
GPU = Scale(
    20,
    {"widths": (64, 128), "hidden_units": 512, "blocks": 2, "stochastic_layers": 12},
    {"global_batch_size": 256, "precision": "bfloat16", "warmup_images": 100_000},
)
SPRITES_CHOICE, SPRITES_SEEDS = (0.4235, 9), range(5)  # beta and latent dimensions
PICTURES = ROOT / "docs" / "results"


def model_of(name: str, likelihood: str, shape: tuple[int, int, int], latent_dim: int, scale: Scale) -> ModelConfig:
    """A network of such a scale."""
    return ModelConfig(
        name=name, likelihood=likelihood, image_shape=shape, latent_dim=latent_dim, sigma=0.1, codes=256, **scale.network
    )


def mnist_nll(scale: Scale, _work: Path, minutes: float) -> dict[str, Any]:
    """The bound of 1,000 test images with 1,000 samples of the posterior each."""
    torch.set_num_threads(THREADS)
    splits = data("mnist")
    model = model_of("ladder", "bernoulli", (28, 28, 1), 4, scale)
    # A small weight of the rate at first: more layers learn to say something.
    recipe = {"beta_start": 0.1, "beta_anneal_share": 0.3, **scale.recipe}
    fitted, facts = train_for(minutes or scale.minutes, model, splits, **recipe)
    x_NCHW = to_model_range(torch.from_numpy(splits["test"].spread(NLL_IMAGES)).to(default_device()))
    nll_N = importance_weighted_nll(fitted.model, observed(fitted.model, x_NCHW, SEED, 0), NLL_SAMPLES, SEED)
    return facts | {
        "model": model.name,
        "nll_nats": round(float(nll_N.mean()), 3),
        "standard_error_nats": round(float(nll_N.std() / len(nll_N) ** 0.5), 3),
        "importance_samples": NLL_SAMPLES,
        "test_images": NLL_IMAGES,
        "binarised": "dynamically",
    }


def extractors(name: str, splits: dict[str, ImageShards]) -> dict[str, Extractor]:
    """A and B: another architecture and another seed, both told the labels of the training split."""
    found = {}
    for key, seed, width, architecture in (("A", 0, 32, "residual"), ("B", 1, 24, "plain")):
        channels, classes = splits["train"].image_shape[2], 10
        config = ExtractorConfig(channels, width, 64, classes, "labels", architecture)
        found[key], accuracy = train_extractor(
            config,
            splits["train"],
            splits["train"].labels_N,
            total_images=EXTRACTOR_IMAGES,
            batch_size=64,
            peak_learning_rate=2e-3,
            seed=seed,
        )
        print(f"  extractor {key}: accuracy {accuracy:.3f}", flush=True)
    return found


def scores(images_NHWC: np.ndarray, network: Extractor, real_ND: torch.Tensor, of_real: Moments) -> dict[str, float]:
    """FCD, density and coverage of images against those with such features."""
    features_ND = network.features(images_NHWC)
    return {
        "fcd": frechet_distance(of_real, moments(features_ND)),
        **asdict(density_and_coverage(real_ND[:SAMPLES], features_ND)),
    }


def _peer(name: str, minutes: float, latent_dim: int) -> Path:
    """The folder of what pythae makes in so many minutes; what it once made on this machine is not made again."""
    folder = ROOT / ".work" / "peers" / f"{name}-{minutes:g}-minutes-{latent_dim}-latents"
    facts = folder / "facts.json"
    if not facts.exists() or read_json(facts)["machine"] != machine():
        folder.mkdir(parents=True, exist_ok=True)
        command = [OTHERS, "-m", "benchmarks.peers", name, minutes, latent_dim, folder]
        subprocess.run([str(part) for part in command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder


def samples(name: str, scale: Scale, _work: Path, minutes: float) -> dict[str, Any]:
    """Ours and pythae's samples, their scores, and the mean squared error of reconstructed test images in units of [0, 1]."""
    torch.set_num_threads(THREADS)
    splits, latent_dim = data(name), LATENT_DIM[name]
    train, test = splits["train"], splits["test"]
    test_NHWC, minutes = test.slice(0, len(test)), minutes or scale.minutes
    made = _peer(name, minutes, latent_dim)
    model = model_of("conv", "gaussian", train.image_shape, latent_dim, scale)
    fitted, facts = train_for(minutes, model, splits, **scale.recipe)
    prior = fit_prior(
        fitted.model,
        train.spread(20_000),
        PriorConfig(name="mixture", mixture_components=128, hidden_units=128, steps=5000),
        SEED,
    )
    generator = Generator(fitted.model, model, prior, {})
    drawn = {"ours": generator.sample(SAMPLES, SEED)}
    drawn |= {f"pythae {key}": np.load(made / f"{key}.npy") for key in ("normal", "mixture")}
    copies = {"ours": generator.reconstruct(test_NHWC), "pythae": np.load(made / "reconstructions.npy")}
    peer = read_json(made / "facts.json")
    found: dict[str, Any] = {"ours": facts | {"model": model.name, "prior": prior.name}, "pythae": peer, "extractors": {}}
    for key, network in extractors(name, splits).items():
        real_ND = network.features(train.slice(0, len(train)))
        of_real = moments(real_ND)
        floor = scores(test_NHWC, network, real_ND, of_real)
        told = {who: scores(images, network, real_ND, of_real) for who, images in drawn.items()}
        span = told["pythae normal"]["fcd"] - floor["fcd"]
        for each in told.values():
            each["S"] = (each["fcd"] - floor["fcd"]) / span
            each["coverage_of_real"] = each["coverage"] / floor["coverage"]
        found["extractors"][key] = {"real test images": floor} | told
    for who, images in drawn.items():
        save_png(grid(images[:64], columns=16), PICTURES / f"quality-{name}-{who.replace(' ', '-')}.png")
    errors = {who: float(np.mean(((made / 255.0) - (test_NHWC / 255.0)) ** 2)) for who, made in copies.items()}
    return found | {"test_mse": errors, "latent_dim": latent_dim, "samples": SAMPLES}


def sprites(work: Path, minutes: float) -> dict[str, Any]:
    """Median over seeds of the scores of known factors, by the training of params.yaml with what tune chose for README's row."""
    torch.set_num_threads(THREADS)
    project = Project(work)
    for stage in ("download", "preprocess", "augment"):
        project.stage(stage)
    paths, values = Paths(work), params.check((work / "params.yaml").read_text(), "params.yaml")
    train, val, test = (ImageShards(*parts) for parts in (
        (paths.processed / "train", paths.augmented / "train"), (paths.processed / "val",), (paths.processed / "test",)
    ))  # fmt: skip
    index = pd.read_parquet(paths.processed / INDEX)
    factors = index.loc[index["split"] == "test", [c for c in index if c.startswith("factor_")]].to_numpy(np.float64)
    beta, latent_dim = SPRITES_CHOICE
    model, found = values.fit.model_config(train.image_shape, latent_dim), []
    for seed in SPRITES_SEEDS:
        section, started = values.train, time.perf_counter()
        config = values.fit.fit_config(
            seed=seed, beta=beta, total_images=section.total_images, validate_every_images=section.total_images,
            checkpoint_every_images=section.total_images, keep_checkpoints=1, patience_reports=0,
            frozen_images=0, layer_decay=1.0, epsilon=0.0, delta=1e-5, sample_norm=1.0,
        )  # fmt: skip
        fitted = fit(model, config, train, val)
        seconds = time.perf_counter() - started
        mean_ND, _ = Generator(fitted.model, model, None, {}).encode(test.slice(0, len(test)))
        found.append(factor_scores(mean_ND.numpy(), factors, seed) | {"minutes": round(seconds / 60, 2)})
        print(f"  seed {seed}: {found[-1]}", flush=True)
    medians = {name: round(float(np.median([each[name] for each in found])), 4) for name in found[0]}
    return {"median": medians, "seeds": found, "beta": beta, "latent_dim": latent_dim, "images": values.train.total_images}


ROWS: dict[str, Row] = {
    "mnist-nll": partial(mnist_nll, TWO_CORES),
    "mnist-samples": partial(samples, "mnist", TWO_CORES),
    "cifar10-samples": partial(samples, "cifar10", TWO_CORES),
    "sprites-factors": sprites,
}
GPU_ROWS: dict[str, Row] = {
    "mnist-nll-gpu": partial(mnist_nll, GPU),
    "mnist-samples-gpu": partial(samples, "mnist", GPU),
    "cifar10-samples-gpu": partial(samples, "cifar10", GPU),
}

if __name__ == "__main__":
    measure("quality", ROWS, __doc__, extra=GPU_ROWS, minutes=0.0)
    tables.write()

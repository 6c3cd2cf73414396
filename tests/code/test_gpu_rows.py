"""The rows of benchmarks/quality.py that are made for an accelerator, small: their networks and recipes train, score and draw here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.budget import recipe
from benchmarks.quality import GPU, model_of
from vae.artefact import Generator
from vae.config import PriorConfig
from vae.data import ImageShards, ShardWriter
from vae.images import to_model_range
from vae.metrics.bounds import importance_weighted_nll
from vae.samplers import fit_prior
from vae.trainer import fit
from vae.validation import observed


@pytest.mark.parametrize(
    ("network", "likelihood", "shape", "latent_dim"),
    [("ladder", "bernoulli", (28, 28, 1), 4), ("conv", "gaussian", (28, 28, 1), 16), ("conv", "gaussian", (32, 32, 3), 64)],
)
def test_network_and_recipe_of_an_accelerator_train_and_score(
    tmp_path: Path, network: str, likelihood: str, shape: tuple[int, int, int], latent_dim: int
) -> None:
    writer = ShardWriter(tmp_path, shape, 100)
    writer.add_all(np.random.default_rng(0).integers(0, 256, (24, *shape)).astype(np.uint8))
    writer.close()
    images, model = ImageShards(tmp_path), model_of(network, likelihood, shape, latent_dim, GPU)
    config = recipe(60, 1000, **GPU.recipe)
    assert config.global_batch_size == 256 and config.precision == "bfloat16"
    small = replace(config, global_batch_size=8, total_images=16, validate_every_images=16, warmup_images=0)
    reports: list[dict] = []
    fitted = fit(model, small, images, images, on_report=lambda metrics, _: reports.append(metrics)).model
    assert np.isfinite(reports[-1]["val_elbo_nats"])
    if network == "ladder":
        x_NCHW = observed(fitted, to_model_range(torch.from_numpy(images.spread(2))), 0, 0)
        assert importance_weighted_nll(fitted, x_NCHW, 4, 0).isfinite().all()
    else:
        prior = fit_prior(
            fitted, images.spread(24), PriorConfig(name="mixture", mixture_components=2, hidden_units=8, steps=1), 0
        )
        assert Generator(fitted, model, prior, {}).sample(4, 0).shape == (4, *shape)

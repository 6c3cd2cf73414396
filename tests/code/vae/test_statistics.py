"""statistics: what follows the data does so as a moving average of whole batches, and the optimizer leaves it alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from configs import fit_config, model_config
from vae.data import ImageShards
from vae.likelihood import LIKELIHOODS
from vae.models import build
from vae.optim import learned
from vae.statistics import DECAY, follow, following_loss
from vae.trainer import fit


def test_following_is_the_mean_of_the_first_batches_and_then_a_moving_average() -> None:
    own, rng = nn.Parameter(torch.tensor([5.0, -3.0])), np.random.default_rng(0)
    expected = own.detach().numpy().copy()
    for step in range(2000):
        batch = rng.normal(size=(4, 2)).astype(np.float32)
        own.grad = None
        for part in (batch[:1], batch[1:]):  # parts of a batch add up
            (following_loss(own, torch.from_numpy(part).sum(0), len(part)) / 4).backward()
        follow([own], step)
        decay = min(DECAY, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * batch.mean(0)
        if step in (0, 50, 1999):
            np.testing.assert_allclose(own.detach(), expected, rtol=1e-3, atol=1e-5)


def test_optimal_gaussian_follows_the_mean_squared_error_of_each_channel_where_its_likelihood_is_best() -> None:
    module = LIKELIHOODS["gaussian_optimal"](2)
    generator = torch.Generator().manual_seed(0)
    centre = torch.zeros(64, 2, 8, 8)
    for step in range(300):
        x_NCHW = torch.randn(centre.shape, generator=generator) * torch.tensor([0.1, 0.3])[:, None, None]
        module.zero_grad()
        (module.penalty(centre, x_NCHW) / len(x_NCHW)).backward()
        follow(module.statistics, step)
    torch.testing.assert_close(module.squares_C.detach(), torch.tensor([0.01, 0.09]), rtol=0.02, atol=0)
    best = float(module.log_prob(centre, x_NCHW).mean())
    for factor in (0.8, 1.25):
        module.squares_C.data *= factor
        assert float(module.log_prob(centre, x_NCHW).mean()) < best - 0.3
        module.squares_C.data /= factor


def test_optimal_gaussian_is_left_alone_by_the_optimizer_and_ends_at_the_error_of_the_training() -> None:
    torch.manual_seed(0)
    model = build(model_config(likelihood="gaussian_optimal"))
    assert all(p is not model.likelihood.squares_C for p in learned(model))
    x_NCHW = torch.rand(32, 1, 8, 8) * 2 - 1
    terms = model(x_NCHW, torch.zeros(32, 3))
    (terms.distortion_N.sum() + terms.penalty).backward()
    error = (x_NCHW - model.decode(terms.posterior.z_ND)).square().mean()
    before = model.likelihood.squares_C.detach().clone()
    expected = 32 * (before - error)  # of the loss summed over images; nothing else moves it
    torch.testing.assert_close(model.likelihood.squares_C.grad, expected.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("objective", [{}, {"objective": "importance", "importance_samples": 4}])
def test_optimal_spread_is_that_of_the_errors_whatever_the_objective(shards: ImageShards, objective: dict) -> None:
    config = fit_config(total_images=3200, beta_start=1.0, ema_decay=0.5, **objective)
    model = fit(model_config(likelihood="gaussian_optimal"), config, shards, shards).model
    x_NCHW = torch.from_numpy(shards.slice(0, len(shards))).permute(0, 3, 1, 2).float() / 127.5 - 1
    noise = torch.randn(len(x_NCHW), 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = model.decode(model.infer(model.observe(x_NCHW), noise).z_ND)
    assert float(model.likelihood.squares_C) == pytest.approx(float((output - x_NCHW).square().mean()), rel=0.25)

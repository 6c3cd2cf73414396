"""logistic_mixture, and drawing from every likelihood: against scipy, by summing over all levels and by frequencies."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from vae.config import FitConfig, ModelConfig
from vae.data import ImageShards
from vae.likelihood import LIKELIHOODS
from vae.likelihood.levels import BIN_WIDTH, to_levels
from vae.likelihood.mixture import COMPONENTS, LogisticMixture
from vae.trainer import fit

LEVELS = np.arange(256) * BIN_WIDTH - 1


def raw(channels: int, seed: int = 0, pixels: int = 1) -> Tensor:
    """A decoder's output for one image of one row of pixels."""
    module, generator = LogisticMixture(channels), torch.Generator().manual_seed(seed)
    return torch.randn(1, module.output_channels, 1, pixels, generator=generator, dtype=torch.float64)


def log_mass(level: float, centre: float, scale: float) -> float:
    low = -np.inf if level < -1 + BIN_WIDTH / 2 else level - BIN_WIDTH / 2
    high = np.inf if level > 1 - BIN_WIDTH / 2 else level + BIN_WIDTH / 2
    return math.log(scipy.stats.logistic.cdf(high, centre, scale) - scipy.stats.logistic.cdf(low, centre, scale))


@pytest.mark.parametrize("seed", range(3))
def test_mixture_of_one_channel_sums_to_one_over_all_levels(seed: int) -> None:
    x = torch.from_numpy(LEVELS)[:, None, None, None]
    log_p = LogisticMixture(1).log_prob(raw(1, seed).expand(256, -1, -1, -1), x)
    assert abs(float(log_p.logsumexp(0))) < 1e-12


def test_mixture_equals_its_formula_with_channels_that_know_those_before() -> None:
    output, x = raw(3, 5), [LEVELS[40], LEVELS[0], LEVELS[200]]
    flat, K = output.flatten().numpy(), COMPONENTS
    weights = scipy.special.softmax(flat[:K])
    centres, log_scales = flat[K : 4 * K].reshape(K, 3), flat[4 * K : 7 * K].reshape(K, 3)
    a, b, c = np.tanh(flat[7 * K :].reshape(K, 3)).T  # green from red, blue from red, blue from green
    total = 0.0
    for k in range(K):
        moved = (centres[k, 0], centres[k, 1] + a[k] * x[0], centres[k, 2] + b[k] * x[0] + c[k] * x[1])
        total += weights[k] * math.exp(sum(log_mass(x[i], moved[i], math.exp(log_scales[k, i] - 1)) for i in range(3)))
    ours = LogisticMixture(3).log_prob(output, torch.tensor(x).view(1, 3, 1, 1))
    assert float(ours) == pytest.approx(math.log(total), abs=1e-9)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_mixture_draws_have_its_mean_and_its_probabilities(channels: int) -> None:
    module, count = LogisticMixture(channels), 40_000
    output = raw(channels, 2).repeat(count, 1, 1, 1) * 0.5
    drawn = module.sample(output, torch.Generator().manual_seed(0))
    assert drawn.shape == (count, channels, 1, 1) and torch.equal(drawn, to_levels(drawn))
    if channels == 1:
        probabilities = module.log_prob(output[:256], torch.from_numpy(LEVELS)[:, None, None, None]).exp().numpy()
        levels = ((drawn.flatten() + 1) / BIN_WIDTH).round().long().numpy()
        seen = np.bincount(levels, minlength=256) / count
        assert np.abs(np.cumsum(seen) - np.cumsum(probabilities)).max() < 0.015  # Kolmogorov-Smirnov
    narrow = output.clone()
    narrow[:, COMPONENTS * (1 + channels) : COMPONENTS * (1 + 2 * channels)] = -4.0  # so narrow that few draws are cut off
    narrow[:, COMPONENTS : COMPONENTS * (1 + channels)] *= 0.3
    drawn = module.sample(narrow, torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn.mean(0), module.mean(narrow[:1])[0], atol=0.02, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_mixture_extreme_outputs_are_finite_with_their_gradients(channels: int) -> None:
    for factor in (1.0, 30.0, 1000.0):
        output = (raw(channels, 3, 4).float() * factor).requires_grad_()
        x = to_levels(torch.rand(1, channels, 1, 4) * 2 - 1)
        log_p = LogisticMixture(channels).log_prob(output, x)
        log_p.sum().backward()
        assert log_p.isfinite().all() and output.grad.isfinite().all(), factor


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_draws_what_its_own_probabilities_say(name: str) -> None:
    module, count = LIKELIHOODS[name](1, 0.2).double(), 20_000
    generator = torch.Generator().manual_seed(4)
    output = torch.randn(1, module.output_channels, 1, 1, generator=generator, dtype=torch.float64).repeat(count, 1, 1, 1)
    drawn = module.sample(output, generator)
    values = torch.tensor([-1.0, 1.0], dtype=torch.float64) if module.binary else torch.from_numpy(LEVELS)
    masses = module.log_prob(output[: len(values)], values[:, None, None, None]).exp().detach()
    assert float(masses.sum()) == pytest.approx(1, abs=1e-9)
    seen = torch.stack([(drawn.flatten() < value + BIN_WIDTH / 2).double().mean() for value in values])
    assert (seen - masses.cumsum(0)).abs().max() < 0.02


def test_fixed_gaussian_learns_no_spread_and_has_the_one_that_was_asked_for() -> None:
    module = LIKELIHOODS["gaussian_fixed"](3, 0.2)
    assert not list(module.parameters()) and not module.state_dict()
    x = torch.zeros(1, 3, 1, 1)
    expected = 3 * math.log(scipy.stats.norm.cdf(BIN_WIDTH / 2, 0, 0.2) - scipy.stats.norm.cdf(-BIN_WIDTH / 2, 0, 0.2))
    assert float(module.log_prob(torch.zeros(1, 3, 1, 1), x)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_fit_with_every_likelihood_betters_its_bound(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, name: str
) -> None:
    config = replace(fit_config, total_images=16 * 200, validate_every_images=16 * 40, learning_rate=3e-3, beta=1.0,
                     beta_anneal_share=0.0)  # fmt: skip
    bounds: list[float] = []
    fit(replace(model_config, likelihood=name), config, shards, shards, on_report=lambda m, _: bounds.append(m["val_elbo_nats"]))
    assert bounds[-1] > bounds[0] + 2 and all(map(math.isfinite, bounds))

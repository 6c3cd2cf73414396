"""objective: the terms of the bound against torch.distributions, scipy and Monte Carlo."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import Normal, kl_divergence

from vae.config import FitConfig
from vae.objective import annealed_beta, importance_bound, log_normal, rate_per_dim, reparameterize


@pytest.fixture
def posterior() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(5, 3, generator=generator, dtype=torch.float64) * 2
    return mean, torch.randn(5, 3, generator=generator, dtype=torch.float64)


def test_rate_per_dim_equals_kl_of_torch_distributions(posterior: tuple[torch.Tensor, torch.Tensor]) -> None:
    mean, logvar = posterior
    expected = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(torch.zeros(()), torch.ones(())))
    torch.testing.assert_close(rate_per_dim(mean, logvar), expected)


def test_rate_per_dim_equals_monte_carlo_estimate(posterior: tuple[torch.Tensor, torch.Tensor]) -> None:
    mean, logvar = posterior
    q = scipy.stats.norm(mean.numpy(), np.exp(logvar.numpy() / 2))
    z = q.rvs((200_000, 5, 3), random_state=1)
    ratio = q.logpdf(z) - scipy.stats.norm.logpdf(z)
    error = ratio.std(0) / math.sqrt(len(z))
    assert (np.abs(rate_per_dim(mean, logvar).numpy() - ratio.mean(0)) < 5 * error).all()


def test_rate_per_dim_posterior_equal_to_prior_is_zero_and_else_positive(posterior: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert rate_per_dim(torch.zeros(2, 3), torch.zeros(2, 3)).abs().max() == 0
    assert (rate_per_dim(*posterior) > 0).all()


def test_reparameterize_has_the_moments_of_the_posterior_and_passes_gradients() -> None:
    noise = torch.randn(400_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = torch.tensor([[1.5, -2.0]], dtype=torch.float64, requires_grad=True)
    logvar = torch.tensor([[math.log(4.0), math.log(0.25)]], dtype=torch.float64, requires_grad=True)
    z = reparameterize(mean, logvar, noise)
    torch.testing.assert_close(z.mean(0), mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.std(0), (logvar / 2).exp()[0], atol=0, rtol=0.01)
    z.square().mean(0).sum().backward()  # E z^2 = mean^2 + var: derivatives 2 mean and var
    torch.testing.assert_close(mean.grad, 2 * mean.detach(), atol=0.05, rtol=0)
    torch.testing.assert_close(logvar.grad, logvar.detach().exp(), atol=0, rtol=0.02)


def test_log_normal_equals_scipy_summed_over_the_last_axis(posterior: tuple[torch.Tensor, torch.Tensor]) -> None:
    mean, logvar = posterior
    z = torch.linspace(-30, 30, 4 * 5 * 3, dtype=torch.float64).reshape(4, 5, 3)
    expected = scipy.stats.norm.logpdf(z.numpy(), mean.numpy(), np.exp(logvar.numpy() / 2)).sum(-1)
    np.testing.assert_allclose(log_normal(z, mean, logvar), expected, rtol=1e-12)
    np.testing.assert_allclose(log_normal(z), scipy.stats.norm.logpdf(z.numpy()).sum(-1), rtol=1e-12)


def test_importance_bound_equals_log_of_the_mean_weight() -> None:
    log_weights = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    np.testing.assert_allclose(importance_bound(log_weights), np.log(np.exp(log_weights.numpy()).mean(0)), rtol=1e-12)


def test_importance_bound_is_exact_where_weights_overflow_or_vanish() -> None:
    for offset in (-5000.0, 5000.0):
        bound = importance_bound(torch.tensor([[offset], [offset + math.log(3)]], dtype=torch.float64))
        assert float(bound) == pytest.approx(offset + math.log(2), abs=1e-9)


def test_importance_bound_of_one_sample_is_its_weight() -> None:
    log_weights = torch.randn(1, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(importance_bound(log_weights), log_weights[0])


def test_importance_bound_grows_with_samples_towards_the_truth_in_expectation() -> None:
    # log-normal weights: log E w = spread^2 / 2, while E log w = 0.
    spread = 1.5
    generator = torch.Generator().manual_seed(0)
    bounds = [
        float(importance_bound(torch.randn(k, 20_000, generator=generator, dtype=torch.float64) * spread).mean())
        for k in (1, 2, 8, 64)
    ]
    assert abs(bounds[0]) < 0.05
    assert np.all(np.diff(bounds) > 0.05)
    assert spread**2 / 2 - 0.1 < bounds[-1] < spread**2 / 2


def test_annealed_beta_falls_by_a_constant_factor_and_stays(fit_config: FitConfig) -> None:
    config = replace(fit_config, beta=1.0, beta_start=100.0, beta_anneal_share=0.5, total_images=1000)
    assert annealed_beta(0, config) == 100
    assert annealed_beta(250, config) == pytest.approx(10)  # half-way on a logarithmic scale
    assert annealed_beta(500, config) == annealed_beta(999, config) == 1.0
    steps = [annealed_beta(n + 10, config) / annealed_beta(n, config) for n in range(0, 500, 10)]
    assert max(steps) == pytest.approx(min(steps)) and max(steps) < 1


def test_annealed_beta_rises_where_it_starts_below_and_is_constant_for_a_share_of_zero(fit_config: FitConfig) -> None:
    config = replace(fit_config, beta=2.0, beta_start=0.02, beta_anneal_share=1.0, total_images=1000)
    assert [annealed_beta(n, config) for n in (0, 500, 1000)] == pytest.approx([0.02, 0.2, 2.0])
    assert {annealed_beta(n, replace(config, beta_anneal_share=0.0)) for n in (0, 1, 500, 1000)} == {2.0}

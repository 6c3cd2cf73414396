"""bounds: the importance-weighted bound against a model whose log p(x) is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from vae.config import ModelConfig
from vae.metrics import bounds
from vae.metrics.bounds import bits_per_dim, importance_weighted_nll
from vae.models import build
from vae.models.base import VAE

SPREAD = 0.5  # of the observation noise


class LinearGaussian(VAE):
    """z ~ N(0, I), x = W z + b + noise; W has orthogonal columns, so that the exact posterior has a diagonal covariance."""

    def __init__(self, shift: float = 0.0, widen: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        orthogonal = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
        self.W = orthogonal[:, :2] * torch.tensor([1.5, 0.7], dtype=torch.float64)
        self.b = torch.tensor([0.1, -0.2, 0.3, 0.0], dtype=torch.float64)
        self.shift, self.widen = shift, widen
        self.likelihood, self.latent_dim = self, 2

    def observe(self, x_NCHW: Tensor, label_N: Tensor | None = None) -> tuple[Tensor, ...]:
        variance_D = 1 / (1 + self.W.square().sum(0) / SPREAD**2)
        mean_ND = (x_NCHW.flatten(1) - self.b) @ self.W * variance_D / SPREAD**2
        return mean_ND + self.shift, (variance_D * self.widen).log().expand_as(mean_ND)

    def decode(self, z_ND: Tensor, label_N: Tensor | None = None) -> Tensor:
        return (z_ND @ self.W.T + self.b).reshape(-1, 1, 2, 2)

    def log_prob(self, output_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        return torch.distributions.Normal(output_NCHW, SPREAD).log_prob(x_NCHW).sum((1, 2, 3))

    def exact_nll(self, x_NCHW: Tensor) -> np.ndarray:
        covariance = (self.W @ self.W.T + SPREAD**2 * torch.eye(4)).numpy()
        return -scipy.stats.multivariate_normal(self.b.numpy(), covariance).logpdf(x_NCHW.flatten(1).numpy())


@pytest.fixture
def x_NCHW() -> Tensor:
    return torch.randn(48, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 1.2


@pytest.mark.parametrize("samples", [1, 2, 7, 600])
def test_nll_with_the_exact_posterior_is_exact_for_any_number_of_samples(x_NCHW: Tensor, samples: int) -> None:
    model = LinearGaussian()
    np.testing.assert_allclose(
        importance_weighted_nll(model, x_NCHW[:8], samples, seed=0), model.exact_nll(x_NCHW[:8]), rtol=1e-9
    )


def test_nll_with_a_wrong_posterior_approaches_the_truth_from_above(x_NCHW: Tensor) -> None:
    # Above in expectation only, so the mean is taken over images and seeds.
    model, exact = LinearGaussian(shift=0.6, widen=1.8), LinearGaussian().exact_nll(x_NCHW)
    excess = [
        np.mean([importance_weighted_nll(model, x_NCHW, samples, seed).numpy() - exact for seed in range(4)])
        for samples in (1, 4, 16, 2000)
    ]
    assert excess[0] > excess[1] + 0.1 and excess[1] > excess[2] + 0.05 and excess[2] > 0.02
    assert abs(excess[3]) < 0.01


def test_nll_of_one_sample_is_the_bound_in_expectation(x_NCHW: Tensor) -> None:
    # K = 1: the expected excess is KL(q || exact posterior), which is known here.
    wrong, exact = LinearGaussian(shift=0.4, widen=1.8), LinearGaussian()
    draws = torch.stack([importance_weighted_nll(wrong, x_NCHW, 1, seed) for seed in range(25)]).numpy() - exact.exact_nll(x_NCHW)
    q, p = (torch.distributions.Normal(mean, (logvar / 2).exp()) for mean, logvar in (wrong.encode(x_NCHW), exact.encode(x_NCHW)))
    expected = float(torch.distributions.kl_divergence(q, p).sum(1).mean())
    assert abs(draws.mean() - expected) < 5 * draws.std() / math.sqrt(draws.size)


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_nll_is_independent_of_the_rows_per_pass(x_NCHW: Tensor, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LinearGaussian(shift=0.4, widen=1.8)
    whole = importance_weighted_nll(model, x_NCHW[:4], 100, seed=0)
    monkeypatch.setattr(bounds, "ROWS_PER_PASS", rows)
    torch.testing.assert_close(importance_weighted_nll(model, x_NCHW[:4], 100, seed=0), whole, rtol=1e-12, atol=0)


def test_nll_of_an_image_is_independent_of_the_images_after_it(x_NCHW: Tensor) -> None:
    model = LinearGaussian(shift=0.4, widen=1.8)
    assert torch.equal(importance_weighted_nll(model, x_NCHW[:5], 3, 0), importance_weighted_nll(model, x_NCHW, 3, 0)[:5])


def test_nll_seed_changes_the_noise_and_images_have_noise_of_their_own(x_NCHW: Tensor) -> None:
    model = LinearGaussian(shift=0.4, widen=1.8)
    same = x_NCHW[:1].expand(6, -1, -1, -1)
    first = importance_weighted_nll(model, same, 2, seed=0)
    assert len(first.unique()) == 6
    assert not torch.isin(importance_weighted_nll(model, same, 2, seed=1), first).any()


def test_nll_of_the_real_network_equals_a_sum_written_out(model_config: ModelConfig) -> None:
    # An independent log-mean-exp over the same posterior: both estimate the same number, K is large.
    torch.manual_seed(0)
    model, x_NCHW = build(model_config), torch.rand(2, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        mean_ND, logvar_ND = model.encode(x_NCHW)
        q = torch.distributions.Normal(mean_ND, (logvar_ND / 2).exp())
        z_KND = q.sample((3000,))
        weights = torch.distributions.Normal(0, 1).log_prob(z_KND).sum(-1) - q.log_prob(z_KND).sum(-1)
        for n in range(2):
            weights[:, n] += model.likelihood.log_prob(model.decode(z_KND[:, n]), x_NCHW[n : n + 1].expand(3000, -1, -1, -1))
    expected = -(torch.logsumexp(weights.double(), 0) - math.log(3000))
    torch.testing.assert_close(importance_weighted_nll(model, x_NCHW, 3000, seed=0), expected, atol=0.3, rtol=0)


def test_bits_per_dim_of_uniform_noise_is_eight() -> None:
    shape = (4, 5, 3)
    assert bits_per_dim(4 * 5 * 3 * math.log(256), shape) == pytest.approx(8)

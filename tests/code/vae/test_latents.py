"""latents: the aggregate posterior against sums written out, closed forms, integrals, and planted collapse and mismatch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from vae.metrics import latents
from vae.metrics.frechet import TooFewSamplesError
from vae.metrics.latents import aggregate_posterior, moment_gap
from vae.objective import rate_per_dim


def normal(count: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_sums_equal_those_written_out_one_density_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "BLOCK_VALUES", 7 * 40)
    mean, logvar, noise = 2 * normal(40, 3, 0), normal(40, 3, 1), normal(40, 3, 2)
    found = aggregate_posterior(mean, logvar, noise)
    mean, deviation = mean.double().numpy(), (0.5 * logvar.double()).exp().numpy()
    z = mean + deviation * noise.double().numpy()
    log_q = np.array([[norm.logpdf(z[i], mean[j], deviation[j]).sum() for j in range(40)] for i in range(40)])
    information = np.mean(np.diag(log_q) - logsumexp(log_q, axis=1) + math.log(40))
    rate = np.mean([np.sum(0.5 * (m**2 + s**2 - 1) - np.log(s)) for m, s in zip(mean, deviation, strict=True)])
    assert found.mutual_information_nats == pytest.approx(information, rel=1e-10)
    assert found.kl_nats == pytest.approx(rate - information, rel=1e-10)


def test_moment_gap_equals_the_kl_of_normal_distributions_by_sampling_and_in_closed_form() -> None:
    mean, logvar = normal(500, 2, 0) @ torch.tensor([[1.0, 0.6], [0.0, 0.5]]) + 1, -1 + 0.3 * normal(500, 2, 1)
    found = moment_gap(mean, logvar)
    cov = np.cov(mean.double().numpy(), rowvar=False, bias=True) + np.diag(logvar.double().exp().mean(0))
    gaussian = multivariate_normal(mean.double().mean(0), cov)
    z = gaussian.rvs(400_000, random_state=0)
    ratio = gaussian.logpdf(z) - norm.logpdf(z).sum(1)
    assert found == pytest.approx(ratio.mean(), abs=5 * ratio.std() / len(z) ** 0.5)


def test_moment_gap_of_one_dimension_follows_the_closed_form() -> None:
    mean = torch.tensor([[1.0], [3.0]]).repeat(4, 1)  # mean 2, variance 1
    logvar = torch.full((8, 1), math.log(3.0))  # and 3 of each posterior: N(2, 4)
    assert moment_gap(mean, logvar) == pytest.approx(0.5 * (4 + 4 - 1 - math.log(4)), rel=1e-6)


def test_kl_of_a_mixture_of_few_agrees_with_the_integral() -> None:
    # Three posteriors in one dimension, many draws of each: q(z) is their mixture, whose KL is an integral.
    centres, deviation = np.array([-2.0, 0.0, 1.5]), 0.4
    grid = np.linspace(-8, 8, 200_001)
    q = np.mean([norm.pdf(grid, c, deviation) for c in centres], axis=0)
    # Where q is 0 to the last bit it adds nothing.
    kl = np.sum(q * (np.log(np.maximum(q, 1e-300)) - norm.logpdf(grid))) * (grid[1] - grid[0])
    mean = torch.tensor(centres)[:, None].repeat(1000, 1)
    logvar = torch.full_like(mean, 2 * math.log(deviation))
    found = aggregate_posterior(mean, logvar, normal(3000, 1, 0))
    assert found.kl_nats == pytest.approx(kl, abs=0.02)
    assert found.moment_gap_nats <= kl + 1e-9
    assert found.mutual_information_nats < math.log(3)


def test_collapsed_posterior_tells_nothing_and_matches() -> None:
    found = aggregate_posterior(torch.zeros(300, 4), torch.zeros(300, 4), normal(300, 4, 0))
    assert found.mutual_information_nats == pytest.approx(0, abs=1e-9)
    assert found.kl_nats == pytest.approx(0, abs=1e-9)
    assert found.moment_gap_nats == pytest.approx(0, abs=1e-9)


def test_posteriors_apart_tell_which_image_it_was_and_no_more() -> None:
    # Variance 0.01 in eight dimensions: no two images overlap, so z tells the image, and log N is all there is to tell.
    mean, logvar = math.sqrt(0.99) * normal(2000, 8, 0), torch.full((2000, 8), math.log(0.01))
    found = aggregate_posterior(mean, logvar, normal(2000, 8, 1))
    assert found.mutual_information_nats == pytest.approx(math.log(2000), abs=0.01)
    assert found.mutual_information_nats <= math.log(2000)
    # The population matches N(0, I): the set's KL is all due to its size, and the gap of moments says so.
    assert found.kl_nats > 5
    assert 0 <= found.moment_gap_nats < 0.03


def test_wide_matching_posteriors_have_the_information_of_a_gaussian_channel() -> None:
    # mean ~ N(0, 1 - v), variance v: q(z) is N(0, 1) and the information is -log(v) / 2 a dimension.
    v, dim, n = 0.5, 2, 4000
    found = aggregate_posterior(math.sqrt(1 - v) * normal(n, dim, 0), torch.full((n, dim), math.log(v)), normal(n, dim, 1))
    assert found.mutual_information_nats == pytest.approx(-0.5 * dim * math.log(v), abs=0.03)
    assert found.kl_nats == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 2.0), (3.0, 0.0), (0.1, 0.0)])
def test_mismatch_is_bracketed(scale: float, shift: float) -> None:
    # q(z) = N(shift, scale^2) up to the draw of the set.
    n, v = 3000, 0.5 * scale**2
    mean = shift + scale * math.sqrt(0.5) * normal(n, 1, 0)
    found = aggregate_posterior(mean, torch.full((n, 1), math.log(v)), normal(n, 1, 1))
    truth = 0.5 * (shift**2 + scale**2 - 1 - math.log(scale**2))
    assert found.moment_gap_nats == pytest.approx(truth, rel=0.1, abs=0.02)
    assert found.moment_gap_nats - 0.05 <= found.kl_nats
    assert found.kl_nats == pytest.approx(truth, rel=0.1, abs=0.05)


def test_parts_add_up_to_the_mean_rate_and_order_does_not_matter() -> None:
    mean, logvar, noise = normal(200, 5, 0), normal(200, 5, 1) - 2, normal(200, 5, 2)
    found = aggregate_posterior(mean, logvar, noise)
    rate = float(rate_per_dim(mean.double(), logvar.double()).sum(1).mean())
    assert found.kl_nats + found.mutual_information_nats == pytest.approx(rate, rel=1e-12)
    again = aggregate_posterior(mean.flip(0), logvar.flip(0), noise.flip(0))
    assert again.mutual_information_nats == pytest.approx(found.mutual_information_nats, rel=1e-10)


def test_narrowest_posteriors_far_from_each_other_lose_no_digits() -> None:
    # Where a model's log-variance ends (-12), squares multiplied out are a million times what is left of them.
    mean, logvar = 30 * normal(100, 6, 0), torch.full((100, 6), -12.0)
    found = aggregate_posterior(mean, logvar, normal(100, 6, 1))
    assert found.mutual_information_nats == pytest.approx(math.log(100), abs=1e-6)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(TooFewSamplesError, match=r"moments of 16 latents need 64 images, there are 63$"):
        aggregate_posterior(normal(63, 16, 0), normal(63, 16, 1), normal(63, 16, 2))
    aggregate_posterior(normal(64, 16, 0), normal(64, 16, 1), normal(64, 16, 2))

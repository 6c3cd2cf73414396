"""second_stage: the moments and marginals of what was fitted, a bound that is one, and what temperature leaves."""

from __future__ import annotations

from functools import partial

import pytest
import scipy.stats
import torch

from configs import prior_config
from densities import PLANTED, banana, gaussian_nats, seeded
from vae.samplers import SecondStage
from vae.samplers.second_stage import _decoded

Fits = dict[str, SecondStage]


config = partial(prior_config, name="second_stage", hidden_units=48)


@pytest.fixture(scope="module")
def fits() -> Fits:
    return {name: SecondStage.fit(density(3000, 1)[0], config(steps=1500), 0) for name, density in PLANTED.items()}


@pytest.mark.parametrize("name", PLANTED)
def test_samples_have_moments_and_marginals_of_what_was_fitted(fits: Fits, name: str) -> None:
    ours, theirs = fits[name].sample(4000, seeded(5)), PLANTED[name](4000, 6)[0]
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=0.2, rtol=0)
    torch.testing.assert_close(ours.T.cov(), theirs.T.cov(), atol=0.4, rtol=0.15)
    for one, other in zip(ours.T.numpy(), theirs.T.numpy(), strict=True):
        assert scipy.stats.ks_2samp(one, other).statistic < 0.13  # a continuous map leaves a bridge between modes


@pytest.mark.parametrize("name", PLANTED)
def test_planted_density_is_found_better_than_by_a_normal(fits: Fits, name: str) -> None:
    fitted, (fresh, truth_N) = PLANTED[name](3000, 1)[0], PLANTED[name](4000, 2)
    found, truth = fits[name].log_prob(fresh).mean(), truth_N.mean()
    assert truth - 0.6 < found < truth + 0.02
    assert found > gaussian_nats(fitted, fresh) + 0.25


def test_log_prob_is_a_bound_of_the_density_that_is_sampled(fits: Fits) -> None:
    """Against the density itself: p(x) as a mean of p(x|u) over many u of the prior, which takes no posterior."""
    stage = fits["banana"]
    points = banana(50, 8)[0]
    x_ND, log_volume = stage._standard.forward(points)
    mean_KD, logvar_D = _decoded(stage.tensors, torch.randn(100_000, 2, generator=seeded(1)))
    normal = torch.distributions.Normal(mean_KD, torch.exp(0.5 * logvar_D))
    density_N = torch.stack([normal.log_prob(x_D).sum(1).double().exp().mean() for x_D in x_ND]).log() + log_volume
    found_N = stage.log_prob(points)
    assert (found_N < density_N + 0.5).all()
    assert density_N.mean() - 0.2 < found_N.mean() < density_N.mean() + 0.05


def test_log_prob_is_always_the_same(fits: Fits) -> None:
    points = banana(50, 8)[0]
    first = fits["banana"].log_prob(points)
    torch.manual_seed(4)
    assert torch.equal(first, fits["banana"].log_prob(points))


def test_bound_is_tight_where_it_begins() -> None:
    z_ND = torch.randn(2000, 3, generator=seeded()) @ torch.tensor([[1.0, 0.9, 0], [0, 0.1, 0.3], [0, 0, 2]]) + 4
    stage = SecondStage.fit(z_ND, config(steps=1), 0)
    assert abs(stage.log_prob(z_ND).mean() - gaussian_nats(z_ND, z_ND)) < 0.05
    assert (stage.tensors["gamma_logvar_D"] > -0.5).all()  # so most of the spread below is the output's noise
    torch.testing.assert_close(stage.sample(20_000, seeded()).T.cov(), z_ND.T.cov(), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("dim", [1, 3])
def test_normal_latents_are_not_fitted_too_closely(dim: int) -> None:
    z_ND, fresh = torch.randn(300, dim, generator=seeded()), torch.randn(4000, dim, generator=seeded(1))
    stage = SecondStage.fit(z_ND, config(steps=200), 0)
    assert stage.log_prob(fresh).mean() > gaussian_nats(z_ND, fresh) - 0.1


def test_temperature_zero_leaves_a_single_point_and_half_of_it_less_spread(fits: Fits) -> None:
    stage = fits["two_modes"]
    cold = stage.sample(100, seeded(), 0.0)
    assert (cold - cold[0]).abs().max() == 0
    assert stage.sample(4000, seeded(), 0.5).std(0).norm() < stage.sample(4000, seeded(), 1.0).std(0).norm()

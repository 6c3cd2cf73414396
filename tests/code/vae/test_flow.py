"""flow: an exact density (it sums to 1, it is the Jacobian's), an exact inverse, and planted densities found again."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import scipy.stats
import torch
from torch import Tensor

from configs import prior_config
from densities import PLANTED, gaussian_nats, seeded
from vae.objective import log_normal
from vae.samplers import Flow

Fits = dict[str, Flow]


config = partial(prior_config, name="flow", hidden_units=48)


@pytest.fixture(scope="module")
def fits() -> Fits:
    return {name: Flow.fit(density(3000, 1)[0], config(steps=600), 0) for name, density in PLANTED.items()}


@pytest.fixture(scope="module")
def wide() -> tuple[Flow, Tensor]:
    """A flow over 5 dimensions, an odd number, bent by its training; and latents of it."""
    z_ND = torch.randn(1000, 5, generator=seeded())
    z_ND = 0.2 * z_ND + 3 + torch.stack([z_ND[:, 1].square(), *[torch.zeros(1000)] * 3, z_ND[:, 0].sin()], 1)
    return Flow.fit(z_ND, config(steps=150, hidden_units=16), 0), z_ND


@pytest.mark.parametrize("name", PLANTED)
def test_density_sums_to_one_over_the_plane(fits: Fits, name: str) -> None:
    x, y = torch.linspace(-8, 8, 400), torch.linspace(-8, 20, 700)
    grid = torch.cartesian_prod(x, y)
    total = fits[name].log_prob(grid).double().exp().sum() * (x[1] - x[0]) * (y[1] - y[0])
    assert abs(total - 1) < 0.01


def test_inverse_undoes_forward_both_ways(wide: tuple[Flow, Tensor]) -> None:
    flow, z_ND = wide
    torch.testing.assert_close(flow.inverse(flow.forward(z_ND)[0]), z_ND, rtol=1e-4, atol=1e-4)
    base_ND = torch.randn(500, 5, generator=seeded(3))
    torch.testing.assert_close(flow.forward(flow.inverse(base_ND))[0], base_ND, rtol=1e-3, atol=1e-3)


def test_log_prob_is_the_change_of_variables_by_the_jacobian(wide: tuple[Flow, Tensor]) -> None:
    flow, z_ND = wide
    tensors = {name: value.double() if value.is_floating_point() else value for name, value in flow.tensors.items()}
    exact = Flow(tensors)
    for z_D in z_ND[:10].double():
        jacobian_DD = torch.autograd.functional.jacobian(lambda z: exact.forward(z[None])[0][0], z_D)
        expected = log_normal(exact.forward(z_D[None])[0]) + torch.linalg.slogdet(jacobian_DD).logabsdet
        torch.testing.assert_close(exact.log_prob(z_D[None]), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(flow.log_prob(z_ND), exact.log_prob(z_ND.double()).float(), rtol=1e-3, atol=1e-3)


def test_every_dimension_is_changed_and_depends_on_others(wide: tuple[Flow, Tensor]) -> None:
    flow, z_ND = wide
    jacobian_DD = torch.autograd.functional.jacobian(lambda z: flow.forward(z[None])[0][0], z_ND[0])
    assert (jacobian_DD.abs() > 1e-6).sum(1).min() > 1


@pytest.mark.parametrize("name", PLANTED)
def test_planted_density_is_found_far_better_than_by_a_normal(fits: Fits, name: str) -> None:
    fitted, (fresh, truth_N) = PLANTED[name](3000, 1)[0], PLANTED[name](4000, 2)
    found, truth = fits[name].log_prob(fresh).mean(), truth_N.mean()
    assert truth - 0.15 < found < truth + 0.02
    assert found > gaussian_nats(fitted, fresh) + 0.5


@pytest.mark.parametrize("name", PLANTED)
def test_samples_have_moments_and_marginals_of_what_was_fitted(fits: Fits, name: str) -> None:
    ours, theirs = fits[name].sample(4000, seeded(5)), PLANTED[name](4000, 6)[0]
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=0.15, rtol=0)
    torch.testing.assert_close(ours.T.cov(), theirs.T.cov(), atol=0.35, rtol=0.1)
    for one, other in zip(ours.T.numpy(), theirs.T.numpy(), strict=True):
        assert scipy.stats.ks_2samp(one, other).statistic < 0.06


def test_samples_have_the_density_that_log_prob_tells(fits: Fits) -> None:
    flow = fits["banana"]  # a normal's mean log-density is minus its entropy: -1/2 - log(2 pi)/2 a dimension, less the volume
    samples = flow.sample(20_000, seeded(1))
    base_ND, log_det_N = flow.forward(samples)
    expected = -(1 + math.log(2 * math.pi)) + log_det_N.mean()
    torch.testing.assert_close(flow.log_prob(samples).mean(), expected, atol=0.03, rtol=0)
    for column in base_ND.T.numpy():
        assert scipy.stats.kstest(column, "norm").pvalue > 1e-3


def test_hardly_trained_it_is_the_normal_that_fits_best() -> None:
    z_ND = torch.randn(2000, 3, generator=seeded()) @ torch.tensor([[1.0, 0.9, 0], [0, 0.1, 0.3], [0, 0, 2]]) + 4
    flow = Flow.fit(z_ND, config(steps=1), 0)
    assert abs(flow.log_prob(z_ND).mean() - gaussian_nats(z_ND, z_ND)) < 0.05


@pytest.mark.parametrize("dim", [1, 3])
def test_normal_latents_are_not_fitted_too_closely(dim: int) -> None:
    z_ND, fresh = torch.randn(300, dim, generator=seeded()), torch.randn(4000, dim, generator=seeded(1))
    flow = Flow.fit(z_ND, config(steps=200), 0)
    assert flow.log_prob(fresh).mean() > gaussian_nats(z_ND, fresh) - 0.05


def test_temperature_scales_the_base_noise(fits: Fits) -> None:
    flow = fits["two_modes"]
    cold = flow.sample(100, seeded(), 0.0)
    assert torch.equal(cold, flow.inverse(torch.zeros(1, 2)).expand(100, 2))
    half = flow.forward(flow.sample(20_000, seeded(), 0.5))[0]
    torch.testing.assert_close(half.std(0), torch.tensor([0.5, 0.5]), atol=0.01, rtol=0)


@pytest.mark.parametrize("density", PLANTED.values(), ids=PLANTED)
def test_more_steps_do_not_harm(density: Callable[[int, int], tuple[Tensor, Tensor]]) -> None:
    z_ND, fresh = density(400, 1)[0], density(4000, 2)[0]
    short, long = (Flow.fit(z_ND, config(steps=steps, hidden_units=16), 0).log_prob(fresh).mean() for steps in (20, 300))
    assert long > short

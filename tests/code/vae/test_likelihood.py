"""likelihood: real probability distributions over what is observed, exact in both tails."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from vae.images import to_model_range
from vae.likelihood import LIKELIHOODS
from vae.likelihood.bernoulli import Bernoulli
from vae.likelihood.binned import DiscretizedGaussian, DiscretizedLogistic
from vae.likelihood.levels import BIN_WIDTH

BINNED = [DiscretizedLogistic, DiscretizedGaussian]
CENTRES = [0.0, 0.37, -1.0, 1.0, 1.5, -3.0, 40.0, -1000.0]
SCALES = [1e-9, BIN_WIDTH / 16, 1e-3, 0.01, 0.3, 1.0, 10.0, 1e3, 1e5]  # the first is below the smallest that is allowed
LEVELS_256 = np.arange(256) * BIN_WIDTH - 1


def binned(kind: type, scale: float, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    module = kind(1).to(dtype)
    module.log_scale.data.fill_(math.log(scale))
    return module


def levels(dtype: torch.dtype = torch.float64) -> Tensor:
    """Each of the 256 levels as an image of one pixel."""
    return torch.from_numpy(LEVELS_256).to(dtype)[:, None, None, None]


def log_masses(kind: type, scale: float, centre: float, dtype: torch.dtype = torch.float64) -> Tensor:
    x = levels(dtype)
    return binned(kind, scale, dtype).log_prob(torch.full_like(x, centre), x).detach()


@pytest.mark.parametrize("kind", BINNED)
@pytest.mark.parametrize("scale", SCALES)
def test_log_prob_over_all_levels_sums_to_one(kind: type, scale: float) -> None:
    for centre in CENTRES:
        assert abs(float(log_masses(kind, scale, centre).logsumexp(0))) < 1e-12, centre


@pytest.mark.parametrize("kind", BINNED)
@pytest.mark.parametrize("scale", SCALES)
def test_log_prob_in_float32_sums_to_one_for_uint8_images(kind: type, scale: float) -> None:
    x = to_model_range(torch.arange(256, dtype=torch.uint8)[:, None, None, None])
    for centre in CENTRES:
        log_mass = binned(kind, scale, torch.float32).log_prob(torch.full_like(x, centre), x).detach()
        assert abs(float(log_mass.double().logsumexp(0))) < 1e-5, centre


@pytest.mark.parametrize(("kind", "peer"), [(DiscretizedLogistic, scipy.stats.logistic), (DiscretizedGaussian, scipy.stats.norm)])
@pytest.mark.parametrize("scale", [BIN_WIDTH / 16, 1e-3, 0.01, 0.3, 1.0, 10.0])
@pytest.mark.parametrize("centre", [0.0, 0.37, -1.0, 1.5, -3.0])
def test_log_prob_equals_difference_of_scipy_cdfs(kind: type, peer: object, scale: float, centre: float) -> None:
    upper = np.append(LEVELS_256[:-1] + BIN_WIDTH / 2, np.inf)
    lower = np.append(-np.inf, LEVELS_256[1:] - BIN_WIDTH / 2)
    # On the right of the centre the difference of survival functions keeps the digits that the cdf loses.
    left = peer.cdf(upper, centre, scale) - peer.cdf(lower, centre, scale)
    right = peer.sf(lower, centre, scale) - peer.sf(upper, centre, scale)
    mass = np.where(centre < LEVELS_256, right, left)
    shown = mass > 1e-280
    assert shown.any()
    ours = log_masses(kind, scale, centre).numpy()
    np.testing.assert_allclose(ours[shown], np.log(mass[shown]), rtol=1e-8, atol=1e-8)
    assert (ours[~shown] < math.log(1e-270)).all()


@pytest.mark.parametrize("kind", BINNED)
def test_log_prob_float32_agrees_with_float64(kind: type) -> None:
    for scale in (BIN_WIDTH / 16, 0.01, 0.3, 1.0):
        for centre in CENTRES:
            exact, single = log_masses(kind, scale, centre), log_masses(kind, scale, centre, torch.float32).double()
            np.testing.assert_allclose(single, exact, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("kind", BINNED)
@pytest.mark.parametrize("scale", SCALES)
def test_log_prob_far_tail_and_its_gradient_are_finite(kind: type, scale: float) -> None:
    broken = []
    for centre in [*CENTRES, 1e4]:
        module, x = binned(kind, scale, torch.float32), levels(torch.float32)
        output = torch.full_like(x, centre).requires_grad_()
        log_mass = module.log_prob(output, x)
        log_mass.sum().backward()
        values = {"log mass": log_mass, "gradient": output.grad, "gradient of the scale": module.log_scale.grad}
        broken += [(centre, name) for name, value in values.items() if not value.isfinite().all()]
    assert not broken


@pytest.mark.parametrize("kind", BINNED)
def test_log_prob_gradient_equals_finite_differences(kind: type) -> None:
    x = levels()[::17].reshape(4, 1, 2, 2)
    module = kind(1).double()
    output = torch.linspace(-1.3, 1.4, 16, dtype=torch.float64).reshape(4, 1, 2, 2).requires_grad_()

    def log_prob(output: Tensor, log_scale: Tensor) -> Tensor:
        return torch.func.functional_call(_Call(module), {"inner.log_scale": log_scale}, (output, x))

    for log_scale in (-4.0, -1.0, 1.0):
        assert torch.autograd.gradcheck(log_prob, (output, torch.full((1,), log_scale, dtype=torch.float64, requires_grad=True)))


class _Call(torch.nn.Module):
    """log_prob as forward, so that functional_call can exchange the parameter."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, output: Tensor, x: Tensor) -> Tensor:
        return self.inner.log_prob(output, x)


@pytest.mark.parametrize("kind", BINNED)
@pytest.mark.parametrize("spreads", [10, 100, 1000, 4000])
def test_log_prob_gradient_in_the_tail_pulls_as_the_density_does(kind: type, spreads: int) -> None:
    # Far out the mass of a bin is that of its nearer edge: d log p / d output -> -edge / scale (normal), -1 / scale (logistic).
    scale = BIN_WIDTH / 16
    module = binned(kind, scale, torch.float32)
    x = torch.zeros(1, 1, 1, 1)
    output = torch.full_like(x, spreads * scale + BIN_WIDTH / 2).requires_grad_()
    module.log_prob(output, x).sum().backward()
    hazard = float(np.exp(scipy.stats.norm.logpdf(spreads) - scipy.stats.norm.logsf(spreads)))
    expected = -(hazard if kind is DiscretizedGaussian else 1.0) / scale
    assert float(output.grad) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("kind", "peer"), [(DiscretizedLogistic, scipy.stats.logistic), (DiscretizedGaussian, scipy.stats.norm)])
def test_log_prob_sums_pixels_and_channels_each_with_its_own_scale(kind: type, peer: object) -> None:
    torch.manual_seed(0)
    x = to_model_range(torch.randint(1, 255, (3, 4, 5, 2), dtype=torch.uint8)).double()
    module = kind(2).double()
    module.log_scale.data = torch.tensor([-2.0, -0.5], dtype=torch.float64)
    scale = module.scale_C11().detach()
    output = x + torch.randn_like(x) * scale  # near enough for a difference of cdfs
    mass = peer.cdf(x + BIN_WIDTH / 2, output, scale) - peer.cdf(x - BIN_WIDTH / 2, output, scale)
    np.testing.assert_allclose(module.log_prob(output, x).detach(), np.log(mass).sum((1, 2, 3)), rtol=1e-7)


@pytest.mark.parametrize("kind", BINNED)
def test_log_scale_fitted_by_gradient_finds_the_spread_of_the_data(kind: type) -> None:
    # The decoder is calibrated: the best scale is the spread of the residuals.
    torch.manual_seed(0)
    spread = 0.1
    z = torch.randn(1, 1, 64, 64) if kind is DiscretizedGaussian else torch.rand(1, 1, 64, 64).logit()
    x = ((z * spread + 1) / BIN_WIDTH).round().clamp(0, 255) * BIN_WIDTH - 1
    module = kind(1)
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -module.log_prob(torch.zeros_like(x), x).mean() / x.numel()
        value.backward()
        return value

    optimizer.step(loss)
    assert float(module.log_scale.detach().exp()) == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize("kind", BINNED)
def test_mean_stays_in_model_range(kind: type) -> None:
    assert kind(1).mean(torch.tensor([-7.0, -1.0, 0.2, 3.0])).tolist() == pytest.approx([-1, -1, 0.2, 1])


def test_bernoulli_two_levels_sum_to_one() -> None:
    for logit in (-80.0, -2.0, 0.0, 0.5, 30.0, 500.0):
        output = torch.full((2, 1, 1, 1), logit, dtype=torch.float64)
        log_mass = Bernoulli(1).log_prob(output, torch.tensor([-1.0, 1.0], dtype=torch.float64)[:, None, None, None])
        assert abs(float(log_mass.logsumexp(0))) < 1e-12 and log_mass.isfinite().all()


def test_bernoulli_equals_torch_distribution_of_the_bit_above_middle_grey() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 8, 8, 1)
    output = torch.linspace(-4, 4, 256).reshape(4, 1, 8, 8)
    bits = (images >= 128).float().permute(0, 3, 1, 2)
    expected = torch.distributions.Bernoulli(logits=output).log_prob(bits).sum((1, 2, 3))
    torch.testing.assert_close(Bernoulli(1).log_prob(output, to_model_range(images)), expected)
    torch.testing.assert_close(Bernoulli(1).mean(output), 2 * torch.distributions.Bernoulli(logits=output).probs - 1)


def test_bernoulli_refuses_colour_and_names_the_remedy() -> None:
    assert Bernoulli.problem((8, 8, 1)) is None
    reason = Bernoulli.problem((8, 8, 3))
    assert "logistic" in reason and "base.mode" in reason


@pytest.mark.parametrize("kind", BINNED)
def test_binned_likelihoods_take_grey_and_colour(kind: type) -> None:
    assert kind.problem((8, 8, 1)) is None and kind.problem((8, 8, 3)) is None


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_every_name_builds_a_module_with_all_its_methods(name: str) -> None:
    module, x = LIKELIHOODS[name](1, 0.1), torch.zeros(2, 1, 3, 3)
    output = torch.zeros(2, module.output_channels, 3, 3)
    assert module.log_prob(output, x).shape == (2,) and module.problem((3, 3, 1)) is None
    assert module.mean(output).shape == module.sample(output, torch.Generator()).shape == x.shape
    assert module.binary == (name == "bernoulli")

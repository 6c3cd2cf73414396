"""losses: every objective against its formula written anew with torch.distributions, Monte Carlo or numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Normal

from vae.config import OBJECTIVES, FitConfig, ModelConfig, Recipe
from vae.data import ImageShards
from vae.likelihood import binarised
from vae.losses import LOSSES, Draws, Objective, mismatch, rate_N, total_correlation_N
from vae.models import build
from vae.models.base import Output, Posterior
from vae.noise import step_noise
from vae.objective import annealed_beta
from vae.trainer import fit

CPU = torch.device("cpu")


@pytest.fixture
def terms() -> Output:
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(12, 4, generator=generator, dtype=torch.float64)  # noqa: E731
    mean_ND, logvar_ND = draw(), draw()
    q = Normal(mean_ND, (logvar_ND / 2).exp())
    rate_ND = torch.distributions.kl_divergence(q, Normal(torch.zeros(()), torch.ones(())))
    return Output(draw().sum(1).abs() * 10, rate_ND, Posterior(mean_ND, logvar_ND, q.mean + q.stddev * draw()))


@pytest.fixture
def loss(fit_config: FitConfig, terms: Output) -> Callable[..., float]:
    def value(
        objective: str, beta: float = 1.0, capacity: float = 0.0, groups: tuple[int, ...] = (1,) * 4, **other: object
    ) -> float:
        return float(LOSSES[objective](terms, beta, capacity, replace(fit_config, objective=objective, **other), groups))

    return value


def test_losses_are_those_that_the_configuration_knows() -> None:
    assert tuple(LOSSES) == OBJECTIVES


def test_elbo_is_distortion_plus_beta_rate(loss: Callable[..., float], terms: Output) -> None:
    distortion, rate = float(terms.distortion_N.sum()), float(terms.rate_ND.sum())
    assert loss("elbo") == pytest.approx(distortion + rate)
    assert loss("elbo", 2.5) == pytest.approx(distortion + 2.5 * rate)


def test_elbo_with_a_capacity_is_least_where_each_rate_is_the_capacity(loss: Callable[..., float], terms: Output) -> None:
    expected = float(terms.distortion_N.sum() + 3 * (terms.rate_ND.sum(1) - 7).abs().sum())
    assert loss("elbo", 3.0, 7.0, capacity_nats=7.0) == pytest.approx(expected)


@pytest.mark.parametrize("groups", [(1, 1, 1, 1), (3, 1), (4,)])
def test_free_bits_count_each_group_at_least_so_much_for_every_image(terms: Output, groups: tuple[int, ...]) -> None:
    expected = []
    for row in terms.rate_ND.tolist():
        parts, start = [], 0
        for size in groups:
            parts.append(sum(row[start : start + size]))
            start += size
        expected.append(sum(max(part, 0.8) for part in parts))
    np.testing.assert_allclose(rate_N(terms, 0.8, groups), expected)
    np.testing.assert_allclose(rate_N(terms, 0.0, groups), terms.rate_ND.sum(1))


def test_free_bits_press_no_latent_that_is_below(terms: Output) -> None:
    rate_ND = terms.rate_ND.clone().requires_grad_()
    rate_N(replace(terms, rate_ND=rate_ND), 1.0, (1,) * 4).sum().backward()
    assert torch.equal(rate_ND.grad, (terms.rate_ND > 1).double())


def test_importance_of_one_sample_is_the_sampled_bound_and_more_are_tighter(loss: Callable[..., float], terms: Output) -> None:
    q, p = Normal(terms.posterior.mean_ND, (terms.posterior.logvar_ND / 2).exp()), Normal(torch.zeros(()), torch.ones(()))
    log_weight_N = (p.log_prob(terms.posterior.z_ND) - q.log_prob(terms.posterior.z_ND)).sum(1) - terms.distortion_N
    assert loss("importance", importance_samples=1) == pytest.approx(float(-log_weight_N.sum()))
    expected = -sum(math.log(np.exp(rows).mean()) for rows in log_weight_N.numpy().reshape(4, 3))
    assert loss("importance", importance_samples=3) == pytest.approx(expected)
    assert expected < -float(log_weight_N.sum()) / 3  # Jensen


def test_total_correlation_equals_its_double_loop(terms: Output) -> None:
    q = [[scipy.stats.norm(m, math.exp(v / 2)) for m, v in zip(*pair, strict=True)]
         for pair in zip(terms.posterior.mean_ND.tolist(), terms.posterior.logvar_ND.tolist(), strict=True)]  # fmt: skip
    for i, z in enumerate(terms.posterior.z_ND.tolist()):
        joint = np.mean([np.prod([each.pdf(x) for each, x in zip(row, z, strict=True)]) for row in q])
        single = [np.mean([row[d].pdf(z[d]) for row in q]) for d in range(4)]
        assert float(total_correlation_N(terms)[i]) == pytest.approx(math.log(joint) - sum(map(math.log, single)), abs=1e-9)


def test_total_correlation_is_large_where_latents_copy_one_another() -> None:
    generator = torch.Generator().manual_seed(0)
    free = torch.randn(400, 2, generator=generator)
    copied = free[:, :1].repeat(1, 2)
    spread = torch.full((400, 2), math.log(0.05))
    noise = torch.randn(400, 2, generator=generator) * math.sqrt(0.05)
    of = lambda mean: float(total_correlation_N(Output(free[:, 0], free, Posterior(mean, spread, mean + noise))).mean())  # noqa: E731
    # Exact for the copied pair: correlation 1 / 1.05, so -log(1 - r^2) / 2 = 1.19 nats.
    assert abs(of(free)) < 0.25 and of(copied) == pytest.approx(-0.5 * math.log(1 - 1 / 1.05**2), abs=0.25)


def test_tc_is_the_bound_for_beta_one_and_weighs_the_total_correlation_alone(loss: Callable[..., float], terms: Output) -> None:
    assert loss("tc") == pytest.approx(loss("elbo"))
    assert loss("tc", 4.0) - loss("tc") == pytest.approx(3 * float(total_correlation_N(terms).sum()))


def test_mismatch_of_prior_samples_is_zero_within_its_error_and_grows_with_the_distance() -> None:
    values = [float(mismatch(torch.randn(500, 3, generator=torch.Generator().manual_seed(s)))) for s in range(20)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(20) + 1e-6  # unbiased
    z = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    others = [float(mismatch(each)) for each in (z + 0.5, z + 1, z * 0.5, z * 2)]
    assert others[1] > others[0] > 5 * np.std(values) and min(others[2:]) > 5 * np.std(values)


def test_mismatch_equals_the_two_sample_statistic_against_many_prior_samples() -> None:
    z, p = (torch.randn(n, 2, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for n, s in ((40, 1), (6000, 2)))
    z = z * 0.6 + 0.8
    total = 0.0
    for bandwidth in (0.1, 0.2, 0.5, 1, 2, 5, 10):
        kernel = lambda a, b, v=bandwidth * 4: torch.exp(-(a[:, None] - b[None]).square().sum(2) / (2 * v))  # noqa: E731
        within, prior = (float((kernel(x, x).sum() - len(x)) / len(x) / (len(x) - 1)) for x in (z, p))
        total += (within + prior - 2 * float(kernel(z, p).mean())) / 7
    assert float(mismatch(z)) == pytest.approx(total, abs=0.01)


def test_deterministic_is_distortion_and_the_latents_length_and_leaves_no_spread(
    loss: Callable[..., float], terms: Output
) -> None:
    found = terms.posterior
    known = float(terms.distortion_N.sum() + 0.3 * found.z_ND.square().sum() / 2 + (found.logvar_ND + 8).square().sum() / 2)
    assert loss("deterministic", 0.3) == pytest.approx(known)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fit_with_every_objective_betters_the_distortion(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, objective: str
) -> None:
    samples = 3 if objective == "importance" else 1
    config = replace(fit_config, objective=objective, importance_samples=samples, total_images=16 * 200, beta=1.0,
                     beta_anneal_share=0.0, validate_every_images=16 * 50, learning_rate=3e-3)  # fmt: skip
    reports: list[dict[str, float]] = []
    fit(model_config, config, shards, shards, on_report=lambda metrics, model: reports.append(metrics))
    assert reports[-1]["val_distortion_nats"] < reports[0]["val_distortion_nats"] - 5
    assert all(math.isfinite(value) for report in reports for value in report.values())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objective_has_a_gradient_for_every_parameter(model_config: ModelConfig, fit_config: FitConfig, objective: str) -> None:
    samples = 2 if objective == "importance" else 1
    config = replace(fit_config, objective=objective, importance_samples=samples, global_batch_size=6, beta_anneal_share=0.0)
    model = build(model_config)
    measure = Objective(model, config, CPU)
    draws = measure.draw(3, 64)
    assert draws.uniform_NP is None and draws.noise_NE.shape == (6, 3 * samples)
    assert bool((draws.noise_NE == 0).all()) == (objective == "deterministic")
    x_NCHW = torch.rand(6, 1, 8, 8) * 2 - 1
    loss, sums = measure(model, x_NCHW, None, draws, 0)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in model.parameters())
    assert sums[2] == 6 and sums.dtype == torch.float64 and not sums.requires_grad


@pytest.mark.parametrize("most", [0, 10**6])
def test_noise_is_that_of_its_step_in_whatever_order_steps_come(
    model_config: ModelConfig, fit_config: FitConfig, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vae.losses.AHEAD_NUMBERS", most)
    measure, config = Objective(build(model_config), fit_config, CPU), fit_config
    for step, count in ((0, -1), (1, -1), (2, 5), (2, -1), (9, -1), (1, -1), (1, -1), (12, -1)):
        shape = config.global_batch_size if count < 0 else count, model_config.latent_dim
        assert torch.equal(measure.draw(step, 64, count).noise_NE, step_noise(config.seed, step, shape, CPU)), (step, count)


def test_objective_reports_the_mean_over_the_samples_of_each_image(model_config: ModelConfig, fit_config: FitConfig) -> None:
    config = replace(fit_config, objective="importance", importance_samples=4, global_batch_size=5)
    model = build(model_config)
    measure, x_NCHW = Objective(model, config, CPU), torch.rand(5, 1, 8, 8) * 2 - 1
    draws = measure.draw(0, 64)
    _, sums = measure(model, x_NCHW, None, draws, 0)
    each = [model(x_NCHW, draws.noise_NE[:, 3 * k : 3 * k + 3]) for k in range(4)]
    assert float(sums[0]) == pytest.approx(np.mean([float(t.distortion_N.detach().sum()) for t in each]), rel=1e-5)
    assert float(sums[1]) == pytest.approx(np.mean([float(t.rate_ND.detach().sum()) for t in each]), rel=1e-5)


def test_binarised_has_the_grey_value_as_its_mean() -> None:
    grey = torch.linspace(-1, 1, 5).view(1, 1, 1, 5).expand(20_000, 1, 1, 5)
    bits = binarised(grey, torch.rand(20_000, 5, generator=torch.Generator().manual_seed(0)))
    assert set(bits.unique().tolist()) == {-1.0, 1.0}
    np.testing.assert_allclose(bits.mean(0).flatten(), grey[0].flatten(), atol=0.03)
    assert (bits[..., 0] == -1).all() and (bits[..., -1] == 1).all()


def test_bernoulli_training_draws_other_bits_at_each_step_and_the_same_after_a_restart(
    model_config: ModelConfig, fit_config: FitConfig
) -> None:
    model = build(replace(model_config, likelihood="bernoulli"))
    measure = Objective(model, fit_config, CPU)
    first, other, again = (measure.draw(step, 64).uniform_NP for step in (4, 5, 4))
    assert first is not None and other is not None and again is not None
    assert first.shape == (fit_config.global_batch_size, 64) and torch.equal(first, again) and not torch.equal(first, other)
    seen: list[Tensor] = []
    grey = torch.zeros(4, 1, 8, 8)
    measure(lambda x, noise, *_: (seen.append(x), model(x, noise))[1], grey, None, Draws(torch.zeros(4, 3), first[:4]), 0)
    assert torch.equal(seen[0], torch.where(first[:4].view(4, 1, 8, 8) < 0.5, 1.0, -1.0))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"objective": "tc", "exactness": "elastic"}, "exactness"),
        ({"objective": "mmd", "micro_batch_size": 4}, "micro_batch_size"),
        ({"objective": "deterministic", "free_bits_nats": 0.5}, "free_bits_nats"),
        ({"objective": "tc", "capacity_nats": 5.0}, "capacity_nats"),
        ({"objective": "elbo", "importance_samples": 5}, "importance_samples"),
        ({"beta_start": 0.0, "beta_schedule": "geometric"}, "beta_start"),
    ],
)
def test_impossible_combinations_are_named(fit_config: FitConfig, changes: dict, key: str) -> None:
    assert isinstance(fit_config, Recipe) and not fit_config.problems()
    assert [name for name, _ in replace(fit_config, **changes).problems()] == [key]


def test_annealed_beta_linear_and_cyclical(fit_config: FitConfig) -> None:
    config = replace(fit_config, beta=2.0, beta_start=0.0, beta_anneal_share=0.5, total_images=1000, beta_schedule="linear")
    assert [annealed_beta(n, config) for n in (0, 250, 500, 999)] == pytest.approx([0, 1, 2, 2])
    cyclical = replace(config, beta_schedule="cyclical", beta_cycles=4)
    assert [annealed_beta(n, cyclical) for n in (0, 62.5, 125, 249, 250, 312.5, 875, 999, 1000)] == pytest.approx(
        [0, 1, 2, 2, 0, 1, 2, 2, 2]
    )

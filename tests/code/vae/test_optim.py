"""optim: the schedule at its corners, the average in closed form, decay only where it belongs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from vae.config import FitConfig, ModelConfig
from vae.models import build
from vae.optim import Ema, build_optimizer, clip, learning_rate


@pytest.fixture
def config(fit_config: FitConfig) -> FitConfig:
    return replace(fit_config, learning_rate=0.01, warmup_images=100, total_images=1100)


def test_learning_rate_corners_of_the_schedule(config: FitConfig) -> None:
    assert learning_rate(0, config) == pytest.approx(0.01 / 101)  # small, and not a lost step of 0
    assert learning_rate(99, config) == pytest.approx(0.01 * 100 / 101)
    assert learning_rate(100, config) == pytest.approx(0.01)
    assert learning_rate(600, config) == pytest.approx(0.005)  # half of the cosine
    assert learning_rate(1100, config) == pytest.approx(0, abs=1e-12)
    assert learning_rate(5000, config) == pytest.approx(0, abs=1e-12)


def test_learning_rate_rises_then_falls_and_is_never_negative(config: FitConfig) -> None:
    rates = [learning_rate(n, config) for n in range(1200)]
    assert rates[:101] == sorted(rates[:101]) and rates[100:] == sorted(rates[100:], reverse=True)
    assert max(rates) == pytest.approx(0.01) and min(rates) >= 0


def test_learning_rate_without_warmup_starts_at_the_peak(config: FitConfig) -> None:
    assert learning_rate(0, replace(config, warmup_images=0)) == pytest.approx(0.01)


def test_learning_rate_warmup_longer_than_the_training_does_not_fail(config: FitConfig) -> None:
    assert learning_rate(1100, replace(config, warmup_images=2000)) == pytest.approx(0.01 * 1101 / 2001)


def test_ema_of_a_constant_is_the_constant() -> None:
    model = nn.Linear(3, 2)
    ema = Ema(model, 0.999)
    for step in range(50):
        ema.update(step)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(ema.shadow[name], value)


def test_ema_two_steps_follow_the_closed_form() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.data.fill_(1.0)
    ema = Ema(model, 0.15)
    model.weight.data.fill_(2.0)
    ema.update(0)  # decay min(0.15, 1/10)
    model.weight.data.fill_(3.0)
    ema.update(1)  # decay min(0.15, 2/11)
    expected = 0.15 * (0.1 * 1 + 0.9 * 2) + 0.85 * 3
    assert float(ema.shadow["weight"]) == pytest.approx(expected, rel=1e-12)


def test_ema_late_step_uses_the_full_decay() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.data.fill_(0.0)
    ema = Ema(model, 0.9)
    model.weight.data.fill_(1.0)
    ema.update(10_000)
    assert float(ema.shadow["weight"]) == pytest.approx(0.1, rel=1e-9)


def test_ema_does_not_share_memory_with_the_model() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model, 0.9)
    before = ema.shadow["weight"].clone()
    model.weight.data.add_(1)
    assert torch.equal(ema.shadow["weight"], before)


def test_build_optimizer_holds_every_parameter_once(model_config: ModelConfig, fit_config: FitConfig) -> None:
    model = build(model_config)
    held = [id(p) for group in build_optimizer(model, fit_config).param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_build_optimizer_decay_shrinks_matrices_and_leaves_vectors(model_config: ModelConfig, fit_config: FitConfig) -> None:
    model = build(model_config)
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)  # with no gradient only decay moves a weight
    build_optimizer(model, replace(fit_config, weight_decay=0.5, learning_rate=0.1)).step()
    for name, parameter in model.named_parameters():
        expected = 1 - 0.1 * 0.5 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, expected), msg=name)
    assert {p.ndim for p in model.parameters()} >= {1, 2, 4}  # norms and biases, linear layers, kernels


@pytest.mark.parametrize("most", [0.5, 4.999999, 5.0, 5.0000001, 7.0, 1e4])
def test_clip_is_torchs_bit_for_bit(most: float) -> None:
    ours, theirs = ([nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(3))] for _ in range(2))
    for one, other in zip(ours[:2], theirs[:2], strict=True):  # the third has no gradient
        one.grad = torch.tensor([3.0, 0.0] if len(one) == 2 else [4.0])
        other.grad = one.grad.clone()
    assert clip(ours, most) == float(nn.utils.clip_grad_norm_(theirs, most)) == 5.0
    for one, other in zip(ours[:2], theirs[:2], strict=True):
        assert one.grad is not None and other.grad is not None and torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_clip_leaves_gradients_that_are_not_finite(value: float) -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([value, 1.0])
    assert not clip([parameter], 1.0) < float("inf")
    assert parameter.grad[1] == 1.0

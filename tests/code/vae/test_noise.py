"""noise: standard normal, and a function of (seed, step) alone."""

from __future__ import annotations

import scipy.stats
import torch

from vae.noise import step_noise

CPU = torch.device("cpu")


def test_step_noise_same_place_gives_the_same_noise_whatever_was_drawn_before() -> None:
    first = step_noise(1, 5, (8, 3), CPU)
    torch.manual_seed(99)
    step_noise(1, 4, (100, 3), CPU)
    assert torch.equal(step_noise(1, 5, (8, 3), CPU), first)


def test_step_noise_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    step_noise(0, 0, (4, 4), CPU)
    assert torch.equal(torch.rand(3), expected)


def test_step_noise_other_seed_or_step_gives_independent_noise() -> None:
    draws = torch.stack([step_noise(seed, step, (2000, 1), CPU)[:, 0] for seed in range(4) for step in range(4)])
    correlation = torch.corrcoef(draws) - torch.eye(16)
    assert correlation.abs().max() < 0.12  # standard error 0.022, 120 pairs


def test_step_noise_seed_and_step_are_not_interchangeable() -> None:
    assert not torch.equal(step_noise(1, 2, (4, 2), CPU), step_noise(2, 1, (4, 2), CPU))
    assert not torch.equal(step_noise(0, 3, (4, 2), CPU), step_noise(3, 0, (4, 2), CPU))


def test_step_noise_is_standard_normal_over_steps() -> None:
    values = torch.cat([step_noise(0, step, (16, 4), CPU).flatten() for step in range(300)])
    assert scipy.stats.kstest(values.numpy(), "norm").pvalue > 1e-3


def test_step_noise_takes_large_seeds_and_steps() -> None:
    assert step_noise(2**31 + 1_000_003, 10**9, (2, 2), CPU).isfinite().all()

"""noise: a function of where it is used alone; standard normal by step, even and independent bits by image."""

from __future__ import annotations

import numpy as np
import scipy.stats
import torch

from vae.noise import image_states, random_bits, step_noise, uniforms

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


def _splitmix64(state: int) -> int:
    """One output of the generator in whole numbers without bounds, after the paper."""
    z = state % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def test_random_bits_are_splitmix64s() -> None:
    found = random_bits(torch.tensor([0, 5, -3]), 4, 0)
    for state, words in zip((0, 5, -3), found.tolist(), strict=True):
        start = _splitmix64(state)
        assert [word % 2**64 for word in words] == [_splitmix64(start + (i + 1) * 0x9E3779B97F4A7C15) for i in range(4)]


def test_random_bits_prefix_does_not_depend_on_how_many_are_drawn_or_for_whom() -> None:
    states = image_states(1, np.arange(9, dtype=np.uint64), np.zeros(9))
    whole = random_bits(states, 100, 2)
    assert torch.equal(random_bits(states, 7, 2), whole[:, :7])
    assert torch.equal(random_bits(states[4:5], 100, 2), whole[4:5])
    assert not (whole == random_bits(states, 100, 1)).any()


def test_uniforms_are_even_and_independent_from_image_to_image() -> None:
    states = image_states(0, np.arange(2000, dtype=np.uint64), np.zeros(2000))
    values = uniforms(states, 12, 0).numpy()
    assert values.min() >= 0 and values.max() < 1
    assert all(scipy.stats.kstest(column, "uniform").pvalue > 1e-4 for column in values.T)
    assert np.abs(np.corrcoef(values.T) - np.eye(12)).max() < 0.1
    assert np.abs(np.corrcoef(values[:-1].T, values[1:].T)[:12, 12:]).max() < 0.1  # keys that follow each other share nothing


def test_image_states_take_any_seed_key_and_copy() -> None:
    states = image_states(2**31 - 1, np.array([0, 2**64 - 1], np.uint64), np.array([10**9, 0]))
    assert states.dtype == torch.int64 and len(set(states.tolist())) == 2

"""Noise as a function of where it is used: no hidden generator, so a restart needs no saved state."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# They keep the kinds apart, and from the sample order, which is seeded by the same number.
_NOISE_TAG, _UNIFORM_TAG, _CORRUPTION_TAG, _STRENGTH_TAG = 0x401E, 0x0B17, 0xC000, 0x57
_WORD = 2**64


def _generator(seed: int, step: int, tag: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, step, tag]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def step_noise(seed: int, step: int, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Standard normal noise of a whole global batch, f(seed, step): each rank draws all of it and keeps its own rows.

    Drawn on the processor, whatever the device, so that world size and kind of device leave it as it is.
    """
    return torch.randn(shape, generator=_generator(seed, step, _NOISE_TAG)).to(device)


def step_uniforms(seed: int, step: int, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Numbers uniform on [0, 1) for a whole global batch, f(seed, step), as ``step_noise`` is and apart from it."""
    return torch.rand(shape, generator=_generator(seed, step, _UNIFORM_TAG)).to(device)


def corruption_noise(seed: int, step: int, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Standard normal noise for the pixels of a whole global batch, f(seed, step), apart from that of the latents."""
    return torch.randn(shape, generator=_generator(seed, step, _CORRUPTION_TAG)).to(device)


def corruption_shares(seed: int, step: int, count: int, device: torch.device) -> Tensor:
    """How strong that noise is in each image (count, 1), as a share of the strongest: uniform on [0, 1)."""
    return torch.rand((count, 1), generator=_generator(seed, step, _STRENGTH_TAG)).to(device)


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned word: torch counts in int64, whose products wrap as those of words do."""
    return word - _WORD if word >= _WORD // 2 else word


_GOLDEN, _FIRST, _SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _unsigned_shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & (2 ** (64 - bits) - 1)


def _mixed(z: Tensor) -> Tensor:
    """SplitMix64's output function (Steele, Lea, Flood 2014): int64 -> int64, one to one; each bit depends on all bits."""
    z = (z ^ _unsigned_shift(z, 30)) * _FIRST
    z = (z ^ _unsigned_shift(z, 27)) * _SECOND
    return z ^ _unsigned_shift(z, 31)


def image_states(seed: int, keys_N: np.ndarray, copies_N: np.ndarray) -> Tensor:
    """An int64 (N,) per image and copy, f(seed, key, copy): the seeds of independent streams of ``random_bits``."""
    state = torch.from_numpy(keys_N.astype(np.uint64).view(np.int64)) ^ _mixed(torch.tensor(seed + _GOLDEN))
    return _mixed(_mixed(state) + _GOLDEN * torch.from_numpy(copies_N.astype(np.int64)))


def random_bits(states_N: Tensor, count: int, stream: int) -> Tensor:
    """int64 (N, count), all bits random: SplitMix64 seeded by each state and ``stream``; whole numbers, so alike on any device."""
    seeds = _mixed(states_N + _signed(stream * 0xD1342543DE82EF95 % _WORD))
    steps = torch.arange(1, count + 1, device=states_N.device) * _GOLDEN
    return _mixed(seeds[:, None] + steps)


def uniforms(states_N: Tensor, count: int, stream: int) -> Tensor:
    """float64 (N, count) in [0, 1), 53 bits each."""
    return _unsigned_shift(random_bits(states_N, count, stream), 11).double() * 2.0**-53

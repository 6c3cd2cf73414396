"""Noise as a function of where it is used: no hidden generator, so a restart needs no saved state."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_NOISE_TAG = 0x401E  # keeps noise apart from the sample order, which is seeded by the same number


def step_noise(seed: int, step: int, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Standard normal noise of a whole global batch, f(seed, step): each rank draws all of it and keeps its own rows.

    Drawn on the processor, whatever the device, so that world size and kind of device leave it as it is.
    """
    state = np.random.SeedSequence([seed, step, _NOISE_TAG]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
    return torch.randn(shape, generator=generator).to(device)

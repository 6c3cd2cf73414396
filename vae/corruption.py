"""Pictures with noise as files would hold them: what a training sees that is to learn to draw them clean.

The posterior is then of the noisy picture and the likelihood of the clean one. That is a lower bound still, of the posterior's
mixture over the noise (Im et al. 2017, Denoising Criterion for Variational Auto-Encoding Framework, eq. 6). N images, P numbers each.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vae.images import LEVELS
from vae.noise import corruption_noise, corruption_shares

LEVEL = 2 / (LEVELS - 1)  # of the 256, in model range


def step_corruption(seed: int, step: int, shape: tuple[int, int], most_levels: float, device: torch.device) -> Tensor:
    """The noise (N, P), in model range, of a whole global batch, f(seed, step): of each image of a strength of its own, drawn
    evenly between none and ``most_levels`` of standard deviation. So one model learns all strengths, and clean pictures too.
    """
    sigma_N1 = corruption_shares(seed, step, shape[0], device) * most_levels * LEVEL
    return corruption_noise(seed, step, shape, device) * sigma_N1


def noisy(images_NHWC: np.ndarray, levels: float, seed: int) -> np.ndarray:
    """uint8 images with noise of one known strength, f(image, place, seed), cut off and rounded: what is measured is measured on."""
    noise_NHWC = np.random.default_rng(seed).normal(0, levels, images_NHWC.shape)
    return (images_NHWC + noise_NHWC).round().clip(0, LEVELS - 1).astype(np.uint8)


def corrupted(x_NCHW: Tensor, noise_NP: Tensor) -> Tensor:
    """The images with this noise, cut off at black and white and rounded to 256 levels, as a file of them is."""
    noisy_NCHW = x_NCHW + noise_NP.view(x_NCHW.shape)
    return ((noisy_NCHW + 1) / LEVEL).round().clamp(0, LEVELS - 1) * LEVEL - 1

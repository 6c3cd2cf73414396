"""Scores of latents and reconstructions. N images, D latent dimensions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ACTIVE_VARIANCE = 0.01  # of the posterior mean over the data (Burda et al. 2016)
PEAK = 255.0


def active_units(mean_ND: Tensor) -> int:
    """Latent dimensions whose posterior mean varies over the data by more than 0.01 (Burda et al. 2016, section 5)."""
    return int((mean_ND.double().var(0) > ACTIVE_VARIANCE).sum())


def psnr_db(original_NHWC: Tensor, reconstructed_NHWC: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of each image (N,) of two uint8 batches, in dB; an exact copy counts as 1/12 level^2."""
    squared = (original_NHWC.double() - reconstructed_NHWC.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(PEAK**2 / squared.clamp_min(1 / 12))


def mean_psnr_db(found_NHWC: np.ndarray, truth_NHWC: np.ndarray) -> float:
    """PSNR of each uint8 image, and of these the mean."""
    return float(psnr_db(torch.from_numpy(truth_NHWC), torch.from_numpy(found_NHWC)).mean())

"""Scores of latents and reconstructions. N images, D latent dimensions."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

ACTIVE_VARIANCE = 0.01  # of the posterior mean over the data (Burda et al. 2016)
PEAK = 255.0


def active_units(mean_ND: Tensor) -> int:
    """Latent dimensions whose posterior mean varies over the data by more than 0.01 (Burda et al. 2016, section 5)."""
    return int((mean_ND.double().var(0) > ACTIVE_VARIANCE).sum())


def psnr_db(original_NHWC: Tensor, reconstructed_NHWC: Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio of two uint8 batches, in dB; an exact copy counts as 1/12 level^2."""
    squared = (original_NHWC.double() - reconstructed_NHWC.double()).square().flatten(1).mean(1)
    return float((10 * torch.log10(PEAK**2 / squared.clamp_min(1 / 12))).mean())


def mutual_information_gap(mean_ND: np.ndarray, factors_NF: np.ndarray, bins: int = 20) -> float:
    """MIG (Chen et al. 2018): gap of the two latents that know most of a factor, in units of its entropy, mean over factors."""
    from sklearn.metrics import mutual_info_score

    def binned(column: np.ndarray) -> np.ndarray:
        if len(np.unique(column)) <= bins:
            return np.unique(column, return_inverse=True)[1]
        return np.digitize(column, np.histogram(column, bins)[1][1:-1])

    latents = [binned(column) for column in mean_ND.T]
    gaps = []
    for factor in (binned(column) for column in factors_NF.T):
        shares = np.bincount(factor) / len(factor)
        entropy = -sum(p * math.log(p) for p in shares if p > 0)
        if entropy < 1e-9:  # a factor that never varies has nothing to be known
            continue
        known = sorted((mutual_info_score(factor, latent) for latent in latents), reverse=True)
        gaps.append((known[0] - (known[1] if len(known) > 1 else 0.0)) / entropy)
    return float(np.mean(gaps)) if gaps else 0.0

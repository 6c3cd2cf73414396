"""How far a score may be off because the images are so many and no more. N, M images, D features, R resamples."""

from __future__ import annotations

import torch
from torch import Tensor

from vae.metrics.frechet import Moments, frechet_distance, moments

RESAMPLES = 200
LEVEL = 0.95


def _weighted(features_ND: Tensor, count_N: Tensor) -> Moments:
    """Mean and unbiased covariance where row i occurs ``count_N[i]`` times."""
    total = int(count_N.sum())
    mean_D = count_N @ features_ND / total
    cov_DD = (features_ND * count_N[:, None]).T @ features_ND - total * torch.outer(mean_D, mean_D)
    return Moments(mean_D, cov_DD / (total - 1), total)


def basic_interval(value: float, resampled: Tensor) -> tuple[float, float]:
    """The basic bootstrap interval (Davison and Hinkley 1997, section 5.2): what resampling adds to a biased score is taken off."""
    low, high = torch.quantile(resampled.double(), torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64))
    return 2 * value - float(high), 2 * value - float(low)


def _counts(size: int, generator: torch.Generator) -> Tensor:
    """How often each of ``size`` rows is drawn, when as many are drawn."""
    return torch.bincount(torch.randint(size, (size,), generator=generator), minlength=size).double()


def frechet_interval(a_ND: Tensor, b_MD: Tensor, value: float, seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % of the Fréchet distance ``value`` of two feature clouds, both resampled; a function of the arguments, never below 0.

    The distance of finite samples is biased upwards, and that of resamples twice as much: hence the basic interval.
    """
    generator = torch.Generator().manual_seed(seed)
    clouds = [each_ND.double().cpu() - b_MD.double().cpu().mean(0) for each_ND in (a_ND, b_MD)]
    found = []
    for _ in range(resamples):
        counts = [_counts(len(cloud), generator) for cloud in clouds]
        found.append(frechet_distance(*(_weighted(c, n) for c, n in zip(clouds, counts, strict=True))))
    low, high = basic_interval(value, torch.tensor(found))
    return max(0.0, low), max(0.0, high)


def frechet_difference(
    real_ND: Tensor, a_MD: Tensor, b_MD: Tensor, seed: int, resamples: int = RESAMPLES
) -> tuple[float, tuple[float, float]]:
    """d(real, a) - d(real, b), and its 95 % interval: real rows are resampled for both, rows of a and b, of equal latents, together.

    What both have in common, the real images' sample above all, cancels: the interval of the difference is shorter than those of the
    distances tell. TooFewSamplesError as ``moments`` has it; ValueError for clouds of unequal length.
    """
    if len(a_MD) != len(b_MD):
        raise ValueError(f"{len(a_MD)} and {len(b_MD)} samples cannot be paired")
    real, a, b = (each.double().cpu() - real_ND.double().cpu().mean(0) for each in (real_ND, a_MD, b_MD))
    moments_of_real = moments(real)
    value = frechet_distance(moments_of_real, moments(a)) - frechet_distance(moments_of_real, moments(b))
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(resamples):
        of_real, of_samples = _weighted(real, _counts(len(real), generator)), _counts(len(a), generator)
        found.append(frechet_distance(of_real, _weighted(a, of_samples)) - frechet_distance(of_real, _weighted(b, of_samples)))
    return value, basic_interval(value, torch.tensor(found))


def mean_interval(values_N: Tensor, seed: int) -> tuple[float, float]:
    """95 % of the mean of independent values (N,), by resampling them; a function of the arguments."""
    generator = torch.Generator().manual_seed(seed)
    values_N = values_N.double().cpu()
    picked_RN = torch.randint(len(values_N), (RESAMPLES, len(values_N)), generator=generator)
    return basic_interval(float(values_N.mean()), torch.stack([values_N[rows].mean() for rows in picked_RN]))

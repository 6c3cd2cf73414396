"""Fréchet distance of two feature clouds seen as normal distributions (Dowson and Landau 1982; FID: Heusel et al. 2017).

``fid`` is the name for features of the Inception network only; with another network's features the value is called ``fcd``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_COLUMNS = 512
SAMPLES_PER_DIM = 4  # fewer samples than this for each feature give a covariance that says little


class TooFewSamplesError(ValueError):
    """Too few images for a trustworthy score; the message says how many are needed."""


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and covariance (D, D) in float64 of ``count`` feature vectors."""

    mean_D: Tensor
    cov_DD: Tensor
    count: int


def minimum_samples(feature_dim: int) -> int:
    """The least number of images on either side for a Fréchet distance of ``feature_dim`` features."""
    return SAMPLES_PER_DIM * feature_dim


def _gram(x_ND: Tensor) -> Tensor:
    """X^T X (D, D): what lies below the diagonal blocks is not computed a second time."""
    found_DD = x_ND.new_empty(x_ND.shape[1], x_ND.shape[1])
    for start in range(0, x_ND.shape[1], BLOCK_COLUMNS):
        stop = min(start + BLOCK_COLUMNS, x_ND.shape[1])
        found_DD[start:stop, start:] = x_ND[:, start:stop].T @ x_ND[:, start:]
        found_DD[stop:, start:stop] = found_DD[start:stop, stop:].T
    return found_DD


def moments(features_ND: Tensor) -> Moments:
    """Mean and unbiased covariance; TooFewSamplesError below ``minimum_samples``."""
    count, dim = features_ND.shape
    if count < minimum_samples(dim):
        raise TooFewSamplesError(f"a Fréchet distance of {dim} features needs {minimum_samples(dim)} images, there are {count}")
    features_ND = features_ND.double()
    mean_D = features_ND.mean(0)
    centred = features_ND - mean_D
    return Moments(mean_D, _gram(centred) / (count - 1), count)


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), by eigenvalues of a symmetric matrix (no general root).

    Those of A^1/2 B A^1/2 are those of R^T B R for whatever R with R R^T = A: a Cholesky factor, or where A is singular a root.
    """
    root, singular = torch.linalg.cholesky_ex(a.cov_DD)
    if singular:
        values, vectors = torch.linalg.eigh(a.cov_DD)
        root = vectors * values.clamp_min(0).sqrt()
    inner = root.T @ b.cov_DD @ root
    cross = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(0).sqrt().sum()
    distance = (a.mean_D - b.mean_D).square().sum() + a.cov_DD.trace() + b.cov_DD.trace() - 2 * cross
    return float(distance.clamp_min(0))

"""Kernel distance of two feature clouds (KID: Bińkowski et al. 2018). N, M images, D features, B images of a subset.

The name KID belongs to features of the Inception network; with another network's features it is the same distance of other things.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vae.metrics.frechet import TooFewSamplesError

SUBSET_IMAGES = 200  # the value is unbiased whatever this is; more subsets tell the error better, larger ones make it smaller
LEAST_SUBSETS = 2  # fewer have no spread to tell an error by


@dataclass(frozen=True)
class KernelDistance:
    """The squared distance, its standard error, and the number of subsets that both come from."""

    value: float
    standard_error: float
    subsets: int


def minimum_samples(subset_images: int = SUBSET_IMAGES) -> int:
    """The least number of images on either side for a kernel distance."""
    return LEAST_SUBSETS * subset_images


def _kernel(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    return (a_ND @ b_MD.T / a_ND.shape[1] + 1) ** 3


def _squared_distance(a_BD: Tensor, b_BD: Tensor) -> Tensor:
    """The unbiased estimate of MMD^2: an image is never compared with itself, so a set's own terms are without the diagonal."""
    count = len(a_BD)
    own = sum((k.sum() - k.diagonal().sum()) / (count * (count - 1)) for k in (_kernel(a_BD, a_BD), _kernel(b_BD, b_BD)))
    return own - 2 * _kernel(a_BD, b_BD).mean()


def kernel_distance(a_ND: Tensor, b_MD: Tensor, seed: int, subset_images: int = SUBSET_IMAGES) -> KernelDistance:
    """MMD^2 under the kernel (x.y / D + 1)^3, unbiased: the mean over subsets; it may be below zero. A function of its arguments.

    Subsets are disjoint, unlike those of the paper, so they are independent and their spread gives an honest standard error
    (block tests: Zaremba et al. 2013). Memory is that of one subset. TooFewSamplesError below ``minimum_samples``.
    """
    fewest, needed = min(len(a_ND), len(b_MD)), minimum_samples(subset_images)
    if fewest < needed:
        raise TooFewSamplesError(f"a kernel distance in subsets of {subset_images} needs {needed} images, there are {fewest}")
    generator = torch.Generator().manual_seed(seed)
    subsets = fewest // subset_images
    # Stored order is sorted by folder: a subset of neighbours would be all of one kind.
    order_a, order_b = (torch.randperm(len(each), generator=generator).to(each.device) for each in (a_ND, b_MD))
    values = []
    for rows in range(0, subsets * subset_images, subset_images):
        a_BD, b_BD = (each[order[rows : rows + subset_images]].double() for each, order in ((a_ND, order_a), (b_MD, order_b)))
        values.append(_squared_distance(a_BD, b_BD))
    values_S = torch.stack(values)
    return KernelDistance(float(values_S.mean()), float(values_S.std() / subsets**0.5), subsets)


@dataclass(frozen=True)
class TwoSamples:
    """The squared distance of two sets, and the standard deviation that it has where both are of one kind."""

    value: float
    spread: float

    @property
    def deviations(self) -> float:
        """The distance in standard deviations of chance; about 0 where both are of one kind."""
        return self.value / max(self.spread, 1e-12)


def two_samples(a_ND: Tensor, b_MD: Tensor, seed: int, permutations: int = 200) -> TwoSamples:
    """Whether two sets of features come from one kind of image: MMD^2 under the kernel above, unbiased, beside that of shuffled sets.

    The permutation test of Gretton et al. 2012 (A Kernel Two-Sample Test): all images in one bag, parted anew by chance. Memory is
    that of a matrix of (N + M)^2. TooFewSamplesError where either has fewer than two images.
    """
    n, m = len(a_ND), len(b_MD)
    if min(n, m) < 2:
        raise TooFewSamplesError(f"two sets of images are compared from 2 images each on, there are {n} and {m}")
    pooled = torch.cat([a_ND, b_MD]).double()
    kernel = _kernel(pooled, pooled)
    kernel.fill_diagonal_(0)
    generator = torch.Generator().manual_seed(seed)
    first = torch.zeros(n + m, permutations + 1, dtype=torch.float64)
    first[:n, 0] = 1
    for column in range(1, permutations + 1):
        first[torch.randperm(n + m, generator=generator)[:n], column] = 1
    first = first.to(kernel.device)
    towards = kernel @ first
    own_a, across = (first * towards).sum(0), ((1 - first) * towards).sum(0)
    own_b = kernel.sum() - own_a - 2 * across
    value = own_a / (n * (n - 1)) + own_b / (m * (m - 1)) - 2 * across / (n * m)
    return TwoSamples(float(value[0]), float(value[1:].std()))

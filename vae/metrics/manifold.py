"""Density, coverage (Naeem et al. 2020) and precision: do generated images lie where real ones do, and are all real ones reached?

N real, M generated images, D features. Each real image has a ball that reaches to its k-th nearest real neighbour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vae.metrics.frechet import TooFewSamplesError

NEIGHBOURS = 5
MINIMUM_IMAGES = 400  # coverage is a share of balls: were these independent, its standard error would be 0.025 at most
BLOCK_VALUES = 2**22  # distances at a time: 32 MiB whatever N and M are
SAME = 1e-12  # of the squared lengths: nearer than this, features in single precision are the same


@dataclass(frozen=True)
class Manifold:
    """Density (1 is expected of a fresh sample of the same images; it has no upper end), coverage and precision (0 to 1)."""

    density: float
    coverage: float
    precision: float


def squared_distances(a_ND: Tensor, b_MD: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks (rows, M) of |a - b|^2 for float64 features, and of what in each is no more than rounding; a copy is at exactly 0."""
    lengths_M = b_MD.square().sum(1)
    for rows_RD in a_ND.split(max(1, BLOCK_VALUES // len(b_MD))):
        lengths_RM = rows_RD.square().sum(1)[:, None] + lengths_M
        # By the product of matrices, which is fast and cancels: what it leaves of a copy is rounding, and no distance.
        squared_RM, rounding_RM = lengths_RM - 2 * rows_RD @ b_MD.T, SAME * lengths_RM
        yield squared_RM.masked_fill_(squared_RM <= rounding_RM, 0.0), rounding_RM


def _squared_radii(real_ND: Tensor, neighbours: int) -> Tensor:
    """Squared distance (N,) of each image to its k-th nearest other one; the nearest of all is the image itself."""
    blocks = squared_distances(real_ND, real_ND)
    return torch.cat([block.topk(neighbours + 1, largest=False).values[:, -1] for block, _ in blocks])


def density_and_coverage(real_ND: Tensor, generated_MD: Tensor, neighbours: int = NEIGHBOURS) -> Manifold:
    """Density: real balls that a generated image lies in, over k, on average; coverage: share of real balls that hold a generated image.

    Precision: share of generated images that lie in a real ball (Kynkäänniemi et al. 2019).

    A ball is without its border, but a copy of its centre is always in it, even where doubles of a real image leave it no radius.
    Coverage rises with M / N: compare values of equal counts only. TooFewSamplesError below ``MINIMUM_IMAGES`` on either side.
    """
    fewest = min(len(real_ND), len(generated_MD))
    if fewest < MINIMUM_IMAGES:
        raise TooFewSamplesError(f"density and coverage need {MINIMUM_IMAGES} images, there are {fewest}")
    middle_D = real_ND.double().mean(0)  # distances stay as they are, and less of them cancels
    real_ND, generated_MD = real_ND.double() - middle_D, generated_MD.double() - middle_D
    radii_N = _squared_radii(real_ND, neighbours)
    inside, held, reached_N = 0, 0, torch.zeros(len(real_ND), dtype=torch.bool, device=real_ND.device)
    for squared_RN, rounding_RN in squared_distances(generated_MD, real_ND):
        inside_RN = (squared_RN < radii_N - rounding_RN) | (squared_RN == 0)
        inside += int(inside_RN.sum())
        held += int(inside_RN.any(1).sum())
        reached_N |= inside_RN.any(0)
    return Manifold(inside / (neighbours * len(generated_MD)), float(reached_N.double().mean()), held / len(generated_MD))

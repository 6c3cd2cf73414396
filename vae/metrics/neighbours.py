"""Are samples copies of training images? Nearest training neighbours of samples, beside those of images that training has not seen.

M queries, N training images, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vae.metrics.frechet import TooFewSamplesError
from vae.metrics.manifold import squared_distances

NEAR_QUANTILE = 0.05  # of unseen images' distances: nearer than this counts as near
MINIMUM_IMAGES = 200  # the quantile is then the tenth smallest distance


@dataclass(frozen=True)
class Nearest:
    """Distance (M,), float64, of each query to the nearest training image, and int64 (M,) which one it is."""

    distance_M: Tensor
    index_M: Tensor


def nearest(queries_MD: Tensor, training_ND: Tensor) -> Nearest:
    """The nearest training image of each query, by Euclidean distance of features; memory is bounded whatever M and N are."""
    middle_D = training_ND.double().mean(0)
    blocks = squared_distances(queries_MD.double() - middle_D, training_ND.double() - middle_D)
    squared, index = zip(*(block.min(1) for block, _ in blocks), strict=True)
    return Nearest(torch.cat(squared).sqrt(), torch.cat(index))


def near_share(samples: Nearest, unseen: Nearest) -> float:
    """Share of samples that lie nearer to a training image than 95 of 100 unseen images do: 0.05 where nothing is remembered.

    Above that, samples crowd around training images; an exact copy always counts. TooFewSamplesError below ``MINIMUM_IMAGES``.
    """
    fewest = min(len(samples.distance_M), len(unseen.distance_M))
    if fewest < MINIMUM_IMAGES:
        raise TooFewSamplesError(
            f"the share of samples near to training images needs {MINIMUM_IMAGES} images, there are {fewest}"
        )
    edge = torch.quantile(unseen.distance_M, NEAR_QUANTILE)
    near_M = (samples.distance_M < edge) | (samples.distance_M == 0)
    return float(near_M.double().mean())

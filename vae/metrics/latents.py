"""The aggregate posterior q(z) = mean over images of q(z|x), against N(0, I). N images, D latent dimensions, values in nats.

The mean rate is KL(q(z) || p(z)) plus what a latent tells about which image it came from (Hoffman and Johnson 2016). The former
is what samples of N(0, I) suffer from, the latter what the latents are for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vae.metrics.frechet import TooFewSamplesError, minimum_samples
from vae.objective import log_normal, rate_per_dim, reparameterize

BLOCK_VALUES = 2**22  # log densities at a time: 32 MiB whatever N is


@dataclass(frozen=True)
class AggregatePosterior:
    """``kl_nats`` + ``mutual_information_nats`` = the mean rate; ``moment_gap_nats`` <= KL(q(z) || p(z)) <= ``kl_nats``, in expectation."""

    kl_nats: float
    mutual_information_nats: float
    moment_gap_nats: float


def moment_gap(mean_ND: Tensor, logvar_ND: Tensor) -> float:
    """KL(N(m, C) || N(0, I)) where m, C are mean and covariance of the set's aggregate posterior; TooFewSamplesError below 4 D.

    A lower bound of KL(q(z) || p(z)): log p is quadratic, so the rest is the KL of q(z) to the normal distribution of its moments.
    """
    count, dim = mean_ND.shape
    if count < minimum_samples(dim):
        raise TooFewSamplesError(f"moments of {dim} latents need {minimum_samples(dim)} images, there are {count}")
    mean_ND, logvar_ND = mean_ND.double(), logvar_ND.double()
    middle_D = mean_ND.mean(0)
    centred_ND = mean_ND - middle_D
    cov_DD = centred_ND.T @ centred_ND / count + torch.diag(logvar_ND.exp().mean(0))
    return float(0.5 * (cov_DD.trace() + middle_D.square().sum() - dim - torch.linalg.slogdet(cov_DD).logabsdet))


def _log_aggregate(z_MD: Tensor, mean_ND: Tensor, logvar_ND: Tensor) -> Tensor:
    """log (1/N) sum_j q(z_i|x_j) for each z (M,), float64: the squares are multiplied out, so a block is two products of matrices."""
    precision_ND = torch.exp(-logvar_ND)
    weighted_ND = mean_ND * precision_ND
    constant_N = (weighted_ND * mean_ND + logvar_ND).sum(1)
    blocks = []
    for rows_RD in z_MD.split(max(1, BLOCK_VALUES // len(mean_ND))):
        terms_RN = rows_RD.square() @ precision_ND.T - 2 * rows_RD @ weighted_ND.T + constant_N
        blocks.append(torch.logsumexp(-0.5 * terms_RN, dim=1))
    return torch.cat(blocks) - 0.5 * mean_ND.shape[1] * math.log(2 * math.pi) - math.log(len(mean_ND))


def aggregate_posterior(mean_ND: Tensor, logvar_ND: Tensor, noise_ND: Tensor) -> AggregatePosterior:
    """How far q(z) is from N(0, I), and how much z tells about its image, by one latent of each image, made of ``noise_ND``.

    For the N images as the whole data set, up to the noise of the draws. Of all possible images it bounds the information from
    below, since no z tells more than log N (Poole et al. 2019), and so the KL from above: where the information is near log N,
    ``kl_nats`` is little more than rate - log N. Posteriors are diagonal normals that do not depend on the draw: no hierarchy.
    """
    mean_ND, logvar_ND = mean_ND.double(), logvar_ND.double()
    z_ND = reparameterize(mean_ND, logvar_ND, noise_ND.double())
    # The same draw in both terms: its noise cancels, and none of the differences is above log N.
    information_N = log_normal(z_ND, mean_ND, logvar_ND) - _log_aggregate(z_ND, mean_ND, logvar_ND)
    rate, information = float(rate_per_dim(mean_ND, logvar_ND).sum(1).mean()), float(information_N.mean())
    return AggregatePosterior(rate - information, information, moment_gap(mean_ND, logvar_ND))

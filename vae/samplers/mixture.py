"""A Gaussian mixture fitted to the latents of the training images. N samples, D latent dimensions, K components, F monomials."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Self

import numpy as np
import torch
from torch import Tensor

from vae.config import PriorConfig
from vae.objective import log_normal
from vae.samplers.fitting import Standard, drawn, one_thread, split

HELD_OUT = 5  # one in so many latents, to choose the number of components by
CHOICE_ITERATIONS, ITERATIONS = 10, 30  # of expectation maximisation: sizes differ long before each has converged
LEAST_LATENTS = 4  # for each dimension of a component
TOLERANCE_NATS, LEAST_VARIANCE = 1e-3, 1e-5  # a gain that ends it; what is added to each variance
BLOCK = 2048  # latents at a time: of many dimensions there are many products
FALLS = 2  # in a row, after which no larger size is tried


def _sizes(most: int) -> Iterator[int]:
    """1, 2, 4, ... and ``most``."""
    return itertools.chain(itertools.takewhile(lambda k: k < most, (2**i for i in itertools.count())), [most])


def _monomials(x_ND: Tensor) -> Tensor:
    """1, x_i and x_i x_j for i <= j (F, N): every Gaussian's log-density is linear in them, and so are its moments."""
    x_DN, (rows, columns) = x_ND.T.contiguous(), torch.triu_indices(x_ND.shape[1], x_ND.shape[1])
    return torch.cat([x_DN.new_ones(1, len(x_ND)), x_DN, x_DN[rows] * x_DN[columns]])


def _moments(sums_KF: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (K,), means (K, D) and covariances (K, D, D) from what each component's share of the monomials sums to."""
    count_K = sums_KF[:, 0] + 10 * torch.finfo(sums_KF.dtype).eps
    rows, columns = torch.triu_indices(dim, dim)
    second_KDD = sums_KF.new_zeros(len(sums_KF), dim, dim)
    second_KDD[:, rows, columns] = second_KDD[:, columns, rows] = sums_KF[:, 1 + dim :] / count_K[:, None]
    means_KD = sums_KF[:, 1 : 1 + dim] / count_K[:, None]
    floor_DD = LEAST_VARIANCE * torch.eye(dim, dtype=sums_KF.dtype)
    return count_K / count_K.sum(), means_KD, second_KDD - means_KD[:, :, None] * means_KD[:, None] + floor_DD


def _coefficients(weights_K: Tensor, means_KD: Tensor, cholesky_KDD: Tensor) -> Tensor:
    """Of the monomials (K, F), for log w_k + log N(x; m_k, L_k L_k^T)."""
    dim = means_KD.shape[1]
    precision_KDD = torch.cholesky_inverse(cholesky_KDD)
    linear_KD = (precision_KDD @ means_KD[:, :, None])[:, :, 0]
    constant_K = weights_K.log() - 0.5 * ((linear_KD * means_KD).sum(1) + dim * math.log(2 * math.pi))
    constant_K = constant_K - cholesky_KDD.diagonal(dim1=1, dim2=2).log().sum(1)
    rows, columns = torch.triu_indices(dim, dim)
    twice_F = torch.where(rows == columns, 0.5, 1.0)  # x_i x_j stands for x_j x_i too
    return torch.cat([constant_K[:, None], linear_KD, -twice_F * precision_KDD[:, rows, columns]], 1)


def maximised(x_ND: Tensor, size: int, iterations: int, seed: int) -> dict[str, Tensor]:
    """Expectation maximisation (Dempster, Laird, Rubin 1977) from k-means clusters, of latents in standard coordinates, float64.

    The numbers are those of scikit-learn's GaussianMixture. Sums over latents are products of two matrices here, where it walks
    through components of which each is too small to keep a processor busy.
    """
    from sklearn.cluster import KMeans

    label_N = KMeans(size, n_init=1, random_state=np.random.RandomState(seed)).fit(x_ND.numpy()).labels_
    share_KN = torch.nn.functional.one_hot(torch.from_numpy(label_N).long(), size).T.to(x_ND.dtype)
    blocks = x_ND.split(BLOCK)
    sums_KF = torch.stack(
        [share_KB @ _monomials(x_BD).T for share_KB, x_BD in zip(share_KN.split(BLOCK, 1), blocks, strict=True)]
    ).sum(0)
    nats = -math.inf
    for _ in range(iterations):
        weights_K, means_KD, covariance_KDD = _moments(sums_KF, x_ND.shape[1])
        coefficients_KF = _coefficients(weights_K, means_KD, torch.linalg.cholesky(covariance_KDD))
        before, nats, sums_KF = nats, 0.0, torch.zeros_like(sums_KF)
        for x_BD in blocks:
            monomials_FB = _monomials(x_BD)
            joint_KB = coefficients_KF @ monomials_FB
            most_B = joint_KB.amax(0)
            share_KB = joint_KB.sub_(most_B).exp_()  # of which most of the time goes: once, for both the density and the shares
            total_B = share_KB.sum(0)
            nats += (most_B + total_B.log()).sum().item() / len(x_ND)
            sums_KF += share_KB.div_(total_B) @ monomials_FB.T
        if abs(nats - before) < TOLERANCE_NATS:
            break
    weights_K, means_KD, covariance_KDD = _moments(sums_KF, x_ND.shape[1])
    return {"weights_K": weights_K, "means_KD": means_KD, "cholesky_KDD": torch.linalg.cholesky(covariance_KDD)}


class Mixture:
    """A Gaussian mixture with full covariances, of as many components as held-out latents ask for."""

    name = "mixture"

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    @classmethod
    def fit(cls, z_ND: Tensor, config: PriorConfig, seed: int) -> Self:
        """Expectation maximisation with 1, 2, 4, ... components; the size under which held-out latents are likeliest, of them all."""
        from threadpoolctl import threadpool_limits

        count, dim = z_ND.shape
        most = max(1, min(config.mixture_components, count // (LEAST_LATENTS * dim)))
        with one_thread(), threadpool_limits(1):  # torch's, and those of scikit-learn
            standard, x_ND = Standard.fit(z_ND, seed)
            found = cls._of_size(x_ND, cls._chosen(x_ND, most, seed), ITERATIONS, seed)
            found.tensors["means_KD"] = standard.inverse(found.tensors["means_KD"])
            found.tensors["cholesky_KDD"] = standard.cholesky_DD @ found.tensors["cholesky_KDD"]
        return found

    @classmethod
    def _chosen(cls, x_ND: Tensor, most: int, seed: int) -> int:
        kept_ND, held_ND = split(x_ND, HELD_OUT, seed)
        nats: dict[int, float] = {}
        for size in _sizes(most) if most > 1 else ():
            nats[size] = cls._of_size(kept_ND, size, CHOICE_ITERATIONS, seed).log_prob(held_ND).mean().item()
            last = list(nats.values())[-FALLS - 1 :]
            if len(last) > FALLS and all(later < earlier for earlier, later in itertools.pairwise(last)):
                break
        return max(nats, key=nats.__getitem__, default=1)

    @classmethod
    def _of_size(cls, x_ND: Tensor, size: int, iterations: int, seed: int) -> Self:
        if size == 1:  # so standard coordinates are made
            dim = x_ND.shape[1]
            return cls({"weights_K": torch.ones(1), "means_KD": torch.zeros(1, dim), "cholesky_KDD": torch.eye(dim)[None]})
        mixture = maximised(x_ND.double(), size, iterations, seed)
        return cls({name: tensor.float().contiguous() for name, tensor in mixture.items()})

    def log_prob(self, z_ND: Tensor) -> Tensor:
        """Exact log-density of latents (N,), in nats."""
        parts = []
        for weight, mean_D, cholesky_DD in zip(
            *(self.tensors[k] for k in ("weights_K", "means_KD", "cholesky_KDD")), strict=True
        ):
            noise_ND = torch.linalg.solve_triangular(cholesky_DD, (z_ND - mean_D).T, upper=False).T
            parts.append(weight.log() + log_normal(noise_ND) - cholesky_DD.diagonal().log().sum())
        return torch.stack(parts).logsumexp(0)

    def sample(self, n: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Latents (n, D); ``temperature`` scales the spread within each component."""
        component_N = drawn(self.tensors["weights_K"], n, generator)
        means_KD = self.tensors["means_KD"]
        noise_ND = torch.randn(n, means_KD.shape[1], generator=generator) * temperature
        return means_KD[component_N] + torch.einsum("nij,nj->ni", self.tensors["cholesky_KDD"][component_N], noise_ND)

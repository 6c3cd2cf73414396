"""A Gaussian mixture fitted to the latents of the training images. N samples, D latent dimensions, K components."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from vae.config import PriorConfig
from vae.objective import log_normal
from vae.samplers.fitting import Standard, drawn, one_thread, split

HELD_OUT = 5  # one in so many latents, to choose the number of components by
CHOICE_ITERATIONS, ITERATIONS = 10, 30  # of expectation maximisation: sizes differ long before each has converged
LEAST_LATENTS = 4  # for each dimension of a component
FALLS = 2  # in a row, after which no larger size is tried


def _sizes(most: int) -> Iterator[int]:
    """1, 2, 4, ... and ``most``."""
    return itertools.chain(itertools.takewhile(lambda k: k < most, (2**i for i in itertools.count())), [most])


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
        from sklearn.mixture import GaussianMixture

        if size == 1:  # so standard coordinates are made
            dim = x_ND.shape[1]
            return cls({"weights_K": torch.ones(1), "means_KD": torch.zeros(1, dim), "cholesky_KDD": torch.eye(dim)[None]})
        fitted = GaussianMixture(size, covariance_type="full", reg_covar=1e-5, max_iter=iterations, tol=1e-3, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stopping before full convergence is the budget, not a fault
            fitted.fit(x_ND.double().numpy())
        return cls(
            {
                "weights_K": torch.from_numpy(fitted.weights_).float(),
                "means_KD": torch.from_numpy(fitted.means_).float(),
                "cholesky_KDD": torch.linalg.cholesky(torch.from_numpy(fitted.covariances_)).float().contiguous(),
            }
        )

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

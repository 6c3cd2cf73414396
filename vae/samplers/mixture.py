"""A Gaussian mixture fitted to the latents of the training images. N samples, D latent dimensions, K components."""

from __future__ import annotations

import warnings
from typing import Self

import torch
from torch import Tensor

from vae.config import PriorConfig


class Mixture:
    """A Gaussian mixture with full covariances."""

    name = "mixture"

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    @classmethod
    def fit(cls, z_ND: Tensor, config: PriorConfig, seed: int) -> Self:
        """Expectation maximisation on posterior samples; fewer components where there are few latents."""
        from sklearn.mixture import GaussianMixture
        from threadpoolctl import threadpool_limits

        count, dim = z_ND.shape
        components = max(1, min(config.mixture_components, count // (4 * dim)))
        fitted = GaussianMixture(components, covariance_type="full", reg_covar=1e-4, max_iter=60, tol=1e-3, random_state=seed)
        with warnings.catch_warnings(), threadpool_limits(1):  # one thread: sums in one order
            warnings.simplefilter("ignore")  # stopping before full convergence is the budget, not a fault
            fitted.fit(z_ND.double().numpy())
        covariance_KDD = torch.from_numpy(fitted.covariances_)
        return cls(
            {
                "weights_K": torch.from_numpy(fitted.weights_).float(),
                "means_KD": torch.from_numpy(fitted.means_).float(),
                "cholesky_KDD": torch.linalg.cholesky(covariance_KDD).float(),
            }
        )

    def sample(self, n: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Latents (n, D); ``temperature`` scales the spread within each component."""
        edges_K = self.tensors["weights_K"].cumsum(0)
        component_N = torch.searchsorted(edges_K, torch.rand(n, generator=generator) * edges_K[-1]).clamp_max(len(edges_K) - 1)
        means_KD = self.tensors["means_KD"]
        noise_ND = torch.randn(n, means_KD.shape[1], generator=generator) * temperature
        return means_KD[component_N] + torch.einsum("nij,nj->ni", self.tensors["cholesky_KDD"][component_N], noise_ND)

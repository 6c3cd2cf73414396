"""Distributions over latents to sample from: the model's own prior, or a density fitted to the training latents afterwards.

N samples, D latent dimensions, K mixture components. A sampler is one class and one line in ``SAMPLERS``; its tensors are saved
with the model. Fitting a density after training: Ghosh et al., From Variational to Deterministic Autoencoders, 2020.
"""

from __future__ import annotations

import warnings
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from vae.images import to_model_range
from vae.objective import reparameterize


class Normal:
    """The prior N(0, I) that the bound is about; nothing to fit."""

    name = "normal"

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.latent_dim = int(tensors["latent_dim"])

    @classmethod
    def fit(cls, z_ND: Tensor, components: int, seed: int) -> Self:
        return cls({"latent_dim": torch.tensor(z_ND.shape[1])})

    def sample(self, n: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Latents (n, D); ``temperature`` scales the standard deviation."""
        return torch.randn(n, self.latent_dim, generator=generator) * temperature


class Mixture:
    """A Gaussian mixture with full covariances."""

    name = "mixture"

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    @classmethod
    def fit(cls, z_ND: Tensor, components: int, seed: int) -> Self:
        """Expectation maximisation on posterior samples; fewer components where there are few latents."""
        from sklearn.mixture import GaussianMixture
        from threadpoolctl import threadpool_limits

        count, dim = z_ND.shape
        components = max(1, min(components, count // (4 * dim)))
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


Sampler = Normal | Mixture
ENCODED = 256  # images at a time


@torch.no_grad()
def fit_prior(model: nn.Module, images_NHWC: np.ndarray, name: str, components: int, seed: int) -> Sampler:
    """The density ``name`` fitted to one posterior sample of each uint8 image."""
    device = next(model.parameters()).device
    parts = [model.encode(to_model_range(x.to(device))) for x in torch.from_numpy(images_NHWC).split(ENCODED)]
    mean_ND, logvar_ND = (torch.cat([part[i].cpu() for part in parts]) for i in (0, 1))
    noise_ND = torch.randn(mean_ND.shape, generator=torch.Generator().manual_seed(seed))
    return SAMPLERS[name].fit(reparameterize(mean_ND, logvar_ND, noise_ND), components, seed)


SAMPLERS: dict[str, type[Normal] | type[Mixture]] = {"normal": Normal, "mixture": Mixture}

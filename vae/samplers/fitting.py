"""What each fit of a prior begins with: standard coordinates, held-out latents, one thread. N samples, D latent dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

FLOOR = 1e-3  # the least standard deviation of a latent, where the model's prior has 1: finer than that a decoder does not see


@dataclass(frozen=True)
class Standard:
    """The affine map x = L^-1 (z - mean), L lower triangular (D, D), to mean 0 and covariance I, whatever the latents were."""

    mean_D: Tensor
    cholesky_DD: Tensor

    @classmethod
    def fit(cls, z_ND: Tensor, seed: int) -> tuple[Self, Tensor]:
        """The map, and the latents in it (N, D), float32.

        To each latent noise of ``FLOOR`` is added, and its variance to the covariance: so a constant dimension, dimensions that
        copy each other or fewer latents than dimensions have a density too.
        """
        z_ND = z_ND.double()
        centred_ND = z_ND - z_ND.mean(0)
        covariance_DD = centred_ND.T @ centred_ND / len(z_ND)
        floor = FLOOR * covariance_DD.diagonal().max().sqrt().clamp_min(1)  # relative to latents too large for double's digits
        identity_DD = torch.eye(z_ND.shape[1], dtype=torch.double)
        cholesky_DD = torch.linalg.cholesky(covariance_DD + floor.square() * identity_DD).contiguous()
        standard = cls(z_ND.mean(0).float(), cholesky_DD.float())
        noise_ND = torch.randn(z_ND.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
        return standard, torch.linalg.solve_triangular(cholesky_DD, (centred_ND + floor * noise_ND).T, upper=False).T.float()

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"mean_D": self.mean_D, "cholesky_DD": self.cholesky_DD}

    def forward(self, z_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Standard coordinates (N, D), and log |det dx/dz|, one number."""
        x_ND = torch.linalg.solve_triangular(self.cholesky_DD, (z_ND - self.mean_D).T, upper=False).T
        return x_ND, -self.cholesky_DD.diagonal().log().sum()

    def inverse(self, x_ND: Tensor) -> Tensor:
        """Latents (N, D) of standard coordinates."""
        return self.mean_D + x_ND @ self.cholesky_DD.T


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order: a fit is the same wherever it is done, and so small that more threads would not make it faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def split(x_ND: Tensor, one_in: int, seed: int) -> tuple[Tensor, Tensor]:
    """Latents to fit to, and one in so many, at least one, held out to judge by."""
    order_N = torch.randperm(len(x_ND), generator=torch.Generator().manual_seed(seed))
    held = max(1, len(x_ND) // one_in)
    return x_ND[order_N[held:]], x_ND[order_N[:held]]


def drawn(weights_K: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Numbers of (n,) draws out of K, as frequent as their weights, which need not sum to 1."""
    edges_K = weights_K.cumsum(0)
    return torch.searchsorted(edges_K, torch.rand(n, generator=generator) * edges_K[-1]).clamp_max(len(edges_K) - 1)

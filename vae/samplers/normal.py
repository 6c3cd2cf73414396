"""The prior N(0, I) that the bound is about. N samples, D latent dimensions."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from vae.config import PriorConfig
from vae.objective import log_normal


class Normal:
    """The prior N(0, I) that the bound is about; nothing to fit."""

    name = "normal"

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.latent_dim = int(tensors["latent_dim"])

    @classmethod
    def fit(cls, z_ND: Tensor, config: PriorConfig, seed: int) -> Self:
        return cls({"latent_dim": torch.tensor(z_ND.shape[1])})

    def log_prob(self, z_ND: Tensor) -> Tensor:
        """Exact log-density of latents (N,), in nats."""
        return log_normal(z_ND)

    def sample(self, n: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Latents (n, D); ``temperature`` scales the standard deviation."""
        return torch.randn(n, self.latent_dim, generator=generator) * temperature

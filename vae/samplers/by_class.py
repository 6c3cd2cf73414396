"""A density of its own for the latents of each class. N samples, D latent dimensions, K classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from vae.config import PriorConfig
from vae.samplers.fitting import drawn

if TYPE_CHECKING:
    from vae.samplers import Sampler

LEAST_LATENTS = 10  # for each dimension: a class with fewer gets the density of all classes
SHARES, DENSITIES = "shares_K", "densities_K"


class ByClass:
    """p(z | class) of a class-conditional model, and how often each class is drawn where nobody says which.

    ``density_K`` is the number of each class's density in ``samplers``: classes with few images share one.
    """

    def __init__(self, samplers: list[Sampler], density_K: Tensor, shares_K: Tensor) -> None:
        self.samplers, self.density_K, self.shares_K = samplers, density_K, shares_K
        self.name = samplers[0].name

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of it, for a file; of it ``load`` makes the same again."""
        own = {f"{j}.{name}": tensor for j, sampler in enumerate(self.samplers) for name, tensor in sampler.tensors.items()}
        return {SHARES: self.shares_K, DENSITIES: self.density_K} | own

    @classmethod
    def load(cls, kind: Callable[[dict[str, Tensor]], Sampler], tensors: dict[str, Tensor]) -> Self:
        """What was saved as ``tensors``, its densities of ``kind``."""
        rest = dict(tensors)
        shares_K, density_K = rest.pop(SHARES), rest.pop(DENSITIES)
        of_density: list[dict[str, Tensor]] = [{} for _ in range(int(density_K.max()) + 1)]
        for key, tensor in rest.items():
            number, name = key.split(".", 1)
            of_density[int(number)][name] = tensor
        return cls([kind(each) for each in of_density], density_K, shares_K)

    @classmethod
    def fit(cls, kind: type[Sampler], z_ND: Tensor, label_N: Tensor, classes: int, config: PriorConfig, seed: int) -> Self:
        """Fitted to latents of known class: a function of the arguments.

        A density that is trained sees each latent as often as one of all classes would.
        """
        counts_K = torch.bincount(label_N, minlength=classes)
        alone_K = counts_K >= LEAST_LATENTS * z_ND.shape[1]
        samplers: list[Sampler] = []
        for k in alone_K.nonzero()[:, 0].tolist():
            own_ND = z_ND[label_N == k]
            steps = max(1, round(config.steps * len(own_ND) / len(z_ND)))
            samplers.append(kind.fit(own_ND, replace(config, steps=steps), seed))
        if not alone_K.all():
            samplers.append(kind.fit(z_ND, config, seed))
        density_K = torch.where(alone_K, alone_K.cumsum(0) - 1, len(samplers) - 1)
        return cls(samplers, density_K, counts_K / len(z_ND))

    def classes(self, n: int, generator: torch.Generator) -> Tensor:
        """Class numbers (n,), as frequent as among the training images."""
        return drawn(self.shares_K, n, generator)

    def log_prob(self, z_ND: Tensor, label_N: Tensor) -> Tensor:
        """log p(z | class) of latents (N, D) of these classes, in nats (N,), as the classes' densities tell it."""
        found_N, density_N = z_ND.new_empty(len(z_ND)), self.density_K[label_N]
        for j in density_N.unique().tolist():
            found_N[density_N == j] = self.samplers[j].log_prob(z_ND[density_N == j])
        return found_N

    def sample(self, label_N: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Latents (N, D) of these classes, float32."""
        order, parts = [], []
        density_N = self.density_K[label_N]
        for j in density_N.unique().tolist():
            order.append((density_N == j).nonzero()[:, 0])
            parts.append(self.samplers[j].sample(len(order[-1]), generator, temperature))
        return torch.cat(parts)[torch.cat(order).argsort()]

"""A density of its own for the latents of each class. N samples, D latent dimensions, K classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from vae.config import PriorConfig

if TYPE_CHECKING:
    from vae.samplers import Sampler

LEAST_LATENTS = 10  # for each dimension: a class with fewer gets the density of all classes
SHARES = "shares_K"


class ByClass:
    """p(z | class) of a class-conditional model, and how often each class is drawn where nobody says which."""

    def __init__(self, samplers: list[Sampler], shares_K: Tensor) -> None:
        self.samplers, self.shares_K = samplers, shares_K
        self.name = samplers[0].name

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of it, for a file; of it ``load`` makes the same again."""
        own = {
            f"{k}.{name}": tensor.clone() for k, sampler in enumerate(self.samplers) for name, tensor in sampler.tensors.items()
        }
        return {SHARES: self.shares_K} | own

    @classmethod
    def load(cls, kind: Callable[[dict[str, Tensor]], Sampler], tensors: dict[str, Tensor]) -> Self:
        """What was saved as ``tensors``, its densities of ``kind``."""
        of_class: list[dict[str, Tensor]] = [{} for _ in tensors[SHARES]]
        for key, tensor in tensors.items():
            if key != SHARES:
                number, name = key.split(".", 1)
                of_class[int(number)][name] = tensor
        return cls([kind(each) for each in of_class], tensors[SHARES])

    @classmethod
    def fit(cls, kind: type[Sampler], z_ND: Tensor, label_N: Tensor, classes: int, config: PriorConfig, seed: int) -> Self:
        """Fitted to latents of known class: a function of the arguments.

        A density that is trained sees each latent as often as one of all classes would.
        """
        counts_K = torch.bincount(label_N, minlength=classes)
        least, pooled = LEAST_LATENTS * z_ND.shape[1], None
        samplers: list[Sampler] = []
        for k, count in enumerate(counts_K.tolist()):
            if count >= least:
                steps = max(1, round(config.steps * count / len(z_ND)))
                samplers.append(kind.fit(z_ND[label_N == k], replace(config, steps=steps), seed))
            else:
                pooled = pooled or kind.fit(z_ND, config, seed)
                samplers.append(pooled)
        return cls(samplers, counts_K / len(z_ND))

    def classes(self, n: int, generator: torch.Generator) -> Tensor:
        """Class numbers (n,), as frequent as among the training images."""
        edges_K = self.shares_K.cumsum(0)
        return torch.searchsorted(edges_K, torch.rand(n, generator=generator) * edges_K[-1]).clamp_max(len(edges_K) - 1)

    def sample(self, label_N: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Latents (N, D) of these classes, float32."""
        found: Tensor | None = None
        for k in label_N.unique().tolist():
            rows = (label_N == k).nonzero()[:, 0]
            drawn = self.samplers[k].sample(len(rows), generator, temperature)
            if found is None:
                found = drawn.new_empty(len(label_N), drawn.shape[1])
            found[rows] = drawn
        assert found is not None, "no classes were asked for"
        return found

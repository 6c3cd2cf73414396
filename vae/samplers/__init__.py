"""Distributions over latents to sample from: the model's own prior, or a density fitted to the training latents afterwards.

One file and one line each. Fitting a density after training: Ghosh et al., From Variational to Deterministic Autoencoders, 2020.
"""

from __future__ import annotations

from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from vae.config import PriorConfig
from vae.data import Selection
from vae.images import to_model_range
from vae.models.base import VAE
from vae.samplers.by_class import ByClass
from vae.samplers.flow import Flow
from vae.samplers.mixture import Mixture
from vae.samplers.normal import Normal
from vae.samplers.second_stage import SecondStage

ENCODED = 256  # images at a time


class Sampler(Protocol):
    """A distribution over latents; ``tensors`` is all of it, and is saved with the model. ``name`` is its key in ``SAMPLERS``."""

    name: str
    tensors: dict[str, Tensor]

    def __init__(self, tensors: dict[str, Tensor]) -> None: ...

    @classmethod
    def fit(cls, z_ND: Tensor, config: PriorConfig, seed: int) -> Self:
        """Fitted to latents (N, D), one posterior sample of each training image: a function of the arguments."""
        ...

    def log_prob(self, z_ND: Tensor) -> Tensor:
        """The log-density of latents (N, D) in nats (N,): exact, or where a class says so a lower bound of it."""
        ...

    def sample(self, n: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Latents (n, D), float32; a ``temperature`` below 1 draws nearer to where the density is high."""
        ...


SAMPLERS: dict[str, type[Sampler]] = {"normal": Normal, "mixture": Mixture, "flow": Flow, "second_stage": SecondStage}


@torch.no_grad()
def posterior_samples(model: VAE, images_NHWC: np.ndarray | Selection, seed: int, label_N: Tensor | None = None) -> Tensor:
    """One posterior sample (N, D) of each uint8 image: a function of the arguments."""
    device = next(model.parameters()).device
    noise_ND = torch.randn(len(images_NHWC), model.latent_dim, generator=torch.Generator().manual_seed(seed)).to(device)
    found = []
    for start in range(0, len(images_NHWC), ENCODED):
        rows = slice(start, start + ENCODED)
        labels = None if label_N is None else label_N[rows].to(device)
        observed = model.observe(to_model_range(torch.from_numpy(images_NHWC[rows]).to(device)), labels)
        found.append(model.infer(observed, noise_ND[rows]).z_ND.cpu())
    return torch.cat(found)


@torch.no_grad()
def fit_to(z_ND: Tensor, config: PriorConfig, seed: int, classes: int, label_N: Tensor | None = None) -> Sampler | ByClass:
    """The density ``config.name`` fitted to latents; one for each class of a model with classes."""
    kind = SAMPLERS[config.name]
    if not classes:
        return kind.fit(z_ND, config, seed)
    assert label_N is not None  # or the model would have refused
    return ByClass.fit(kind, z_ND, label_N.cpu(), classes, config, seed)


def fit_prior(
    model: VAE, images_NHWC: np.ndarray | Selection, config: PriorConfig, seed: int, label_N: Tensor | None = None
) -> Sampler | ByClass:
    """``fit_to`` the posterior samples of images."""
    return fit_to(posterior_samples(model, images_NHWC, seed, label_N), config, seed, model.classes, label_N)

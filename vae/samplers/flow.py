"""A normalising flow on latents: affine couplings (Dinh et al., Density estimation using Real NVP, 2017). N samples, D dimensions.

Latents in standard coordinates go through ``COUPLINGS`` invertible layers to a normal: z -> x = L^-1 (z - mean) -> e ~ N(0, I), and
log p(z) = log N(e; 0, I) + log |det de/dz| exactly. Each layer keeps half of the dimensions and, with what a small network makes
of these, scales and shifts the others. At the start all layers are the identity: the flow begins as the normal that fits best.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from vae.config import PriorConfig
from vae.objective import log_normal
from vae.samplers.fitting import Standard, one_thread
from vae.samplers.training import Tensors, layers, network, through, trained

COUPLINGS = 6  # an even number: each dimension is changed in every pair of them
LOG_SCALE_LIMIT = 2.0  # of one layer: no dimension can be blown up or flattened beyond exp(2) at once


def _orders(dim: int, generator: torch.Generator) -> Tensor:
    """How each layer turns the dimensions around before it splits them (layers, D): at random, then back to front."""
    pairs = [(torch.randperm(dim, generator=generator), torch.arange(dim).flip(0)) for _ in range(COUPLINGS // 2)]
    return torch.stack([order for pair in pairs for order in pair])


def _couplings(tensors: Tensors) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The network of each layer: kept in one tensor for all, which an optimizer goes through faster."""
    each = [(weight.unbind(), bias.unbind()) for weight, bias in layers(tensors, "coupling")]
    for i in range(COUPLINGS):
        yield [(weights[i], biases[i]) for weights, biases in each]


def _scale_and_shift(coupling: list[tuple[Tensor, Tensor]], kept_ND: Tensor) -> tuple[Tensor, Tensor]:
    raw_ND, shift_ND = through(coupling, kept_ND).chunk(2, dim=1)
    return LOG_SCALE_LIMIT * torch.tanh(raw_ND / LOG_SCALE_LIMIT), shift_ND


def _to_base(tensors: Tensors, orders: Tensor, x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Base noise (N, D) of standard coordinates, and log |det de/dx| (N,)."""
    half, log_det_N = x_ND.shape[1] // 2, x_ND.new_zeros(len(x_ND))
    for order_D, coupling in zip(orders, _couplings(tensors), strict=True):
        kept_ND, changed_ND = x_ND[:, order_D].tensor_split([half], dim=1)
        log_scale_ND, shift_ND = _scale_and_shift(coupling, kept_ND)
        x_ND = torch.cat([kept_ND, changed_ND * log_scale_ND.exp() + shift_ND], dim=1)
        log_det_N = log_det_N + log_scale_ND.sum(1)
    return x_ND, log_det_N


def _from_base(tensors: Tensors, orders: Tensor, base_ND: Tensor) -> Tensor:
    """Standard coordinates (N, D) of base noise: ``_to_base`` backwards."""
    half = base_ND.shape[1] // 2
    for order_D, coupling in reversed(list(zip(orders, _couplings(tensors), strict=True))):
        kept_ND, changed_ND = base_ND.tensor_split([half], dim=1)
        log_scale_ND, shift_ND = _scale_and_shift(coupling, kept_ND)
        base_ND = torch.cat([kept_ND, (changed_ND - shift_ND) * torch.exp(-log_scale_ND)], dim=1)[:, order_D.argsort()]
    return base_ND


class Flow:
    """Affine couplings on standardised latents. A single latent has nothing to condition on: there it stays a normal."""

    name = "flow"

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self._standard = Standard(tensors["mean_D"], tensors["cholesky_DD"])

    @classmethod
    @one_thread()
    def fit(cls, z_ND: Tensor, config: PriorConfig, seed: int) -> Self:
        """Maximum likelihood; of the weights passed through those with the best mean log-density of held-out latents."""
        standard, x_ND = Standard.fit(z_ND, seed)
        generator, dim = torch.Generator().manual_seed(seed), z_ND.shape[1]
        half, hidden = dim // 2, config.hidden_units
        orders = _orders(dim, generator)
        start = network("coupling", (half, hidden, hidden, 2 * (dim - half)), generator, stack=(COUPLINGS,))

        def loss(tensors: Tensors, x_ND: Tensor, progress: float, noise: torch.Generator) -> Tensor:
            base_ND, log_det_N = _to_base(tensors, orders, x_ND)
            return -(log_normal(base_ND) + log_det_N).mean()

        return cls({**standard.tensors, "orders": orders, **trained(start, loss, x_ND, config.steps, seed)})

    def forward(self, z_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Base noise (N, D) that makes these latents, and log |det de/dz| (N,)."""
        x_ND, log_volume = self._standard.forward(z_ND)
        base_ND, log_det_N = _to_base(self.tensors, self.tensors["orders"], x_ND)
        return base_ND, log_det_N + log_volume

    def inverse(self, base_ND: Tensor) -> Tensor:
        """The latents (N, D) that base noise makes."""
        return self._standard.inverse(_from_base(self.tensors, self.tensors["orders"], base_ND))

    def log_prob(self, z_ND: Tensor) -> Tensor:
        """Exact log-density of latents (N,), in nats."""
        base_ND, log_det_N = self.forward(z_ND)
        return log_normal(base_ND) + log_det_N

    def sample(self, n: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Latents (n, D); ``temperature`` scales the base noise."""
        return self.inverse(torch.randn(n, len(self.tensors["mean_D"]), generator=generator) * temperature)

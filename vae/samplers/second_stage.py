"""A second VAE, on the latents of the first (Dai and Wipf, Diagnosing and Enhancing VAE Models, 2019). N samples, D dimensions.

Latents in standard coordinates x are made of u ~ N(0, I), as many: p(x|u) = N(mean(u), gamma^2), with gamma learned for each
dimension; q(u|x) is a diagonal normal. The aggregate of the first posterior fills its space, so here a VAE has no manifold to miss.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from vae.config import PriorConfig
from vae.objective import importance_bound, log_normal, rate_per_dim, reparameterize
from vae.samplers.fitting import Standard, one_thread
from vae.samplers.training import Tensors, layers, network, through, trained

WARMUP = 0.1  # share of the training in which the weight of the rate grows from 0 to 1 (Bowman et al. 2016)
FIRST_GAMMA = 0.9
LOGVAR_LIMIT = 10.0  # of gamma and of the posterior: exp stays finite
BOUND_SAMPLES = 64


def _posterior(tensors: Tensors, x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of q(u|x), each (N, D)."""
    mean_ND, logvar_ND = through(layers(tensors, "encoder"), x_ND).chunk(2, dim=1)
    logvar_ND = (tensors["posterior_logvar_D"] + logvar_ND).clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT)
    return tensors["encoder_skip_D"] * x_ND + mean_ND, logvar_ND


def _decoded(tensors: Tensors, u_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (N, D) and log-variance (D,) of p(x|u)."""
    mean_ND = tensors["decoder_skip_D"] * u_ND + through(layers(tensors, "decoder"), u_ND)
    return mean_ND, tensors["gamma_logvar_D"].clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT)


def _loss(tensors: Tensors, x_ND: Tensor, progress: float, generator: torch.Generator) -> Tensor:
    """Minus the bound, the rate weighted by the warm-up; a mean over latents, in nats."""
    mean_ND, logvar_ND = _posterior(tensors, x_ND)
    u_ND = reparameterize(mean_ND, logvar_ND, torch.randn(x_ND.shape, generator=generator))
    rate_N = rate_per_dim(mean_ND, logvar_ND).sum(1)
    return (min(1.0, progress / WARMUP) * rate_N - log_normal(x_ND, *_decoded(tensors, u_ND))).mean()


def _start(dim: int, hidden: int, generator: torch.Generator) -> Tensors:
    """Where p(x) is N(0, I) and the posterior the true one, so that the bound is tight: networks only add to that."""
    skip_D, logvar_D = torch.full((dim,), math.sqrt(1 - FIRST_GAMMA**2)), torch.full((dim,), 2 * math.log(FIRST_GAMMA))
    return {
        **network("encoder", (dim, hidden, hidden, 2 * dim), generator),
        **network("decoder", (dim, hidden, hidden, dim), generator),
        "encoder_skip_D": skip_D,
        "decoder_skip_D": skip_D.clone(),
        "posterior_logvar_D": logvar_D,
        "gamma_logvar_D": logvar_D.clone(),
    }


class SecondStage:
    """A small VAE with learned output variance on standardised latents."""

    name = "second_stage"

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self._standard = Standard(tensors["mean_D"], tensors["cholesky_DD"])

    @classmethod
    @one_thread()
    def fit(cls, z_ND: Tensor, config: PriorConfig, seed: int) -> Self:
        """Maximises the bound; of the weights passed through those with the best bound of held-out latents."""
        standard, x_ND = Standard.fit(z_ND, seed)
        start = _start(z_ND.shape[1], config.hidden_units, torch.Generator().manual_seed(seed))
        return cls({**standard.tensors, **trained(start, _loss, x_ND, config.steps, seed)})

    def log_prob(self, z_ND: Tensor) -> Tensor:
        """A lower bound of the log-density (N,), in nats: importance-weighted, of always the same noise (Burda et al. 2016)."""
        x_ND, log_volume = self._standard.forward(z_ND)
        mean_ND, logvar_ND = _posterior(self.tensors, x_ND)
        generator, weights = torch.Generator().manual_seed(0), []
        for _ in range(BOUND_SAMPLES):
            u_ND = reparameterize(mean_ND, logvar_ND, torch.randn(x_ND.shape, generator=generator))
            likelihood_N = log_normal(x_ND, *_decoded(self.tensors, u_ND))
            weights.append(likelihood_N + log_normal(u_ND) - log_normal(u_ND, mean_ND, logvar_ND))
        return importance_bound(torch.stack(weights)) + log_volume

    def sample(self, n: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Latents (n, D), with the noise of p(x|u): without it they would lie closer together than those that were fitted.

        ``temperature`` scales both u and that noise.
        """
        u_ND, noise_ND = temperature * torch.randn(2, n, len(self.tensors["mean_D"]), generator=generator)
        mean_ND, logvar_D = _decoded(self.tensors, u_ND)
        return self._standard.inverse(mean_ND + torch.exp(0.5 * logvar_D) * noise_ND)

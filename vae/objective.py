"""The two terms of the evidence lower bound, unreduced, in nats per image. N batch, D latent dimensions, K samples.

elbo = -(distortion + rate) (Kingma and Welling 2014); the trainer minimises distortion + beta * rate (Higgins et al. 2017).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vae.config import FitConfig


def annealed_share(images_seen: int, config: FitConfig) -> float:
    """How far the annealing has come, 0 to 1: in each of ``beta_cycles`` it arrives after ``beta_anneal_share`` of the cycle."""
    cycles = config.beta_cycles if config.beta_schedule == "cyclical" else 1
    cycle = config.total_images / cycles
    place = images_seen - cycle * min(int(images_seen / cycle), cycles - 1)
    length = config.beta_anneal_share * cycle
    return 1.0 if place >= length else place / length


def annealed_beta(images_seen: int, config: FitConfig) -> float:
    """The weight of the rate at a point of the training: from ``beta_start`` to ``beta``; a share of 0 is a constant beta.

    From above, the latents first learn the one or two factors that pay most, each on an axis of its own, and then more of them
    (Burgess et al. 2018, section 5, where a capacity grows instead); from below it is a warm-up against posterior collapse
    (Bowman et al. 2016), again and again where it is cyclical (Fu et al. 2019).
    """
    share = annealed_share(images_seen, config)
    if share == 1:
        return config.beta
    if config.beta_schedule == "geometric":
        return config.beta_start * (config.beta / config.beta_start) ** share
    return config.beta_start + (config.beta - config.beta_start) * share


def begun(images_seen: int, config: FitConfig) -> bool:
    """Whether the critic takes part by now (vae/adversary.py)."""
    return config.adversary_weight > 0 and images_seen >= config.adversary_start_share * config.total_images


def rate_per_dim(mean_ND: Tensor, logvar_ND: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats for each latent dimension (N, D)."""
    return 0.5 * (mean_ND.square() + logvar_ND.exp() - 1 - logvar_ND)


def reparameterize(mean_ND: Tensor, logvar_ND: Tensor, noise_ND: Tensor) -> Tensor:
    """A sample of N(mean, exp(logvar)), differentiable in both; ``noise_ND`` is standard normal."""
    return mean_ND + torch.exp(0.5 * logvar_ND) * noise_ND


def log_normal(z: Tensor, mean: Tensor | float = 0.0, logvar: Tensor | float = 0.0) -> Tensor:
    """log N(z; mean, exp(logvar)) summed over the last axis, in nats."""
    logvar = torch.as_tensor(logvar, dtype=z.dtype, device=z.device)
    terms = -0.5 * (math.log(2 * math.pi) + logvar + (z - mean).square() * torch.exp(-logvar))
    return terms.sum(-1)


def importance_bound(log_weights_KN: Tensor) -> Tensor:
    """log (1/K) sum_k w_k for each image (N,): a lower bound of log p(x), tighter with K (Burda et al. 2016, eq. 8)."""
    return torch.logsumexp(log_weights_KN, dim=0) - math.log(log_weights_KN.shape[0])

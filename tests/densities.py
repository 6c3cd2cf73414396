"""Densities with a formula, to fit priors to: samples (N, D), and their true log-density in nats (N,)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from vae.objective import log_normal

WIDTH = 0.3  # of the banana


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def banana(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """A normal bent along a parabola: x ~ N(0, 1), y ~ N(x^2 - 1, WIDTH^2)."""
    noise_N2 = torch.randn(n, 2, generator=seeded(seed))
    x_N = noise_N2[:, 0]
    return torch.stack([x_N, x_N**2 - 1 + WIDTH * noise_N2[:, 1]], 1), log_normal(noise_N2) - math.log(WIDTH)


def two_modes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two separate normals of deviation 0.5 at x = -2 (60 %) and x = 2 (40 %)."""
    first_N = torch.rand(n, generator=seeded(seed)) < 0.6
    z_N2 = 0.5 * torch.randn(n, 2, generator=seeded(seed + 1_000_000))
    z_N2[:, 0] += torch.where(first_N, -2.0, 2.0)
    centres = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])
    parts = [
        MultivariateNormal(centre, 0.25 * torch.eye(2)).log_prob(z_N2) + math.log(w)
        for centre, w in zip(centres, (0.6, 0.4), strict=True)
    ]
    return z_N2, torch.logaddexp(*parts)


PLANTED = {"banana": banana, "two_modes": two_modes}


def gaussian_nats(fitted_ND: Tensor, judged_ND: Tensor) -> float:
    """Mean log-density of latents under the single normal that fits others best."""
    return float(MultivariateNormal(fitted_ND.mean(0), torch.atleast_2d(fitted_ND.T.cov())).log_prob(judged_ND).mean())


def awkward() -> dict[str, Tensor]:
    """Latents of 3 dimensions as no prior would have them, by what is wrong with them."""
    plain_N3 = torch.randn(300, 3, generator=seeded())
    constant, twice = plain_N3.clone(), plain_N3.clone()
    constant[:, 1], twice[:, 2] = 0.5, twice[:, 0]
    return {
        "narrow and far": 5 + 0.01 * plain_N3,
        "constant dimension": constant,
        "all constant": torch.full((50, 3), 2.0),
        "a dimension twice": twice,
        "far modes": 0.05 * plain_N3 + 20 * torch.where(torch.arange(300) < 150, 1.0, -1.0)[:, None],
        "huge": 1e4 * plain_N3,
        "outlier": torch.cat([plain_N3, torch.full((1, 3), 1e4)]),
        "fewer than dimensions": plain_N3[:2],
        "one": plain_N3[:1],
        "one dimension": plain_N3[:, :1],
    }

"""256 levels as bins: a density's mass in each, in nats. N batch, C channels, H height, W width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vae.images import LEVELS

BIN_WIDTH = 2 / (LEVELS - 1)  # distance of two neighbouring levels in model range [-1, 1]
SMALLEST_SCALE = BIN_WIDTH / 16


def to_levels(x: Tensor) -> Tensor:
    """The nearest of the 256 levels, in model range."""
    return (((x.clamp(-1, 1) + 1) / BIN_WIDTH).round() * BIN_WIDTH) - 1


def lower_edge(level: Tensor) -> Tensor:
    """Where the bin of a level begins, in model range; minus infinity of level 0, and infinity of 256, beyond the last one."""
    edge = (level.double() - 0.5) * BIN_WIDTH - 1
    return edge.masked_fill(level <= 0, -torch.inf).masked_fill(level >= LEVELS, torch.inf)


def log_logistic_mass(x: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    """log of a logistic density's mass in the bin of each observed level, in nats; all broadcast against one another.

    With a = lower and b = upper bin edge in units of the scale, sigmoid(b) - sigmoid(a)
    = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), which stays exact in both tails; b - a depends on the scale alone.
    """
    centred, half_bin = (x - centre) / scale, BIN_WIDTH / 2 / scale
    lower, upper = F.softplus(centred - half_bin), F.softplus(-(centred + half_bin))  # -log sig(-a), -log sig(b)
    lowest, highest = x < -1 + BIN_WIDTH / 2, x > 1 - BIN_WIDTH / 2
    log_width = torch.log(-torch.expm1(-2 * half_bin))
    inner = torch.where(lowest | highest, torch.zeros_like(centred), log_width.expand_as(centred))
    return inner - torch.where(lowest, 0.0, lower) - torch.where(highest, 0.0, upper)


def logistic_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draws of the logistic distribution with centre 0 and scale 1."""
    u = torch.rand(like.shape, generator=generator).to(like).clamp(1e-6, 1 - 1e-6)
    return torch.log(u) - torch.log1p(-u)

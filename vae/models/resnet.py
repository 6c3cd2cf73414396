"""The deeper sibling of ``conv``: residual blocks at each resolution, a vector of latents. N batch, C channels, H height, W width."""

from __future__ import annotations

from torch import nn

from vae.config import ModelConfig
from vae.models.base import likelihood, norm
from vae.models.blocks import residual_down, residual_up
from vae.models.vector import VectorVAE


class ResnetVAE(VectorVAE):
    """VAE of pre-activation residual networks (He et al. 2016) with a diagonal normal posterior over one vector (N, D).

    ``config.blocks`` blocks at each resolution, both ways; H and W must divide by ``2 ** len(widths)``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = nn.Sequential(*residual_down(config), norm(config.widths[-1]), nn.SiLU(), *self.to_latents(config))
        self.expand = self.from_latents(config)
        self.likelihood = likelihood(config)
        self.decoder = nn.Sequential(*residual_up(config, self.likelihood.output_channels))

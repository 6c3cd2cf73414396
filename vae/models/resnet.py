"""The deeper sibling of ``conv``: residual blocks at each resolution, a vector of latents. N batch, C channels, H height, W width."""

from __future__ import annotations

from torch import Tensor, nn

from vae.config import ModelConfig
from vae.models.base import VAE, bounded, likelihood, norm
from vae.models.blocks import residual_down, residual_up


class ResnetVAE(VAE):
    """VAE of pre-activation residual networks (He et al. 2016) with a diagonal normal posterior over one vector (N, D).

    ``config.blocks`` blocks at each resolution, both ways; H and W must divide by ``2 ** len(widths)``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        height, width, _ = config.image_shape
        widths, strides = config.widths, 2 ** len(config.widths)
        self.latent_dim = config.latent_dim
        self.bottom = (widths[-1], height // strides, width // strides)
        flat = self.bottom[0] * self.bottom[1] * self.bottom[2]
        self.encoder = nn.Sequential(
            *residual_down(config), norm(widths[-1]), nn.SiLU(), nn.Flatten(),
            nn.Linear(flat, config.hidden_units), nn.SiLU(), nn.Linear(config.hidden_units, 2 * config.latent_dim),
        )  # fmt: skip
        self.expand = nn.Sequential(
            nn.Linear(config.latent_dim, config.hidden_units), nn.SiLU(), nn.Linear(config.hidden_units, flat)
        )
        self.likelihood = likelihood(config)
        self.decoder = nn.Sequential(*residual_up(config, self.likelihood.output_channels))

    def observe(self, x_NCHW: Tensor) -> tuple[Tensor, ...]:
        return bounded(self._through(self.encoder, x_NCHW))

    def decode(self, z_ND: Tensor) -> Tensor:
        return self._through(self.decoder, self.expand(z_ND).unflatten(1, self.bottom)).float()

"""The deeper sibling of ``conv``: residual blocks at each resolution, a vector of latents. N batch, C channels, H height, W width."""

from __future__ import annotations

from torch import Tensor, nn

from vae.config import ModelConfig
from vae.models.base import VAE, bounded, likelihood, norm
from vae.models.blocks import OfClass, residual_down, residual_up


class ResnetVAE(VAE):
    """VAE of pre-activation residual networks (He et al. 2016) with a diagonal normal posterior over one vector (N, D).

    ``config.blocks`` blocks at each resolution, both ways; H and W must divide by ``2 ** len(widths)``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        height, width, _ = config.image_shape
        widths, strides = config.widths, 2 ** len(config.widths)
        self.latent_dim, self.classes = config.latent_dim, config.classes
        self.bottom = (widths[-1], height // strides, width // strides)
        flat = self.bottom[0] * self.bottom[1] * self.bottom[2]
        self.encoder = nn.Sequential(
            *residual_down(config), norm(widths[-1]), nn.SiLU(), nn.Flatten(),
            nn.Linear(flat, config.hidden_units), nn.SiLU(), nn.Linear(config.hidden_units, 2 * config.latent_dim),
        )  # fmt: skip
        self.expand = nn.Sequential(
            nn.Linear(config.latent_dim, config.hidden_units), nn.SiLU(), nn.Linear(config.hidden_units, flat)
        )
        self.class_in_latents = OfClass(config.classes, 2 * config.latent_dim)
        self.class_in_picture = OfClass(config.classes, config.hidden_units)
        self.likelihood = likelihood(config)
        self.decoder = nn.Sequential(*residual_up(config, self.likelihood.output_channels))

    def observe(self, x_NCHW: Tensor, label_N: Tensor | None = None) -> tuple[Tensor, ...]:
        return bounded(self.class_in_latents(self._through(self.encoder, x_NCHW), label_N))

    def decode(self, z_ND: Tensor, label_N: Tensor | None = None) -> Tensor:
        hidden_NC = self.class_in_picture(self.expand[0](z_ND), label_N)
        return self._through(self.decoder, self.expand[1:](hidden_NC).unflatten(1, self.bottom)).float()

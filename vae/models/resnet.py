"""The deeper sibling of ``conv``: residual blocks at each resolution, a vector of latents. N batch, C channels, H height, W width."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from vae.config import ModelConfig
from vae.models.base import VAE, bounded, likelihood, norm
from vae.models.blocks import Residual, halve, head, stem


class ResnetVAE(VAE):
    """VAE of pre-activation residual networks (He et al. 2016) with a diagonal normal posterior over one vector (N, D).

    ``config.blocks`` blocks at each resolution, both ways; H and W must divide by ``2 ** len(widths)``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        height, width, channels = config.image_shape
        widths, strides = config.widths, 2 ** len(config.widths)
        self.latent_dim = config.latent_dim
        self.bottom = (widths[-1], height // strides, width // strides)
        flat = self.bottom[0] * self.bottom[1] * self.bottom[2]

        def blocks(channels: int) -> list[nn.Module]:
            return [Residual(channels) for _ in range(config.blocks)]

        down = [*stem(channels, widths[0]), *blocks(widths[0])]
        for before, after in pairwise(widths):
            down += [halve(before, after), *blocks(after)]
        self.encoder = nn.Sequential(
            *down, norm(widths[-1]), nn.SiLU(), nn.Flatten(),
            nn.Linear(flat, config.hidden_units), nn.SiLU(), nn.Linear(config.hidden_units, 2 * config.latent_dim),
        )  # fmt: skip
        self.expand = nn.Sequential(
            nn.Linear(config.latent_dim, config.hidden_units), nn.SiLU(), nn.Linear(config.hidden_units, flat)
        )
        up = blocks(widths[-1])
        for before, after in pairwise(widths[::-1]):
            # Nearest neighbours and a convolution leave no chequered pattern, unlike a transposed convolution (Odena et al. 2016).
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1), *blocks(after)]
        self.likelihood = likelihood(config)
        self.decoder = nn.Sequential(*up, *head(widths[0], self.likelihood.output_channels))

    def observe(self, x_NCHW: Tensor) -> tuple[Tensor, ...]:
        return bounded(self._through(self.encoder, x_NCHW))

    def decode(self, z_ND: Tensor) -> Tensor:
        return self._through(self.decoder, self.expand(z_ND).unflatten(1, self.bottom)).float()

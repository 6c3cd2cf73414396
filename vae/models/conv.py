"""The small classic: strided convolutions down, the mirror image up. N batch, C channels, H height, W width, D latents.

Space-to-depth at the stem and depth-to-space at the head keep the widest tensors at half the picture's resolution, which is
what makes it fast on a processor.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from vae.config import ModelConfig
from vae.models.base import VAE, bounded, likelihood, norm
from vae.models.blocks import OfClass, head, stem


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW + self.body(x_NCHW)


class ConvVAE(VAE):
    """Convolutional VAE with a diagonal normal posterior (Kingma and Welling 2014).

    H and W must divide by ``2 ** len(widths)``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        height, width, channels = config.image_shape
        widths, strides = config.widths, 2 ** len(config.widths)
        self.latent_dim, self.classes = config.latent_dim, config.classes
        self.bottom = (widths[-1], height // strides, width // strides)
        flat = self.bottom[0] * self.bottom[1] * self.bottom[2]

        down = stem(channels, widths[0])
        for before, after in pairwise(widths):
            down += [norm(before), nn.SiLU(), nn.Conv2d(before, after, 4, stride=2, padding=1)]
        self.encoder = nn.Sequential(
            *down, _Residual(widths[-1]), norm(widths[-1]), nn.SiLU(), nn.Flatten(),
            nn.Linear(flat, config.hidden_units), nn.SiLU(), nn.Linear(config.hidden_units, 2 * config.latent_dim),
        )  # fmt: skip
        up: list[nn.Module] = [_Residual(widths[-1])]
        for before, after in pairwise(widths[::-1]):
            up += [norm(before), nn.SiLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        self.expand = nn.Sequential(
            nn.Linear(config.latent_dim, config.hidden_units), nn.SiLU(), nn.Linear(config.hidden_units, flat)
        )
        self.class_in_latents = OfClass(config.classes, 2 * config.latent_dim)
        self.class_in_picture = OfClass(config.classes, config.hidden_units)
        self.likelihood = likelihood(config)
        self.decoder = nn.Sequential(*up, *head(widths[0], self.likelihood.output_channels))

    def observe(self, x_NCHW: Tensor, label_N: Tensor | None = None) -> tuple[Tensor, ...]:
        return bounded(self.class_in_latents(self._through(self.encoder, x_NCHW), label_N))

    def decode(self, z_ND: Tensor, label_N: Tensor | None = None) -> Tensor:
        hidden_NC = self.class_in_picture(self.expand[0](z_ND), label_N)
        return self._through(self.decoder, self.expand[1:](hidden_NC).unflatten(1, self.bottom)).float()

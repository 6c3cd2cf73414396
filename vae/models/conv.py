"""The small classic: strided convolutions down, the mirror image up. N batch, C channels, H height, W width, D latents.

Space-to-depth at the stem and depth-to-space at the head keep the widest tensors at half the picture's resolution, which is
what makes it fast on a processor.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from vae.config import ModelConfig
from vae.models.base import likelihood, norm
from vae.models.blocks import head, stem
from vae.models.vector import VectorVAE


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW + self.body(x_NCHW)


class ConvVAE(VectorVAE):
    """Convolutional VAE with a diagonal normal posterior (Kingma and Welling 2014).

    H and W must divide by ``2 ** len(widths)``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        widths = config.widths

        down = stem(config.image_shape[2], widths[0])
        for before, after in pairwise(widths):
            down += [norm(before), nn.SiLU(), nn.Conv2d(before, after, 4, stride=2, padding=1)]
        self.encoder = nn.Sequential(*down, _Residual(widths[-1]), norm(widths[-1]), nn.SiLU(), *self.to_latents(config))
        up: list[nn.Module] = [_Residual(widths[-1])]
        for before, after in pairwise(widths[::-1]):
            up += [norm(before), nn.SiLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        self.expand = self.from_latents(config)
        self.likelihood = likelihood(config)
        self.decoder = nn.Sequential(*up, *head(widths[0], self.likelihood.output_channels))

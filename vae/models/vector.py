"""What networks with one vector of latents share, whatever is inside them. N batch, C channels, H height, W width, D latents."""

from __future__ import annotations

import math

from torch import Tensor, nn

from vae.config import ModelConfig
from vae.models.base import VAE, bounded
from vae.models.blocks import OfClass


class VectorVAE(VAE):
    """A network sets ``encoder`` (images to both halves of the posterior), ``expand`` (latents to the coarsest map) and ``decoder``.

    The class of an image, where there are classes, is known to the posterior and to the first layer of ``expand``.
    """

    encoder: nn.Sequential
    expand: nn.Sequential
    decoder: nn.Sequential

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        height, width, _ = config.image_shape
        strides = 2 ** len(config.widths)
        self.latent_dim, self.classes = config.latent_dim, config.classes
        self.bottom = (config.widths[-1], height // strides, width // strides)
        self.class_in_latents = OfClass(config.classes, 2 * config.latent_dim)
        self.class_in_picture = OfClass(config.classes, config.hidden_units)

    def to_latents(self, config: ModelConfig) -> list[nn.Module]:
        """The encoder's end, from the coarsest map to both halves of the posterior."""
        return [
            nn.Flatten(), nn.Linear(math.prod(self.bottom), config.hidden_units), nn.SiLU(),
            nn.Linear(config.hidden_units, 2 * config.latent_dim),
        ]  # fmt: skip

    def from_latents(self, config: ModelConfig) -> nn.Sequential:
        """``expand``, its way back."""
        return nn.Sequential(
            nn.Linear(config.latent_dim, config.hidden_units), nn.SiLU(), nn.Linear(config.hidden_units, math.prod(self.bottom))
        )

    def observe(self, x_NCHW: Tensor, label_N: Tensor | None = None) -> tuple[Tensor, ...]:
        return bounded(self.class_in_latents(self._through(self.encoder, x_NCHW), label_N))

    def decode(self, z_ND: Tensor, label_N: Tensor | None = None) -> Tensor:
        hidden_NC = self.class_in_picture(self.expand[0](z_ND), label_N)
        return self._through(self.decoder, self.expand[1:](hidden_NC).unflatten(1, self.bottom)).float()

"""``conv`` with an encoder that can begin as a classifier: the extractor's own layers (vae/models/trunk.py) in front of the latents."""

from __future__ import annotations

from torch import nn

from vae.config import ModelConfig
from vae.models.conv import ConvVAE
from vae.models.layout import Axes
from vae.models.trunk import grouped, of_pictures, trunk


class ClassifierEncoderVAE(ConvVAE):
    """VAE whose encoder has the layers of an extractor of width ``widths[0]``, where it has three, each twice the one before it.

    H and W must divide by ``2 ** len(widths)``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        layers = [*trunk(self.channels, config.widths), grouped(config.widths[-1]), nn.SiLU()]
        self.encoder = nn.Sequential(*layers, *self.to_latents(config))

    def _axes(self, key: str, axes: Axes, side: tuple[int, ...]) -> Axes:
        if key == "encoder.0":
            return of_pictures(axes)
        return axes if key.startswith("encoder") else super()._axes(key, axes, side)

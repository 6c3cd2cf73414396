"""What deep networks are made of: residual blocks and the ways between resolutions. N batch, C channels, H height, W width."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from vae.config import ModelConfig
from vae.models.base import norm


def silent(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with all its weights at zero: a branch that ends in it says nothing before it has learned to."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Residual(nn.Module):
    """x + f(x), f of two 3x3 convolutions, each after norm and SiLU (He et al., Identity Mappings, 2016); f starts at zero.

    ``inner`` is the number of channels between the two.
    """

    def __init__(self, channels: int, inner: int = 0) -> None:
        super().__init__()
        inner = inner or channels
        self.branch = nn.Sequential(
            norm(channels), nn.SiLU(), nn.Conv2d(channels, inner, 3, padding=1),
            norm(inner), nn.SiLU(), silent(nn.Conv2d(inner, channels, 3, padding=1)),
        )  # fmt: skip

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW + self.branch(x_NCHW)


class OfClass(nn.Module):
    """Adds to a hidden state (N, C, ...) what the class of each image says of it: a row of a table, which starts at zero.

    Beside a linear layer that is the same as to append the class, one-hot, to what the layer sees (Sohn et al., Learning
    Structured Output Representation using Deep Conditional Generative Models, 2015). Without classes it adds nothing.
    """

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(classes, channels)) if classes else None

    def forward(self, h: Tensor, label_N: Tensor | None) -> Tensor:
        """ValueError where a model with classes is not told those of the images."""
        if self.table is None:
            return h
        if label_N is None:
            raise ValueError("this model is class-conditional: give the class number of every image")
        said_NC = nn.functional.embedding(label_N, self.table)
        return h + said_NC.view(*said_NC.shape, *(1 for _ in h.shape[2:]))


def stem(channels: int, width: int) -> list[nn.Module]:
    """(N, channels, H, W) to (N, width, H/2, W/2): the widest tensors have half the picture's resolution, for speed."""
    return [nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, width, 3, padding=1)]


def head(width: int, channels: int) -> list[nn.Module]:
    """The way back of ``stem``: (N, width, H/2, W/2) to (N, channels, H, W)."""
    return [norm(width), nn.SiLU(), nn.Conv2d(width, 4 * channels, 3, padding=1), nn.PixelShuffle(2)]


def halve(before: int, after: int) -> nn.Module:
    """(N, before, H, W) to (N, after, H/2, W/2), H and W even."""
    return nn.Conv2d(before, after, 3, stride=2, padding=1)


def residual_down(config: ModelConfig) -> list[nn.Module]:
    """Images to feature maps (N, widths[-1], H, W) at the coarsest resolution, ``config.blocks`` residual blocks at each."""
    widths = config.widths
    layers = [*stem(config.image_shape[2], widths[0]), *(Residual(widths[0]) for _ in range(config.blocks))]
    for before, after in pairwise(widths):
        layers += [halve(before, after), *(Residual(after) for _ in range(config.blocks))]
    return layers


def residual_up(config: ModelConfig, channels: int) -> list[nn.Module]:
    """The way back of ``residual_down``, to ``channels`` at the picture's resolution."""
    widths = config.widths[::-1]
    layers: list[nn.Module] = [Residual(widths[0]) for _ in range(config.blocks)]
    for before, after in pairwise(widths):
        # Nearest neighbours and a convolution leave no chequered pattern, unlike a transposed convolution (Odena et al. 2016).
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1)]
        layers += [Residual(after) for _ in range(config.blocks)]
    return [*layers, *head(widths[-1], channels)]

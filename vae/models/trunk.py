"""The body of a network that tells pictures apart: of the extractor, and of an encoder that can begin with it. N, C, H, W as elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from vae.config import EXTRACTOR_GROUPS as GROUPS
from vae.models.layout import CHANNELS_IN, Axes


def grouped(channels: int) -> nn.GroupNorm:
    """The normalisation of every extractor; of an encoder with other widths than one can have, over all channels."""
    return nn.GroupNorm(1 if channels % GROUPS else GROUPS, channels)


class Down(nn.Module):
    """(N, before, H, W) to (N, after, H/2, W/2), odd sides rounded up: two convolutions, and a way around them."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            grouped(before), nn.SiLU(), nn.Conv2d(before, after, 3, stride=2, padding=1),
            grouped(after), nn.SiLU(), nn.Conv2d(after, after, 3, padding=1),
        )  # fmt: skip
        self.skip = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(before, after, 1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.main(x_NCHW) + self.skip(x_NCHW)


class PlainDown(nn.Module):
    """Convolution, maximum, convolution: no skip, no stride, another activation."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1), grouped(after), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(after, after, 3, padding=1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.main(x_NCHW)


def trunk(channels: int, widths: Sequence[int], down: type[Down | PlainDown] = Down) -> list[nn.Module]:
    """Pictures of so many channels to (N, widths[-1], H, W) at a side halved once for each width."""
    first = nn.Conv2d(channels, widths[0], 3, stride=2, padding=1)
    return [first, *(down(before, after) for before, after in pairwise(widths))]


def of_pictures(axes: Axes) -> Axes:
    """Of the first layer: its kernel's second axis counts the picture's channels."""
    return axes if len(axes) == 1 else (axes[0], ((CHANNELS_IN, axes[1][0][1]),), *axes[2:])

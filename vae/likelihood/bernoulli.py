"""Two levels. N batch, C channels, H height, W width, P pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vae.images import LEVELS
from vae.likelihood.base import Likelihood


def binarised(x_NCHW: Tensor, uniform_NP: Tensor) -> Tensor:
    """-1 or 1, of which 1 has the grey value's probability (dynamic binarisation: Salakhutdinov and Murray 2008).

    ``uniform_NP`` is uniform on [0, 1), one number for each pixel.
    """
    return torch.where(uniform_NP.view(x_NCHW.shape) < (x_NCHW + 1) / 2, 1.0, -1.0)


class Bernoulli(Likelihood):
    """Two levels, for images that were ``binarised``; only for one channel, where such a thing is an image."""

    binary = True

    def __init__(self, channels: int, sigma: float = 1.0) -> None:
        super().__init__(channels)
        self.output_channels = channels

    @staticmethod
    def problem(image_shape: tuple[int, int, int]) -> str | None:
        if image_shape[2] == 1:
            return None
        return "likelihood bernoulli needs greyscale images (base.mode: L): use logistic for colour"

    def log_prob(self, output_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        bit = (x_NCHW >= 0).to(output_NCHW.dtype)
        return -F.binary_cross_entropy_with_logits(output_NCHW, bit, reduction="none").flatten(1).sum(1)

    def below(self, output_NCHW: Tensor, x_NCHW: Tensor, channel: int) -> Callable[[Tensor], Tensor]:
        black_NHW = torch.sigmoid(-output_NCHW[:, channel])
        return lambda level_NHW: black_NHW.masked_fill(level_NHW <= 0, 0.0).masked_fill(level_NHW >= LEVELS, 1.0)

    def mean(self, output_NCHW: Tensor) -> Tensor:
        return torch.sigmoid(output_NCHW) * 2 - 1

    def sample(self, output_NCHW: Tensor, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(output_NCHW.shape, generator=generator).to(output_NCHW)
        return binarised(self.mean(output_NCHW), uniform)

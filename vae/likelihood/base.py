"""What every likelihood is. N batch, C channels, H height, W width; outputs (N, ., H, W) are the decoder's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Likelihood(nn.Module, ABC):
    """p(x|output) of one image size. ``output_channels`` is what it wants of the decoder.

    ``binary``: images are binarised first.
    """

    binary = False
    output_channels: int

    def __init__(self, channels: int, sigma: float = 1.0) -> None:
        super().__init__()

    @property
    def statistics(self) -> tuple[nn.Parameter, ...]:
        """Parameters that follow the data (vae/statistics.py)."""
        return ()

    @staticmethod
    def problem(image_shape: tuple[int, int, int]) -> str | None:
        """Why it cannot model such images (with the remedy), or None."""
        return None

    @abstractmethod
    def log_prob(self, output_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        """log p(x|output) of each image (N,), in nats, over what is really observed: 256 levels, or two."""

    @abstractmethod
    def below(self, output_NCHW: Tensor, x_NCHW: Tensor, channel: int) -> Callable[[Tensor], Tensor]:
        """The probability that a channel's level is below given ones, as a function of these: (N, H, W), 0 to 256, to (N, H, W).

        ``x_NCHW``: what is observed, of which only the channels before this one are looked at.
        """

    @abstractmethod
    def mean(self, output_NCHW: Tensor) -> Tensor:
        """The mean images (N, C, H, W), in model range."""

    @abstractmethod
    def sample(self, output_NCHW: Tensor, generator: torch.Generator) -> Tensor:
        """Images (N, C, H, W) drawn from p(x|output), in model range."""

    def penalty(self, output_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        """What makes ``statistics`` follow these images, summed over them; asked for only where there are any."""
        return output_NCHW.new_zeros(())

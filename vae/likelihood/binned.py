"""Likelihoods of 256 levels, each the mass of a bin under a density centred at the output; the edge bins reach to infinity.

N batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vae.likelihood.base import Likelihood
from vae.likelihood.levels import BIN_WIDTH, SMALLEST_SCALE, log_logistic_mass, logistic_noise, lower_edge, to_levels
from vae.statistics import following_loss

LOG_2 = math.log(2)
FIRST_SCALE = 0.3


class _Binned(Likelihood):
    """The spread is learned, one value for each channel."""

    def __init__(self, channels: int, sigma: float = FIRST_SCALE) -> None:
        super().__init__(channels)
        self.output_channels = channels
        self.set_scale(channels, sigma)

    def set_scale(self, channels: int, sigma: float) -> None:
        self.log_scale = nn.Parameter(torch.full((channels,), math.log(FIRST_SCALE)))

    def mean(self, output_NCHW: Tensor) -> Tensor:
        return output_NCHW.clamp(-1, 1)

    def scale_C11(self) -> Tensor:
        return self.log_scale.exp().clamp_min(SMALLEST_SCALE)[:, None, None]

    @staticmethod
    @abstractmethod
    def cumulative(standard: Tensor) -> Tensor:
        """The distribution function of the density with centre 0 and scale 1."""

    def below(self, output_NCHW: Tensor, x_NCHW: Tensor, channel: int) -> Callable[[Tensor], Tensor]:
        centre_NHW, scale = output_NCHW[:, channel], self.scale_C11().expand(output_NCHW.shape[1], 1, 1)[channel]
        return lambda level_NHW: self.cumulative((lower_edge(level_NHW).to(centre_NHW) - centre_NHW) / scale)

    @abstractmethod
    def noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of the density with centre 0 and scale 1."""

    def sample(self, output_NCHW: Tensor, generator: torch.Generator) -> Tensor:
        return to_levels(output_NCHW + self.scale_C11() * self.noise(output_NCHW, generator))


class DiscretizedLogistic(_Binned):
    """Logistic density over 256 bins (Kingma et al., Improved Variational Inference with Inverse Autoregressive Flow, 2016)."""

    def log_prob(self, output_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        return log_logistic_mass(x_NCHW, output_NCHW, self.scale_C11()).flatten(1).sum(1)

    @staticmethod
    def cumulative(standard: Tensor) -> Tensor:
        return torch.sigmoid(standard)

    def noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return logistic_noise(like, generator)


class _LogNdtr(torch.autograd.Function):
    """log of the normal distribution function; torch's own gradient cancels in the far tail, this one does not.

    d/dz log Phi(z) = phi(z) / Phi(z) = sqrt(2 / pi) / erfcx(-z / sqrt(2)).
    """

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return torch.special.log_ndtr(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], z: Tensor) -> tuple[Tensor, int]:
        """Of each number by itself, so an axis more is none; torch has no rule of its own and would take one after the other."""
        return _LogNdtr.apply(z), in_dims[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return gradient * math.sqrt(2 / math.pi) / torch.special.erfcx(-z / math.sqrt(2))


class DiscretizedGaussian(_Binned):
    """Normal density over 256 bins; both normal tails are evaluated as logarithms on the side where they are small."""

    def log_prob(self, output_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        scale = self.scale_C11()
        centred = (x_NCHW - output_NCHW) / scale
        half_bin = BIN_WIDTH / 2 / scale
        lowest, highest = x_NCHW < -1 + BIN_WIDTH / 2, x_NCHW > 1 - BIN_WIDTH / 2
        # Mirror to the negative side, where log_ndtr keeps its precision: P(a < z < b) = P(-b < z < -a).
        folded = -centred.abs()
        log_upper, log_lower = _LogNdtr.apply(folded + half_bin), _LogNdtr.apply(folded - half_bin)
        # log1mexp by whichever form is exact for the size of the gap (Maechler 2012).
        gap = (log_upper - log_lower).clamp_min(1e-12)
        # Each form sees only gaps it can take: the branch that is not chosen must not put a NaN into the gradient.
        near, far = gap.clamp_max(LOG_2), gap.clamp_min(LOG_2)
        log1mexp = torch.where(gap < LOG_2, torch.log(-torch.expm1(-near)), torch.log1p(-torch.exp(-far)))
        inner = log_upper + log1mexp
        tail_low = _LogNdtr.apply(centred + half_bin)  # mass below the upper edge
        tail_high = _LogNdtr.apply(half_bin - centred)  # mass above the lower edge
        return torch.where(lowest, tail_low, torch.where(highest, tail_high, inner)).flatten(1).sum(1)

    @staticmethod
    def cumulative(standard: Tensor) -> Tensor:
        return torch.special.ndtr(standard)

    def noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)


class FixedGaussian(DiscretizedGaussian):
    """The same with a spread set by hand: then beta alone balances distortion and rate."""

    def set_scale(self, channels: int, sigma: float) -> None:
        self._sigma = sigma  # no parameter: nothing is learned, nothing is saved that could differ from the configuration

    def scale_C11(self) -> Tensor:
        return torch.tensor(max(self._sigma, SMALLEST_SCALE))


class OptimalGaussian(DiscretizedGaussian):
    """The same with the best spread for the errors of the last batches: the root of their mean square, a moving average of it.

    Rybkin, Daniilidis, Levine 2021, eq. 6, where it is that of each batch by itself; so an image's loss does not depend on others.
    """

    def set_scale(self, channels: int, sigma: float) -> None:
        self.squares_C = nn.Parameter(torch.full((channels,), FIRST_SCALE**2))

    @property
    def statistics(self) -> tuple[nn.Parameter, ...]:
        return (self.squares_C,)

    def scale_C11(self) -> Tensor:
        return self.squares_C.detach().sqrt().clamp_min(SMALLEST_SCALE)[:, None, None]

    def penalty(self, output_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        squares_NC = (x_NCHW - output_NCHW).detach().square().flatten(2).mean(2)
        return following_loss(self.squares_C, squares_NC.sum(0), len(x_NCHW))

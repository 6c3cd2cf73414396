"""What the decoder's output says about the observed image: log-probabilities in nats per image.

Each likelihood is a module with ``log_prob(output_NCHW, x_NCHW) -> (N,)`` over what is really observed (256 levels, or two),
``mean(output_NCHW)`` in model range, and ``problem(image_shape)``: why it cannot model such images, or None.
The spread is learned, one value for each channel, so the balance of distortion and rate is calibrated by the data instead of
set by hand (Rybkin, Daniilidis, Levine: Simple and Effective VAE Training with Calibrated Decoders, 2021).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.images import LEVELS

LOG_2 = math.log(2)
BIN_WIDTH = 2 / (LEVELS - 1)  # distance of two neighbouring levels in model range [-1, 1]


def binarised(x_NCHW: Tensor, uniform_NP: Tensor) -> Tensor:
    """-1 or 1, of which 1 has the grey value's probability (dynamic binarisation: Salakhutdinov and Murray 2008).

    ``uniform_NP`` is uniform on [0, 1), one number for each pixel.
    """
    return torch.where(uniform_NP.view(x_NCHW.shape) < (x_NCHW + 1) / 2, 1.0, -1.0)


class _Binned(nn.Module):
    """256 levels as the mass of a bin under a density centred at the output; the two edge bins reach to infinity."""

    binary = False
    initial_scale = 0.3
    smallest_scale = BIN_WIDTH / 16

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((channels,), math.log(self.initial_scale)))

    @staticmethod
    def problem(image_shape: tuple[int, int, int]) -> str | None:
        return None

    def mean(self, output_NCHW: Tensor) -> Tensor:
        return output_NCHW.clamp(-1, 1)

    def scale_C11(self) -> Tensor:
        return self.log_scale.exp().clamp_min(self.smallest_scale)[:, None, None]


class DiscretizedLogistic(_Binned):
    """Logistic density over 256 bins (Kingma et al., Improved Variational Inference with Inverse Autoregressive Flow, 2016).

    With a = lower and b = upper bin edge in units of the scale, sigmoid(b) - sigmoid(a)
    = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), which stays exact in both tails; b - a is a constant of the channel.
    """

    def log_prob(self, output_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        scale = self.scale_C11()
        centred = (x_NCHW - output_NCHW) / scale
        half_bin = BIN_WIDTH / 2 / scale
        lower, upper = F.softplus(centred - half_bin), F.softplus(-(centred + half_bin))  # -log sig(-a), -log sig(b)
        lowest, highest = x_NCHW < -1 + BIN_WIDTH / 2, x_NCHW > 1 - BIN_WIDTH / 2
        log_width = torch.log(-torch.expm1(-2 * half_bin))
        inner = torch.where(lowest | highest, torch.zeros_like(centred), log_width.expand_as(centred))
        log_mass = inner - torch.where(lowest, 0.0, lower) - torch.where(highest, 0.0, upper)
        return log_mass.flatten(1).sum(1)


class _LogNdtr(torch.autograd.Function):
    """log of the normal distribution function; torch's own gradient cancels in the far tail, this one does not.

    d/dz log Phi(z) = phi(z) / Phi(z) = sqrt(2 / pi) / erfcx(-z / sqrt(2)).
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return torch.special.log_ndtr(z)

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


class Bernoulli(nn.Module):
    """Two levels, for images that were ``binarised``; only for one channel, where such a thing is an image."""

    binary = True

    def __init__(self, channels: int) -> None:
        super().__init__()

    @staticmethod
    def problem(image_shape: tuple[int, int, int]) -> str | None:
        if image_shape[2] == 1:
            return None
        return "likelihood bernoulli needs greyscale images (base.mode: L): use logistic for colour"

    def log_prob(self, output_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        bit = (x_NCHW >= 0).to(output_NCHW.dtype)
        return -F.binary_cross_entropy_with_logits(output_NCHW, bit, reduction="none").flatten(1).sum(1)

    def mean(self, output_NCHW: Tensor) -> Tensor:
        return torch.sigmoid(output_NCHW) * 2 - 1


LIKELIHOODS = {"logistic": DiscretizedLogistic, "gaussian": DiscretizedGaussian, "bernoulli": Bernoulli}

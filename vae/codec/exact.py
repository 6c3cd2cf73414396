"""Numbers that whoever decodes finds again to the bit: networks in float64, what they say rounded far more coarsely than they err.

Sums of float64 differ by some 1e-14 from processor to processor, with the number of threads and the size of the batch. Where the
result is rounded to 2^-14, two machines disagree about one number in some billions; the file's checksum then tells.
"""

from __future__ import annotations

import copy

import numpy as np
from torch import Tensor

from vae.images import model_input
from vae.models.base import VAE

PER_UNIT = 2**14  # a thousandth of the noise that the smallest scale of a likelihood allows
SHARES = 2**20  # what probabilities are whole shares of
LEAST = 2.0**-26  # mass of a level that seems impossible: far above the errors of a difference of two numbers below 1


def exact(model: VAE) -> VAE:
    """A copy of the model in float64, for use."""
    return copy.deepcopy(model).double().eval().requires_grad_(False)


def exact_input(images_NHWC: np.ndarray, network: VAE) -> Tensor:
    """uint8 images as such a network takes them."""
    return model_input(images_NHWC, next(network.parameters()).device).double()


def rounded(output: Tensor) -> Tensor:
    """A network's output on a grid of 2^-14."""
    return (output * PER_UNIT).round() / PER_UNIT


def upper_share(low: Tensor, middle: Tensor, high: Tensor, levels: int) -> Tensor:
    """How likely the upper half of an interval of ``levels`` levels is, by the probability below its ends and its middle.

    Whole shares of 2^20, and never none or all of them.
    """
    least = LEAST * levels / 2
    upper = (high - middle + least) / (high - low + 2 * least)
    return (upper * SHARES).round().clamp(1, SHARES - 1) / SHARES

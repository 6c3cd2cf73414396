"""Every pixel as it is, by bits-back coding: N images in blocks of lanes, D latents, H height, W width.

Sender: pop latents of the posterior off the stack, push the pixels as the decoder tells them, push the latents under the prior.
Receiver: the same backwards, by which the bits that the posterior took come back. A picture so costs minus its bound of log p(x) on
average (Hinton and van Camp 1993; Townsend, Bird, Barber, Practical Lossless Compression with Latent Variables using Bits Back Coding,
2019). Only the first block finds nothing to pop: it takes ``supply``, which stays in the file. In a hierarchy each layer is popped
given those above it, from the model's own posterior, and all are pushed as the normal numbers that they are under the prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.codec.exact import exact, exact_input, rounded, upper_share
from vae.codec.stack import REACH, Stack, supply
from vae.models.base import VAE
from vae.objective import log_normal

CELLS = 512  # of latents to a unit: the narrowest posterior (vae/models/base.py) is still as wide as one
MOST = 24  # latents lie between minus and plus so much: whole numbers of standard deviations of the prior
FIRST_WORDS = 64  # of the supply, beside those for the latents; what is not needed is not written
MOST_LANES, BORROWED_SHARE, TRIED = 256, 0.01, 16
WORD_BITS = 32
BITS = 8  # of a level, told from the highest on


@dataclass(frozen=True)
class Coded:
    """The words of a file (uint32), how many of them were borrowed first, and the bound in bits that the same draws give."""

    words: np.ndarray
    borrowed: int
    estimated_bits: float


class _Asked(NamedTuple):
    """What a layer's latents were asked for with: mean and standard deviation in cells, and the values."""

    mean: Tensor
    std: Tensor
    value: Tensor


def check(model: VAE) -> None:
    """ValueError for a likelihood that does not tell 256 levels apart."""
    if model.likelihood.binary:
        raise ValueError(
            "likelihood bernoulli knows two levels: pictures of 256 cannot come back as they were, use logistic_mixture"
        )


def usual_lanes(model: VAE, images_NHWC: np.ndarray) -> int:
    """As many of the pictures at once as make what is borrowed about a hundredth of the file: what both are, a few of them tell."""
    if len(images_NHWC) == 1:
        return 1
    few = images_NHWC[:: -(-len(images_NHWC) // TRIED)]
    coded = encode(model, few, len(few))
    lent_bits, file_bits = WORD_BITS * coded.borrowed / len(few), coded.estimated_bits / len(few) * len(images_NHWC)
    return max(1, min(MOST_LANES, int(BORROWED_SHARE * file_bits / max(lent_bits, 1.0))))


@torch.no_grad()
def encode(model: VAE, images_NHWC: np.ndarray, lanes: int) -> Coded:
    """uint8 images as words."""
    network, given = exact(model), FIRST_WORDS + lanes * model.latent_dim // 2
    while True:
        words = supply(given)
        stack, bits = Stack(words), 0.0
        for first in range(0, len(images_NHWC), lanes):
            bits += _push_block(network, images_NHWC[first : first + lanes], stack)
        untouched = stack.lowest - 2  # two words are the stack's head
        if untouched > 0:
            return Coded(stack.words()[untouched:], given - untouched, bits)
        given *= 2


def _push_block(network: VAE, images_NHWC: np.ndarray, stack: Stack) -> float:
    """Put a block on the stack; returns what the model says that takes, in bits."""
    x_NCHW, asked = exact_input(images_NHWC, network), list[_Asked]()

    def draw(mean_ND: Tensor, logvar_ND: Tensor) -> Tensor:
        mean, std = _in_cells(mean_ND, logvar_ND)
        value = stack.pop_normal(mean, std)
        asked.append(_Asked(mean, std, value))
        return (value.double() / CELLS).to(mean_ND)

    network.infer_by(network.observe(x_NCHW), [draw] * len(network.layers))
    value_ND = torch.cat([each.value for each in asked], 1)
    output_NCHW = rounded(network.decode(value_ND.double().to(x_NCHW.device) / CELLS))
    level_NHWC = torch.from_numpy(images_NHWC.astype(np.int64)).to(x_NCHW.device)
    for channel in reversed(range(level_NHWC.shape[3])):
        told = list[tuple[Tensor, Tensor]]()

        def tell(
            one_NHW: Tensor, level_NHW: Tensor = level_NHWC[..., channel], told: list[tuple[Tensor, Tensor]] = told
        ) -> Tensor:
            bit_NHW = (level_NHW >> (BITS - 1 - len(told))) & 1
            told.append((bit_NHW, one_NHW))
            return bit_NHW

        _levels(network.likelihood.below(output_NCHW, x_NCHW, channel), output_NCHW[:, 0], tell)
        for bit_NHW, one_NHW in reversed(told):
            stack.push_bits(bit_NHW, one_NHW)
    stack.push_normal(value_ND, *_prior(*value_ND.shape), MOST)
    return _bits(network, output_NCHW, x_NCHW, asked)


def _bits(network: VAE, output_NCHW: Tensor, x_NCHW: Tensor, asked: list[_Asked]) -> float:
    """-log2 of p(x, z) / q(z|x), of densities and without any rounding of masses."""
    nats = -network.likelihood.log_prob(output_NCHW, x_NCHW).sum()
    for each in asked:
        mean, std, value = (part.double() / CELLS for part in each)
        nats = nats + (log_normal(value, mean, 2 * std.log()) - log_normal(value)).sum().to(nats)
    return float(nats) / math.log(2)


@torch.no_grad()
def decode(model: VAE, words: np.ndarray, borrowed: int, shape: tuple[int, int, int, int], lanes: int) -> np.ndarray:
    """uint8 images of ``shape`` (N, H, W, C) of words; ValueError where what was borrowed is not left in the end."""
    network, images_NHWC, stack = exact(model), np.zeros(shape, np.uint8), Stack(words)
    for first in reversed(range(0, len(images_NHWC), lanes)):
        _pop_block(network, images_NHWC[first : first + lanes], stack)
    if not np.array_equal(stack.words(), supply(borrowed)):
        raise ValueError("its payload is not of this model, or numbers come out otherwise on this machine")
    return images_NHWC


def _pop_block(network: VAE, images_NHWC: np.ndarray, stack: Stack) -> None:
    """Fill the images with the block that is on the top of the stack."""
    count, device = len(images_NHWC), next(network.parameters()).device
    value_ND = stack.pop_normal(*_prior(count, network.latent_dim), MOST)
    latents_ND = value_ND.double().to(device) / CELLS
    output_NCHW = rounded(network.decode(latents_ND))
    for channel in range(images_NHWC.shape[3]):
        below = network.likelihood.below(output_NCHW, exact_input(images_NHWC, network), channel)
        images_NHWC[..., channel] = _levels(below, output_NCHW[:, 0], stack.pop_bits).cpu().numpy()
    asked = list[tuple[Tensor, Tensor]]()
    parts = iter(latents_ND.split(network.layers, 1))

    def draw(mean_ND: Tensor, logvar_ND: Tensor) -> Tensor:
        asked.append(_in_cells(mean_ND, logvar_ND))
        return next(parts)

    network.infer_by(network.observe(exact_input(images_NHWC, network)), [draw] * len(network.layers))
    for (mean, std), value in reversed(list(zip(asked, value_ND.split(network.layers, 1), strict=True))):
        stack.push_normal(value, mean, std)


def _prior(count: int, latents: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(count, latents), torch.full((count, latents), float(CELLS))


def _in_cells(mean_ND: Tensor, logvar_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a posterior, counted in cells."""
    std_ND = rounded((0.5 * rounded(logvar_ND)).exp().clamp_max(1.0))  # a wider one than the prior tells nothing
    most = MOST - REACH
    return rounded(mean_ND).clamp(-most, most).cpu() * CELLS, std_ND.cpu() * CELLS


def _levels(below: Callable[[Tensor], Tensor], like_NHW: Tensor, bit_of: Callable[[Tensor], Tensor]) -> Tensor:
    """The levels (N, H, W) that eight bits of each say: ``bit_of`` is told how likely a one is at each place, and gives them.

    By halves, so that eight values of the distribution function are needed in the place of 256 masses.
    """
    start_NHW = torch.zeros(like_NHW.shape, dtype=torch.int64, device=like_NHW.device)
    low_NHW, high_NHW = torch.zeros_like(like_NHW), torch.ones_like(like_NHW)
    for half in (2**n for n in reversed(range(BITS))):
        middle_NHW = below(start_NHW + half)
        bit_NHW = bit_of(upper_share(low_NHW, middle_NHW, high_NHW, 2 * half))
        start_NHW = start_NHW + half * bit_NHW
        low_NHW, high_NHW = torch.where(bit_NHW > 0, middle_NHW, low_NHW), torch.where(bit_NHW > 0, high_NHW, middle_NHW)
    return start_NHW

"""Pictures as latents on a grid, each as many bits as the tables say. N images, D latents, V values that come into question for each.

Of the values near a latent's posterior mean that is taken which costs least in all: its nats, and the squared distance in the
posterior's own variance, which says how much of the picture hangs on that latent (Yang, Bamler, Mandt, Variational Bayesian
Quantization, 2020). What a latent does not tell of this picture then costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from vae.codec.exact import exact
from vae.codec.stack import Stack
from vae.codec.tables import BATCH, STEPS, Tables
from vae.images import to_model_range, to_uint8
from vae.models.base import VAE, Draw

NEAR = (-2, -1, 0, 1, 2)
UNIFORM = 12**0.5  # the width of a uniform distribution of variance 1


@dataclass(frozen=True)
class Coded:
    """The words of a file (uint32), what the model says they should hold in bits, and the values (N, D)."""

    words: np.ndarray
    estimated_bits: float
    value_ND: np.ndarray


class _Grid:
    """The tables for one step, for all latents at once."""

    def __init__(self, tables: Tables, step: int) -> None:
        every = [tables.of(channel, step) for channel in range(tables.channels)]
        low_G, count_G = (torch.tensor(each) for each in ([low for low, _ in every], [len(p) for _, p in every]))
        channel_D = tables.tensors["channel_D"]
        self.nats_GK = torch.full((tables.channels, int(count_G.max())), torch.inf, dtype=torch.float64)
        for channel, (_, probability_K) in enumerate(every):
            self.nats_GK[channel, : len(probability_K)] = -torch.from_numpy(probability_K).log()
        self.channel_D, self.low_D, self.count_D = channel_D, low_G[channel_D], count_G[channel_D]
        self.likeliest_D = self.nats_GK.argmin(1)[channel_D]
        self.width_D, self.step = tables.width_D(step), step

    def chosen(self, mean_ND: Tensor, logvar_ND: Tensor, own: slice) -> Tensor:
        """Values, int64, of the latents ``own``, counted from the least."""
        width_D, low_D = self.width_D[own], self.low_D[own]
        middle_ND = (mean_ND / width_D).round().long() - low_D
        likeliest_ND = self.likeliest_D[own].expand_as(middle_ND)
        candidate_VND = torch.stack([*(middle_ND + away for away in NEAR), likeliest_ND])
        candidate_VND = torch.minimum(candidate_VND.clamp_min(0), self.count_D[own] - 1)
        nats_VND = self.nats_GK[self.channel_D[own].expand_as(candidate_VND), candidate_VND]
        away_VND = (candidate_VND + low_D) * width_D - mean_ND
        # A coarse step asks for few bits: then an error weighs less.
        weight = (UNIFORM * STEPS / self.step) ** 2 / 2
        best_ND = (nats_VND + weight * away_VND.square() * (-logvar_ND).exp()).argmin(0)
        return candidate_VND.gather(0, best_ND[None])[0]

    def latents(self, value_ND: Tensor, own: slice = slice(None)) -> Tensor:
        return (value_ND + self.low_D[own]) * self.width_D[own]


@torch.no_grad()
def encode(model: VAE, tables: Tables, images_NHWC: np.ndarray, step: int) -> Coded:
    """uint8 images as words."""
    grid, network, found = _Grid(tables, step), exact(model), list[Tensor]()
    for first in range(0, len(images_NHWC), BATCH):
        x_NCHW = _input(images_NHWC[first : first + BATCH], network)
        layers: list[Tensor] = []
        network.infer_by(network.observe(x_NCHW), _draws(grid, network.layers, layers))
        found.append(torch.cat(layers, 1))
    value_ND, stack = torch.cat(found).numpy(), Stack(np.zeros(0, np.uint32))
    channel_D, bits = tables.tensors["channel_D"].numpy(), 0.0
    for channel in reversed(range(tables.channels)):
        _, probability_K = tables.of(channel, step)
        own = value_ND[:, channel_D == channel].ravel()
        bits -= float(np.log2(probability_K[own]).sum())
        if len(probability_K) > 1:  # else there is nothing to say
            stack.push_alike(own, probability_K)
    return Coded(stack.words(), bits, value_ND)


def _draws(grid: _Grid, sizes: tuple[int, ...], found: list[Tensor]) -> list[Draw]:
    """Of each layer the function that puts its latents on the grid, and adds their values to ``found``."""

    def of_layer(own: slice) -> Callable[[Tensor, Tensor], Tensor]:
        def draw(mean_ND: Tensor, logvar_ND: Tensor) -> Tensor:
            value_ND = grid.chosen(mean_ND.cpu().double(), logvar_ND.cpu().double(), own)
            found.append(value_ND)
            return grid.latents(value_ND, own).to(mean_ND)

        return draw

    ends = np.cumsum((0, *sizes))
    return [of_layer(slice(int(start), int(end))) for start, end in pairwise(ends)]


@torch.no_grad()
def decode(model: VAE, tables: Tables, words: np.ndarray, count: int, step: int) -> np.ndarray:
    """``count`` uint8 images of words; ValueError where more or less is left of them than was put in."""
    value_ND, stack = values(tables, words, count, step)
    if not stack.empty:
        raise ValueError("its payload is not of this model and step")
    return pictures(model, tables, value_ND, step)


def values(tables: Tables, words: np.ndarray, count: int, step: int) -> tuple[np.ndarray, Stack]:
    """The values (count, D) that words hold, and the stack that is left."""
    stack, channel_D = Stack(words), tables.tensors["channel_D"].numpy()
    value_ND = np.zeros((count, len(channel_D)), np.int64)
    for channel in range(tables.channels):
        _, probability_K = tables.of(channel, step)
        own_D = channel_D == channel
        if len(probability_K) > 1:
            value_ND[:, own_D] = stack.pop_alike(count * int(own_D.sum()), probability_K).reshape(count, -1)
    return value_ND, stack


@torch.no_grad()
def pictures(model: VAE, tables: Tables, value_ND: np.ndarray, step: int) -> np.ndarray:
    """uint8 images of values (N, D)."""
    grid, network, found = _Grid(tables, step), exact(model), list[np.ndarray]()
    device = next(model.parameters()).device
    for first in range(0, len(value_ND), BATCH):
        z_ND = grid.latents(torch.from_numpy(value_ND[first : first + BATCH])).to(device)
        found.append(to_uint8(network.sample(z_ND)).cpu().numpy())
    return np.concatenate(found)


def _input(images_NHWC: np.ndarray, network: VAE) -> Tensor:
    device = next(network.parameters()).device
    return to_model_range(torch.from_numpy(np.ascontiguousarray(images_NHWC)).to(device)).double()

"""Pictures as latents on a grid, each as many bits as the tables say. N images, D latents, V values that come into question for each.

Of the values near a latent's posterior mean that is taken which costs least in all: its nats, and the squared distance in the
posterior's own variance, which says how much of the picture hangs on that latent (Yang, Bamler, Mandt, Variational Bayesian
Quantization, 2020). What a latent does not tell of this picture then costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from vae.codec.exact import exact, exact_input
from vae.codec.stack import Stack
from vae.codec.tables import BATCH, STEPS, Tables
from vae.images import to_uint8
from vae.models.base import VAE, Draw

NEAR = (-2, -1, 0, 1, 2)
UNIFORM = 12**0.5  # the width of a uniform distribution of variance 1


@dataclass(frozen=True)
class Coded:
    """The words of a file (uint32), what the model says they should hold in bits, and the values (N, D)."""

    words: np.ndarray
    estimated_bits: float
    value_ND: np.ndarray


class Coder:
    """A model and its tables at one step of quantisation."""

    def __init__(self, model: VAE, tables: Tables, step: int) -> None:
        every = [tables.of(channel, step) for channel in range(tables.channels)]
        low_G, count_G = (torch.tensor(each) for each in ([low for low, _ in every], [len(p) for _, p in every]))
        channel_D, nats_GK = tables.tensors["channel_D"], torch.full((len(every), int(count_G.max())), torch.inf).double()
        for channel, (_, probability_K) in enumerate(every):
            nats_GK[channel, : len(probability_K)] = -torch.from_numpy(probability_K).log()
        self._network, self._step, self._probabilities = exact(model), step, [p for _, p in every]
        self._channel_D, self._nats_GK, self._width_D = channel_D, nats_GK, tables.width_D(step)
        self._low_D, self._count_D, self._likeliest_D = low_G[channel_D], count_G[channel_D], nats_GK.argmin(1)[channel_D]

    @torch.no_grad()
    def encode(self, images_NHWC: np.ndarray) -> Coded:
        """uint8 images as words."""
        network, found = self._network, list[Tensor]()
        for first in range(0, len(images_NHWC), BATCH):
            layers: list[Tensor] = []
            network.infer_by(network.observe(exact_input(images_NHWC[first : first + BATCH], network)), self._draws(layers))
            found.append(torch.cat(layers, 1))
        value_ND, stack, bits = torch.cat(found).numpy(), Stack(np.zeros(0, np.uint32)), 0.0
        for own_D, probability_K in reversed(list(self._channels())):
            own = value_ND[:, own_D].ravel()
            bits -= float(np.log2(probability_K[own]).sum())
            if len(probability_K) > 1:  # else there is nothing to say
                stack.push_alike(own, probability_K)
        return Coded(stack.words(), bits, value_ND)

    def values(self, words: np.ndarray, count: int) -> tuple[np.ndarray, Stack]:
        """The values (count, D) that words hold, and the stack that is left."""
        stack, value_ND = Stack(words), np.zeros((count, len(self._channel_D)), np.int64)
        for own_D, probability_K in self._channels():
            if len(probability_K) > 1:
                value_ND[:, own_D] = stack.pop_alike(count * int(own_D.sum()), probability_K).reshape(count, -1)
        return value_ND, stack

    @torch.no_grad()
    def pictures(self, value_ND: np.ndarray) -> np.ndarray:
        """uint8 images of values (N, D)."""
        found, device = list[np.ndarray](), next(self._network.parameters()).device
        for first in range(0, len(value_ND), BATCH):
            z_ND = self._latents(torch.from_numpy(value_ND[first : first + BATCH])).to(device)
            found.append(to_uint8(self._network.sample(z_ND)).cpu().numpy())
        return np.concatenate(found)

    def decode(self, words: np.ndarray, count: int) -> np.ndarray:
        """``count`` uint8 images of words; ValueError where more or less is left of them than was put in."""
        value_ND, stack = self.values(words, count)
        if not stack.empty:
            raise ValueError("its payload is not of this model and step")
        return self.pictures(value_ND)

    def _channels(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each channel which latents are of it, bool (D,), and its values' probabilities."""
        for channel, probability_K in enumerate(self._probabilities):
            yield (self._channel_D == channel).numpy(), probability_K

    def _draws(self, found: list[Tensor]) -> list[Draw]:
        """Of each layer the function that puts its latents on the grid, and adds their values to ``found``."""

        def of_layer(own: slice) -> Draw:
            def draw(mean_ND: Tensor, logvar_ND: Tensor) -> Tensor:
                value_ND = self._chosen(mean_ND.cpu().double(), logvar_ND.cpu().double(), own)
                found.append(value_ND)
                return self._latents(value_ND, own).to(mean_ND)

            return draw

        ends = np.cumsum((0, *self._network.layers))
        return [of_layer(slice(int(start), int(end))) for start, end in pairwise(ends)]

    def _chosen(self, mean_ND: Tensor, logvar_ND: Tensor, own: slice) -> Tensor:
        """Values, int64, of the latents ``own``, counted from the least."""
        width_D, low_D = self._width_D[own], self._low_D[own]
        middle_ND = (mean_ND / width_D).round().long() - low_D
        likeliest_ND = self._likeliest_D[own].expand_as(middle_ND)
        candidate_VND = torch.stack([*(middle_ND + away for away in NEAR), likeliest_ND])
        candidate_VND = torch.minimum(candidate_VND.clamp_min(0), self._count_D[own] - 1)
        nats_VND = self._nats_GK[self._channel_D[own].expand_as(candidate_VND), candidate_VND]
        away_VND = (candidate_VND + low_D) * width_D - mean_ND
        # A coarse step asks for few bits: then an error weighs less.
        weight = (UNIFORM * STEPS / self._step) ** 2 / 2
        best_ND = (nats_VND + weight * away_VND.square() * (-logvar_ND).exp()).argmin(0)
        return candidate_VND.gather(0, best_ND[None])[0]

    def _latents(self, value_ND: Tensor, own: slice = slice(None)) -> Tensor:
        return (value_ND + self._low_D[own]) * self._width_D[own]

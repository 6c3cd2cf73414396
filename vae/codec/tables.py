"""How often each latent has each value: what the entropy coder of lossy files knows, learned from training images and kept as counts.

Whole numbers, so that any machine divides the same intervals. Latents of one channel (``VAE.channel_D``) share a table. The counts are
of cells an eighth of the posterior's standard deviation wide; a step of quantisation is a multiple of two cells. N images, D latents,
G channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vae.data import Selection
from vae.images import model_input
from vae.models.base import VAE

FILE = "tables.safetensors"
CELLS = 8  # in a standard deviation of the posterior
STEPS = 4  # of quantisation in one: a step of number m is 2 m cells wide
LEAST_STEP, MOST_STEP = 1, 256
USUAL = 14  # 3.5 standard deviations, whose uniform noise has about the posterior's variance (12 ** 0.5)
BLUR_CELLS, WIDE_SHARE, TOTAL = CELLS / 2, 0.02, 2**24
BATCH = 256


@dataclass(frozen=True)
class Tables:
    """``tensors``: channel_D; for each channel cell_G (its cells' width), low_G (the first cell's number), end_G; weight, of all cells."""

    tensors: dict[str, Tensor]

    @classmethod
    @torch.no_grad()
    def fit(cls, model: VAE, images_NHWC: np.ndarray | Selection) -> Tables:
        """Of the posterior means of training images; ValueError for a model whose posterior is not normal, or is told labels."""
        check_model(model)
        means, logvars = zip(
            *(_posterior(model, images_NHWC[i : i + BATCH]) for i in range(0, len(images_NHWC), BATCH)), strict=True
        )
        mean_ND, variance_ND, channel_D = torch.cat(means).double(), torch.cat(logvars).double().exp(), model.channel_D
        cells, lows, weights = [], [], []
        for channel in range(int(channel_D.max()) + 1):
            own_D = channel_D == channel
            cell = float(variance_ND[:, own_D].mean().sqrt()) / CELLS
            low, weight = _weights(mean_ND[:, own_D].numpy().ravel(), cell)
            cells.append(cell)
            lows.append(low)
            weights.append(weight)
        return cls(
            {
                "channel_D": channel_D,
                "cell_G": torch.tensor(cells, dtype=torch.float64),
                "low_G": torch.tensor(lows),
                "end_G": torch.tensor([len(weight) for weight in weights]).cumsum(0),
                "weight": torch.from_numpy(np.concatenate(weights)),
            }
        )

    @property
    def channels(self) -> int:
        return len(self.tensors["cell_G"])

    def width_D(self, step: int) -> Tensor:
        """The distance of two neighbouring values of each latent, float64 (D,)."""
        return 2 * step * self.tensors["cell_G"][self.tensors["channel_D"]]

    def of(self, channel: int, step: int) -> tuple[int, np.ndarray]:
        """The least value of a channel's latents, in such distances, and the probability of it and each one above, float64 (K,)."""
        end = int(self.tensors["end_G"][channel])
        start = int(self.tensors["end_G"][channel - 1]) if channel else 0
        cell = int(self.tensors["low_G"][channel]) + np.arange(end - start)
        value = (cell + step) // (2 * step)
        weight_K = np.zeros(value[-1] - value[0] + 1, np.int64)
        np.add.at(weight_K, value - value[0], self.tensors["weight"][start:end].numpy())
        return int(value[0]), weight_K / weight_K.sum()

    def save(self, directory: Path) -> None:
        """Write the file."""
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, directory / FILE)

    @classmethod
    def load(cls, directory: Path) -> Tables | None:
        """Those of an artefact, or None where it has none."""
        return cls(load_file(directory / FILE)) if (directory / FILE).exists() else None


def check_model(model: VAE) -> None:
    """ValueError for a model whose latents cannot be coded."""
    if not model.normal_posterior:
        raise ValueError("a model vq cannot compress: use conv, resnet or ladder")
    if model.classes:
        raise ValueError("a model with fit.class_conditional cannot compress: it would have to be told every picture's label")


def _posterior(model: VAE, images_NHWC: np.ndarray) -> tuple[Tensor, Tensor]:
    mean_ND, logvar_ND = model.encode(model_input(images_NHWC, next(model.parameters()).device))
    return mean_ND.cpu(), logvar_ND.cpu()


def _weights(mean_M: np.ndarray, cell: float) -> tuple[int, np.ndarray]:
    """The first cell and what each weighs, int64: the means' counts, blurred; and a little of a wide normal: nothing is impossible."""
    place_M = np.round(mean_M / cell).astype(np.int64)
    beyond = (place_M.max() - place_M.min()) // 4 + 4 * CELLS
    low = int(place_M.min() - beyond)
    count = np.bincount(place_M - low, minlength=int(place_M.max() + beyond) - low + 1) / len(place_M)
    reach = np.arange(-4 * CELLS, 4 * CELLS + 1)
    kernel = np.exp(-0.5 * (reach / BLUR_CELLS) ** 2)
    near = np.convolve(count, kernel / kernel.sum(), mode="same")
    away = (low + np.arange(len(count)) - place_M.mean()) / (2 * place_M.std() + CELLS)
    wide = np.exp(-0.5 * away**2)
    share = (1 - WIDE_SHARE) * near / near.sum() + WIDE_SHARE * wide / wide.sum()
    return low, np.round(share * TOTAL).astype(np.int64) + 1

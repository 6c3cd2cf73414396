"""Pictures with parts missing: the latents that explain what is there, and what they draw where nothing is. N images, D latents.

As in vae/denoise.py, but that missing pixels count nothing. Several starting points, for there may be several explanations.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vae.artefact import BATCH, Generator
from vae.denoise import STEPS, check_gradient, explained
from vae.images import model_input

STARTS = 4  # the posterior mean of the picture with its missing part filled evenly, and draws of the prior
SIGMA_LEVELS = 8.0  # how exactly the known pixels are to be met


def inpainted(
    generator: Generator,
    images_NHWC: np.ndarray,
    missing_NHW: np.ndarray,
    label_N: Tensor | None = None,
    seed: int = 0,
    steps: int = STEPS,
) -> np.ndarray:
    """Each uint8 image with its ``missing`` pixels (bool) drawn by the model, the others as they are: a function of the arguments.

    ValueError where a picture misses nothing or everything, the masks are not of the images' size, or the model has no gradient.
    """
    check_gradient(generator)
    if missing_NHW.shape != images_NHWC.shape[:3]:
        raise ValueError(f"the mask is {missing_NHW.shape[1:]}, the pictures are {images_NHWC.shape[1:3]} (H, W)")
    shares_N = missing_NHW.reshape(len(missing_NHW), -1).mean(1)
    if ((shares_N == 0) | (shares_N == 1)).any():
        wrong = int(np.flatnonzero((shares_N == 0) | (shares_N == 1))[0])
        raise ValueError(f"{'everything' if shares_N[wrong] else 'nothing'} is missing of picture {wrong}")
    known_NHW1 = ~missing_NHW[..., None]
    middle_N11C = (images_NHWC * known_NHW1).sum((1, 2), keepdims=True) / known_NHW1.sum((1, 2), keepdims=True)
    filled_NHWC = np.where(known_NHW1, images_NHWC, middle_N11C.round().astype(np.uint8))
    starts = [generator.encode(filled_NHWC, label_N)[0]]
    starts += [generator.latents(len(images_NHWC), seed + i, 1.0, label_N) for i in range(STARTS - 1)]
    found = []
    for first in range(0, len(images_NHWC), BATCH):
        rows = slice(first, first + BATCH)
        z_ND = _best(generator, images_NHWC[rows], known_NHW1[rows], [each[rows] for each in starts], label_N, rows, steps)
        found.append(generator.decode(z_ND, None if label_N is None else label_N[rows]))
    return np.where(known_NHW1, images_NHWC, np.concatenate(found))


def _best(
    generator: Generator,
    images_NHWC: np.ndarray,
    known_NHW1: np.ndarray,
    starts: list[Tensor],
    label_N: Tensor | None,
    rows: slice,
    steps: int,
) -> Tensor:
    """Of the latents that are found from each starting point those of the lowest energy, for each image."""
    y_NCHW = model_input(images_NHWC, generator.device)
    precision = (SIGMA_LEVELS * 2 / 255) ** -2  # 255 levels are 2 in model range
    precision_N1HW = torch.from_numpy(known_NHW1).permute(0, 3, 1, 2).float().to(generator.device) * precision
    labels = None if label_N is None else label_N[rows].to(generator.device)
    tried = [explained(generator, y_NCHW, each.to(generator.device), precision_N1HW, labels, steps) for each in starts]
    z_SND, energy_SN = torch.stack([z_ND for z_ND, _ in tried]), torch.stack([energy_N for _, energy_N in tried])
    return z_SND[energy_SN.argmin(0), torch.arange(z_SND.shape[1])].cpu()

"""Pictures without their noise: by a model that was trained to take it away, or by any, as what explains a noisy picture best.

Of the first kind (fit.denoise_levels, vae/corruption.py) the posterior of a noisy picture is one of clean ones: their mean is the
result, and how strong the noise is need not be known. Of any other: y = g(z) + e with e of N(0, sigma^2) and z of N(0, I), so that
the most probable z given y minimises |y - g(z)|^2 / (2 sigma^2) + |z|^2 / 2. It is found by gradient, from the posterior mean of y on
(Bora et al. 2017, Compressed Sensing using Generative Models, as a MAP estimate).
The result is then never better than what the model can draw. N images, D latents; sigma in levels of 255.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vae.artefact import BATCH, Generator
from vae.images import model_input, to_uint8

STEPS, LEARNING_RATE = 200, 0.05
SAMPLES, MOST_SAMPLES = 16, 1024  # of the posterior, whose mean is taken
LEAST_LEVELS, MOST_LEVELS = 0.5, 255.0
MAD_OF_NORMAL = 0.6745  # the median of |x| where x is N(0, 1)
NO_GRADIENT = ("vq",)  # models whose latents are names of codes


def estimated_sigma(images_NHWC: np.ndarray) -> np.ndarray:
    """The noise of each image (N,), in levels, from the diagonal details of its finest Haar wavelets (Donoho & Johnstone 1994).

    Edges are taken for noise where there is little else, so that it is too high for small pictures of sharp shapes.
    """
    n, h, w, _ = images_NHWC.shape
    x = images_NHWC[:, : h - h % 2, : w - w % 2].astype(np.float64)
    detail = (x[:, ::2, ::2] - x[:, 1::2, ::2] - x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 2
    return np.median(np.abs(detail.reshape(n, -1)), 1) / MAD_OF_NORMAL


def trained_levels(generator: Generator) -> float:
    """The strongest noise that the model was trained to take away, in levels; 0: it was not."""
    return float(generator.contract.get("denoise_levels", 0.0))


def within(sigma: float | None, most_levels: float) -> None:
    """ValueError where the noise is said to be stronger than any that the model has learned to take away."""
    if sigma is not None and not 0 <= sigma <= most_levels:
        raise ValueError(f"sigma is {sigma:g}: this model was trained for noise of up to {most_levels:g} levels")


def averaged(
    generator: Generator, images_NHWC: np.ndarray, samples: int = SAMPLES, label_N: Tensor | None = None, seed: int = 0
) -> np.ndarray:
    """Each uint8 image as a model that was trained for it takes the noise away; ValueError for any other model."""
    if not trained_levels(generator):
        raise ValueError("this model was not trained to take noise away: train one with fit.denoise_levels (docs/denoise.md)")
    if not 1 <= samples <= MOST_SAMPLES:
        raise ValueError(f"samples is {samples}: 1 to {MOST_SAMPLES}")
    return generator.average(images_NHWC, samples, label_N, seed)


def check_gradient(generator: Generator) -> None:
    """ValueError for a model whose pictures do not follow its latents smoothly."""
    if generator.config.name in NO_GRADIENT:
        raise ValueError(f"a model {generator.config.name} has latents without a gradient: use conv, resnet or ladder")


def denoised(
    generator: Generator, images_NHWC: np.ndarray, sigma_N: np.ndarray, label_N: Tensor | None = None, steps: int = STEPS
) -> np.ndarray:
    """Each uint8 image without noise of ``sigma_N`` levels; ValueError for a model without gradients, or noise out of range."""
    check_gradient(generator)
    if len(sigma_N) != len(images_NHWC) or not all(LEAST_LEVELS <= sigma <= MOST_LEVELS for sigma in sigma_N):
        raise ValueError(f"sigma is {LEAST_LEVELS} to {MOST_LEVELS:g} levels of 255 for each image")
    start_ND = generator.encode(images_NHWC, label_N)[0]
    found = []
    for first in range(0, len(images_NHWC), BATCH):
        rows = slice(first, first + BATCH)
        y_NCHW = model_input(images_NHWC[rows], generator.device)
        # 255 levels are 2 in model range.
        precision_N = torch.from_numpy((np.asarray(sigma_N[rows], np.float64) * 2 / 255) ** -2).float().to(generator.device)
        precision_N1HW = precision_N[:, None, None, None].expand(-1, 1, *y_NCHW.shape[2:])
        labels = None if label_N is None else label_N[rows].to(generator.device)
        z_ND, _ = explained(generator, y_NCHW, start_ND[rows].to(generator.device), precision_N1HW, labels, steps)
        found.append(to_uint8(generator.model.sample(z_ND, labels)).cpu().numpy())
    return np.concatenate(found)


def explained(
    generator: Generator, y_NCHW: Tensor, start_ND: Tensor, precision_N1HW: Tensor, label_N: Tensor | None, steps: int
) -> tuple[Tensor, Tensor]:
    """The best latents that ``steps`` of Adam come by, and their energy (N,): half of the weighted misfit plus half of |z|^2."""
    z_ND, most_N = start_ND.clone().requires_grad_(True), precision_N1HW.flatten(1).amax(1)
    optimizer = torch.optim.Adam([z_ND], LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    best_ND, best_N = start_ND.clone(), torch.full((len(start_ND),), torch.inf, device=start_ND.device)
    for step in range(steps + 1):
        with torch.enable_grad():
            misfit_N = ((generator.model.sample(z_ND, label_N) - y_NCHW).square() * precision_N1HW).flatten(1).sum(1)
            energy_N = 0.5 * misfit_N + 0.5 * z_ND.square().sum(1)
            better_N = energy_N.detach() < best_N
            best_ND[better_N], best_N = z_ND.detach()[better_N], torch.minimum(best_N, energy_N.detach())
            if step < steps:
                optimizer.zero_grad(set_to_none=True)
                # Each image's gradient has the scale of its own noise; Adam then steps alike whatever that is.
                (energy_N / most_N.clamp_min(1e-12)).sum().backward()
                optimizer.step()
                schedule.step()
    return best_ND, best_N

"""Likelihood of held-out images. N images, K importance samples, D latent dimensions; all values in nats per image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vae.distributed import shared
from vae.models.base import VAE
from vae.noise import step_noise
from vae.objective import importance_bound

ROWS_PER_PASS = 512  # decoded images at a time: bounds the memory whatever K is


@torch.no_grad()
def importance_weighted_nll(model: VAE, x_NCHW: Tensor, samples: int, seed: int, label_N: Tensor | None = None) -> Tensor:
    """-log p(x) as bounded by ``samples`` draws of the posterior (N,), Burda et al. 2016; decreases with K, towards the truth.

    The noise of image i is f(seed, i), i its place in the call, so chunking within the call leaves the value as it is.
    """

    def of_image(i: int) -> Tensor:
        x_CHW, label_1 = x_NCHW[i], None if label_N is None else label_N[i : i + 1]
        observed = model.observe(x_CHW[None], label_1)  # once, whatever K is
        noise_KD = step_noise(seed, i, (samples, model.latent_dim), x_CHW.device)
        pieces = []
        for noise_RD in noise_KD.split(ROWS_PER_PASS):
            repeated = tuple(each.expand(len(noise_RD), *each.shape[1:]) for each in observed)
            found = model.infer(repeated, noise_RD)
            label_R = None if label_1 is None else label_1.expand(len(noise_RD))
            output = model.output_of(found, label_R)
            log_likelihood_R = model.likelihood.log_prob(output, x_CHW.expand(len(noise_RD), *x_CHW.shape))
            pieces.append(log_likelihood_R.double() + found.log_ratio_N().double())
        return -importance_bound(torch.cat(pieces)[:, None])

    return shared(range(len(x_NCHW)), of_image)


def bits_per_dim(nats: float, image_shape: tuple[int, int, int]) -> float:
    """Nats per image as bits per observed value (pixel and channel)."""
    height, width, channels = image_shape
    return nats / math.log(2) / (height * width * channels)


@torch.no_grad()
def shuffled_gain(model: VAE, x_NCHW: Tensor, seed: int, label_N: Tensor | None = None) -> Tensor:
    """How much likelier each image is given its own latents than given those of another image (N,), in nats.

    About 0: the decoder does not look at its latents. The other image is half the set away, as neighbours may be alike; one posterior
    sample of each, its noise f(seed, place).
    """
    noise_ND = step_noise(seed, 0, (len(x_NCHW), model.latent_dim), x_NCHW.device)
    away = len(x_NCHW) // 2

    def parts(rows: slice) -> tuple[Tensor, Tensor | None]:
        return x_NCHW[rows], None if label_N is None else label_N[rows]

    chunks = [slice(start, start + ROWS_PER_PASS) for start in range(0, len(x_NCHW), ROWS_PER_PASS)]
    z_ND = torch.cat([model.infer(model.observe(*parts(rows)), noise_ND[rows]).z_ND for rows in chunks])
    found = []
    for rows in chunks:
        x, label = parts(rows)
        own, other = (model.likelihood.log_prob(model.decode(z[rows], label), x) for z in (z_ND, z_ND.roll(away, 0)))
        found.append(own.double() - other.double())
    return torch.cat(found)

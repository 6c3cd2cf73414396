"""Likelihood of held-out images. N images, K importance samples, D latent dimensions; all values in nats per image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vae.noise import step_noise
from vae.objective import importance_bound, log_normal, reparameterize

ROWS_PER_PASS = 512  # decoded images at a time: bounds the memory whatever K is


@torch.no_grad()
def importance_weighted_nll(model: nn.Module, x_NCHW: Tensor, samples: int, seed: int) -> Tensor:
    """-log p(x) as bounded by ``samples`` draws of the posterior (N,), Burda et al. 2016; decreases with K, towards the truth.

    The noise of image i is f(seed, i), i its place in the call, so chunking within the call leaves the value as it is.
    """
    results = []
    for i, x_CHW in enumerate(x_NCHW):
        mean_1D, logvar_1D = model.encode(x_CHW[None])
        noise_KD = step_noise(seed, i, (samples, mean_1D.shape[1]), x_CHW.device)
        pieces = []
        for noise_RD in noise_KD.split(ROWS_PER_PASS):
            z_RD = reparameterize(mean_1D, logvar_1D, noise_RD)
            log_likelihood_R = model.likelihood.log_prob(model.decode(z_RD), x_CHW[None].expand(len(z_RD), -1, -1, -1))
            pieces.append(log_likelihood_R.double() + log_normal(z_RD).double() - log_normal(z_RD, mean_1D, logvar_1D).double())
        results.append(-importance_bound(torch.cat(pieces)[:, None])[0])
    return torch.stack(results)


def bits_per_dim(nats: float, image_shape: tuple[int, int, int]) -> float:
    """Nats per image as bits per observed value (pixel and channel)."""
    height, width, channels = image_shape
    return nats / math.log(2) / (height * width * channels)

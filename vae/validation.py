"""The bound of held-out images, the same during training and in evaluation."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from vae.data import ImageShards
from vae.distributed import all_reduce_sum, rank, shared, world_size
from vae.images import to_model_range
from vae.likelihood import binarised
from vae.models.base import VAE
from vae.noise import step_noise, step_uniforms
from vae.pace import Pace

Metrics = dict[str, float]
BOUND_SEED_OFFSET = 1_000_003  # held-out images draw their noise from another seed than training


def observed(model: VAE, x_NCHW: Tensor, seed: int, number: int) -> Tensor:
    """The images as the model's likelihood sees them: as they are, or binarised by f(seed, number, place)."""
    if not model.likelihood.binary:
        return x_NCHW
    return binarised(x_NCHW, step_uniforms(seed, number, (len(x_NCHW), x_NCHW[0].numel()), x_NCHW.device))


def _terms(model: VAE, images: ImageShards, batch_size: int, seed: int, chunk: int) -> Tensor:
    """Distortion and rate of each image of a chunk (., 2), float64, in nats."""
    device = next(model.parameters()).device
    rows = np.arange(chunk * batch_size, min((chunk + 1) * batch_size, len(images)))
    x_NCHW = to_model_range(torch.from_numpy(images.gather(rows)).to(device))
    label_N = images.labels(rows, device) if model.classes else None
    noise_ND = step_noise(seed + BOUND_SEED_OFFSET, chunk, (len(x_NCHW), model.latent_dim), device)
    terms = model(observed(model, x_NCHW, seed + BOUND_SEED_OFFSET, chunk), noise_ND, label_N)
    return torch.stack([terms.distortion_N.double(), terms.rate_ND.double().sum(1)], 1)


@torch.no_grad()
def image_terms(model: VAE, images: ImageShards, batch_size: int, seed: int) -> Tensor:
    """Distortion and rate of each image (N, 2), float64, in nats: ``bound`` is their mean."""
    chunks = range(math.ceil(len(images) / batch_size))
    return shared(chunks, lambda chunk: _terms(model, images, batch_size, seed, chunk)).cpu()


@torch.no_grad()
def bound(model: VAE, images: ImageShards, batch_size: int, seed: int, pace: Pace | None = None) -> Metrics:
    """The beta = 1 bound of ``images`` and its two terms, in nats per image, reduced as sums and counts over all ranks.

    One posterior sample per image, its noise a function of (seed, position): the same images and weights give the same value.
    ``pace`` learns how long this rank took for each of its batches.
    """
    device = next(model.parameters()).device
    chunks = math.ceil(len(images) / batch_size)
    # A row for each chunk, of which each rank fills its own: to add zeros is exact, so the sum has one order on any world size.
    terms_by_chunk = torch.zeros(chunks, 2, dtype=torch.float64)
    for chunk in range(rank(), chunks, world_size()):
        count = min(batch_size, len(images) - chunk * batch_size)
        with pace.timed(count / batch_size) if pace else nullcontext():
            terms_by_chunk[chunk] = _terms(model, images, batch_size, seed, chunk).sum(0).cpu()
    distortion, rate = (all_reduce_sum(terms_by_chunk.to(device)).sum(0) / len(images)).tolist()
    return {
        "elbo_nats": -(distortion + rate),
        "distortion_nats": distortion,
        "rate_nats": rate,
    }


def training_terms(distortion: float, rate: float, count: float, loss: float, *, critic: bool) -> dict[str, float]:
    """The training images' own terms since the last report, for each image."""
    count = max(count, 1)
    terms = {"elbo_nats": -(distortion + rate) / count, "distortion_nats": distortion / count, "rate_nats": rate / count}
    return terms | ({"critic_loss": loss / count} if critic else {})

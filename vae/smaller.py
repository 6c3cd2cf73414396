"""A smaller network that does what a larger one does: cut from it, or built at half the widths, and then taught by it.

Taught: Hinton, Vinyals, Dean, Distilling the knowledge in a neural network (2015). Cut: the hidden units that say least, by the norms of
their weights (Li et al., Pruning filters for efficient ConvNets, 2017). N batch, D latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from vae.artefact import Generator
from vae.config import ModelConfig
from vae.data import ImageShards
from vae.images import to_model_range
from vae.models import build
from vae.models.base import VAE
from vae.models.vector import VectorVAE
from vae.order import stream_indices

BATCH, LEARNING_RATE, WARM_SHARE = 64, 2e-3, 0.05
LEAST = 1e-6


def halved(config: ModelConfig) -> ModelConfig:
    """Half of every width: about a quarter of the weights."""
    return replace(
        config, widths=tuple(max(1, width // 2) for width in config.widths), hidden_units=max(1, config.hidden_units // 2)
    )


def student(teacher: Generator, seed: int) -> tuple[VAE, ModelConfig]:
    """A network of half the widths that knows nothing yet."""
    config = halved(teacher.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config), config


def pruned(teacher: Generator) -> tuple[VAE, ModelConfig]:
    """The teacher without the half of its hidden units that say least; ValueError for a network that has none."""
    model = teacher.model
    if not isinstance(model, VectorVAE):
        raise ValueError(f"{teacher.config.name} has no hidden units between its maps and its latents: only conv and resnet do")
    kept = max(1, teacher.config.hidden_units // 2)
    config = replace(teacher.config, hidden_units=kept)
    with torch.random.fork_rng(devices=[]):
        cut = build(config)
    assert isinstance(cut, VectorVAE)
    own = model.state_dict()
    places = {"encoder": len(model.encoder) - 3, "expand": 0}  # of the layer into the hidden units; the second next leads out
    for half, place in places.items():
        into, out = f"{half}.{place}.", f"{half}.{place + 2}."
        says_H = own[f"{into}weight"].norm(dim=1) * own[f"{out}weight"].norm(dim=0)
        chosen = says_H.topk(kept).indices.sort().values
        own[f"{into}weight"], own[f"{into}bias"] = own[f"{into}weight"][chosen], own[f"{into}bias"][chosen]
        own[f"{out}weight"] = own[f"{out}weight"][:, chosen]
        if half == "expand" and "class_in_picture.table" in own:
            own["class_in_picture.table"] = own["class_in_picture.table"][:, chosen]
    cut.load_state_dict(own)
    return cut, config


def _apart(found: Tensor, wanted: Tensor) -> Tensor:
    """The share of the variance of ``wanted`` over the batch that ``found`` does not have."""
    return (found - wanted).square().mean() / (wanted - wanted.mean(0)).square().mean().clamp(min=LEAST)


def taught(
    teacher: Generator, pupil: VAE, train: ImageShards, images: int, seed: int, on_step: Callable[[int, int], None]
) -> VAE:
    """The pupil after ``images`` images: its posteriors those of the teacher, its pictures too, of posteriors and of the prior.

    ``on_step`` hears of the steps done and of how many there are.
    """
    conditional = bool(teacher.config.classes)
    steps = math.ceil(images / BATCH)
    pupil.train()
    optimizer = torch.optim.AdamW(pupil.parameters(), LEARNING_RATE, weight_decay=0.0)
    warm = max(1, int(WARM_SHARE * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    noise = torch.Generator().manual_seed(seed)
    for step in range(steps):
        rows = stream_indices(len(train), seed, step * BATCH, (step + 1) * BATCH)
        x_NCHW, label_N = to_model_range(torch.from_numpy(train.gather(rows))), train.labels(rows) if conditional else None
        with torch.no_grad():
            mean_ND, logvar_ND = teacher.model.encode(x_NCHW, label_N)
            seen_ND = mean_ND + (logvar_ND / 2).exp() * torch.randn(mean_ND.shape, generator=noise)
            drawn_N = teacher.classes(BATCH, seed + step)
            z_ND = torch.cat([seen_ND, teacher.latents(BATCH, seed + step, 1.0, drawn_N)])
            labels = None if label_N is None or drawn_N is None else torch.cat([label_N, drawn_N])
            output_NCHW = teacher.model.decode(z_ND, labels)
            picture_NCHW = teacher.model.likelihood.mean(output_NCHW)
        own_mean_ND, own_logvar_ND = pupil.encode(x_NCHW, label_N)
        own_output_NCHW = pupil.decode(z_ND, labels)
        loss = _apart(own_mean_ND, mean_ND) + 0.1 * _apart(own_logvar_ND, logvar_ND)
        loss = loss + _apart(pupil.likelihood.mean(own_output_NCHW), picture_NCHW) + 0.1 * _apart(own_output_NCHW, output_NCHW)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        on_step(step + 1, steps)
    return pupil.eval()

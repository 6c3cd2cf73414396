"""The loop that a specialist writes for exactly one case: no framework, all images in one uint8 tensor, nothing kept or reported.

No checks, no checkpoints, no resuming, no validation, one process. The network and its objective are ours.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from benchmarks.case import SHARDS, Case, Stopwatch
from vae.models import build


@lru_cache(maxsize=2)
def _all_images(data: str) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([np.load(path) for path in sorted((SHARDS / data / "train").glob("*.npy"))]))


@lru_cache(maxsize=1)
def _compiled(case: Case) -> tuple[torch.nn.Module, torch.nn.Module]:
    model = build(case.model_config())  # kept from round to round: compiling takes half a minute
    return model, torch.compile(model)


def hand(case: Case) -> float:
    """Images per second of one round."""
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    images, batch, total = _all_images(case.data), case.batch_size, case.total_images // case.batch_size
    model, forward = _compiled(case) if case.compile else (build(case.model_config()),) * 2
    layout = torch.channels_last if case.memory_format == "channels_last" else torch.contiguous_format
    model.to(memory_format=layout)
    weights = list(model.parameters())
    averaged = [p.detach().clone() for p in weights]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, betas=(0.9, 0.99), fused=True)
    order, loss_sum, watch = torch.randperm(len(images)), torch.zeros(()), Stopwatch(case)
    for step in range(total):
        optimizer.param_groups[0]["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / total))
        x = images[order[step * batch : (step + 1) * batch]].permute(0, 3, 1, 2)
        x = x.to(torch.float32, memory_format=layout).mul_(2 / 255).sub_(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bfloat16"):
            terms = forward(x, torch.randn(batch, case.latent_dim))
        loss = (terms.distortion_N.sum() + terms.rate_ND.sum()) / batch
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 10000.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averaged, weights, 1e-3)
            loss_sum += loss
        watch.lap()
    return watch.images_per_second()

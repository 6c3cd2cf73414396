"""The optimizer, its schedule and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vae.config import FitConfig
from vae.models.base import VAE

OWN = -1  # the depth of a tensor that no other model gave


def learned(model: VAE) -> list[nn.Parameter]:
    """The parameters that are the optimizer's: all but the model's statistics."""
    followed = {id(p) for p in model.statistics}
    return [p for p in model.parameters() if id(p) not in followed]


def build_optimizer(model: VAE, config: FitConfig, carried: Mapping[str, int] | None = None) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019); decay only on matrices and kernels, never on biases, norms and scales.

    ``carried``: the depth of each tensor that another model gave (vae/transfer.py); such of one depth learn at a rate of their own.
    """
    known = {id(p): (carried or {}).get(name, OWN) for name, p in model.named_parameters()}
    groups: list[dict[str, Any]] = []
    for depth in sorted({OWN, *known.values()}):
        of_depth = [p for p in learned(model) if known[id(p)] == depth]
        parts = ([p for p in of_depth if p.ndim > 1], config.weight_decay), ([p for p in of_depth if p.ndim <= 1], 0.0)
        groups += [{"params": params, "weight_decay": decay, "depth": depth} for params, decay in parts if params or depth == OWN]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)


def set_rates(optimizer: torch.optim.Optimizer, images_seen: int, config: FitConfig) -> None:
    """The learning rate of every tensor: of carried ones 0 for ``frozen_images``, then ``layer_decay`` less for each layer of depth."""
    rate = learning_rate(images_seen, config)
    for group in optimizer.param_groups:
        if group["depth"] == OWN:
            group["lr"] = rate
        else:
            group["lr"] = 0.0 if images_seen < config.frozen_images else rate * config.layer_decay ** group["depth"]


def learning_rate(images_seen: int, config: FitConfig) -> float:
    """Linear warm-up over ``warmup_images``, then a cosine to 0 at ``total_images`` (Loshchilov and Hutter 2017)."""
    if images_seen < config.warmup_images:
        return config.learning_rate * (images_seen + 1) / (config.warmup_images + 1)
    left = max(1, config.total_images - config.warmup_images)
    progress = min(1.0, (images_seen - config.warmup_images) / left)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def clip(parameters: Sequence[nn.Parameter], most: float) -> float:
    """The norm of all gradients together, which are made shorter where it is more than ``most``; left alone where it is not finite."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    length = float(norm)
    if (
        most - 1e-6 <= length < math.inf
    ):  # torch adds so much to it; of all others its own function multiplies every gradient by 1
        nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return length


class Ema:
    """Exponential moving average of a model's parameters; ``step`` counts from 0 and ramps the decay in."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        # The tensors, found once: whoever changes weights does so in place, and to walk the modules at each step takes longer than
        # the averaging of a small network.
        current = model.state_dict()
        self.shadow: dict[str, Tensor] = {name: value.detach().clone() for name, value in current.items()}
        self._averages, self._current = list(self.shadow.values()), list(current.values())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the model after optimizer step ``step``."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._current, 1 - decay)

"""Small networks as plain tensors, and their training: what the priors that are networks share. N batch, D dimensions.

Nothing here reads or moves torch's global generator: the model's training, in the middle of which a prior may be fitted, goes on
with the same numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.adam import adam

from vae.samplers.fitting import split

BATCH = 128
LEARNING_RATE, BETAS, EPSILON = 5e-3, (0.9, 0.99), 1e-8
EMA_DECAY = 0.995
CLIP_NORM = 10.0  # of the gradient of the mean loss in nats
HELD_OUT = 10  # one in so many latents
CHOICES = 20  # how often in a training the held-out latents are asked

Tensors = dict[str, Tensor]
Loss = Callable[[Tensors, Tensor, float, torch.Generator], Tensor]  # of weights, latents (N, D), share of training done, noise


def network(name: str, sizes: tuple[int, ...], generator: torch.Generator, stack: tuple[int, ...] = ()) -> Tensors:
    """Weights (*stack, out, in) and biases (*stack, out) of ``len(sizes) - 1`` layers, of which the last is 0: it changes nothing yet."""
    found = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        limit = 0.0 if i == len(sizes) - 2 else max(1, inputs) ** -0.5
        found[f"{name}.{i}.weight"] = (2 * torch.rand(*stack, outputs, inputs, generator=generator) - 1) * limit
        found[f"{name}.{i}.bias"] = torch.zeros(*stack, outputs)
    return found


def layers(tensors: Tensors, name: str) -> list[tuple[Tensor, Tensor]]:
    """The weights and biases of a network, first layer first."""
    count = sum(key.startswith(f"{name}.") and key.endswith(".weight") for key in tensors)
    return [(tensors[f"{name}.{i}.weight"], tensors[f"{name}.{i}.bias"]) for i in range(count)]


def through(network: Iterable[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """What a network makes of (N, in): (N, out)."""
    for i, (weight, bias) in enumerate(network):
        x = F.linear(F.silu(x) if i else x, weight, bias)
    return x


def trained(start: Tensors, loss: Loss, x_ND: Tensor, steps: int, seed: int) -> Tensors:
    """Weights after ``steps`` of Adam (Kingma and Ba 2015), averaged over the last of them: those best on held-out latents.

    The rate falls from its full value to 0 as a cosine. ``start`` is among those to choose from, so that what cannot be learned
    stays as it was; a loss that is no number is never chosen.
    """
    generator = torch.Generator().manual_seed(seed)
    kept_ND, held_ND = split(x_ND, HELD_OUT, seed)
    if not len(kept_ND):  # a single latent
        return start
    weights = {name: value.clone().requires_grad_() for name, value in start.items()}
    average = {name: value.clone() for name, value in start.items()}
    values = list(weights.values())
    # Adam as a function: the class takes a second to import torch's compiler, which nothing here needs.
    first, second = ([torch.zeros_like(value) for value in values] for _ in BETAS)
    taken = [torch.zeros(()) for _ in values]

    @torch.no_grad()
    def judged() -> float:
        return float(loss(average, held_ND, 1.0, torch.Generator().manual_seed(seed)))  # the same noise at each choice

    best, lowest = start, judged()
    for step in range(steps):
        rate = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        batch_ND = kept_ND[torch.randint(len(kept_ND), (min(BATCH, len(kept_ND)),), generator=generator)]
        with torch.enable_grad():  # whoever asks for samples in the middle of a training does so without gradients
            gradients = torch.autograd.grad(loss(weights, batch_ND, step / steps, generator), values)
        for value, gradient in zip(values, gradients, strict=True):
            value.grad = gradient
        torch.nn.utils.clip_grad_norm_(values, CLIP_NORM)
        with torch.no_grad():
            adam(
                values, list(gradients), first, second, [], taken, foreach=True, amsgrad=False, maximize=False,
                beta1=BETAS[0], beta2=BETAS[1], lr=rate, weight_decay=0.0, eps=EPSILON,
            )  # fmt: skip
            decay = min(EMA_DECAY, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.values()), values, 1 - decay)
        if (step + 1) % max(1, steps // CHOICES) == 0 or step + 1 == steps:
            found = judged()
            if found < lowest:
                best, lowest = {name: value.clone() for name, value in average.items()}, found
    return best

"""Training that tells little of any one image: differentially private steps (Abadi et al., Deep Learning with Differential Privacy, 2016).

A step takes each training image with probability q = global_batch_size / N by itself (Poisson sampling), cuts every image's gradient
down to length ``sample_norm``, adds up, and adds normal noise of ``noise_multiplier * sample_norm`` to the sum (their algorithm 1).
Which images, and which noise, follows from a key that nobody knows: it lies beside the checkpoints, so that a training that was killed
goes on to the same bits, and is deleted with them. How much noise (epsilon, delta) need, and what was spent, says Opacus' accountant
(Gopi, Lee, Wutschitz, Numerical Composition of Differential Privacy, 2021). N training images.
"""

from __future__ import annotations

import itertools
import os
import secrets
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from vae.config import FitConfig
from vae.distributed import all_reduce_sum, from_rank_zero, rank, world_size
from vae.loader import Loader
from vae.losses import Draws, Objective
from vae.models.base import VAE, Output

KEY_FILE, KEY_PARTS, PART_BITS = "key", 2, 62  # as many bits as a number that ranks exchange holds
MOST_IN_PART, NUMBERS_IN_PART = 64, 8_000_000  # images, and numbers of their gradients, at once: more of them leave the cache
ACCOUNTANT, EPSILON_ERROR = "prv", 0.002  # of epsilon, by which what it says may be too much
_SAMPLE, _NOISE = 0x5A, 0x4E


def sample_rate(config: FitConfig, images: int) -> float:
    """The probability of each of so many training images to be in a step; ValueError where that is above 1."""
    rate = config.global_batch_size / images
    if rate > 1:
        raise ValueError(
            f"fit.global_batch_size {config.global_batch_size} is more than the {images} training images: make it smaller"
        )
    return rate


@lru_cache(maxsize=8)
def noise_multiplier(config: FitConfig, images: int) -> float:
    """The noise for ``config.epsilon`` and ``delta`` after all steps, as a multiple of ``sample_norm``: a little more than needed."""
    from opacus.accountants.utils import get_noise_multiplier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_noise_multiplier(
            target_epsilon=config.epsilon, target_delta=config.delta, sample_rate=sample_rate(config, images),
            steps=config.total_steps, accountant=ACCOUNTANT, epsilon_tolerance=config.epsilon / 200,
            eps_error=EPSILON_ERROR * config.epsilon,
        )  # fmt: skip


def spent(config: FitConfig, images: int) -> dict[str, Any]:
    """What goes with the model: epsilon and delta that hold for the whole training, and what they follow from."""
    import opacus
    from opacus.accountants import PRVAccountant

    noise, rate = noise_multiplier(config, images), sample_rate(config, images)
    accountant = PRVAccountant()
    accountant.history = [(noise, rate, config.total_steps)]
    return {
        "epsilon": float(accountant.get_epsilon(config.delta, eps_error=EPSILON_ERROR * config.epsilon)),
        "delta": config.delta,
        "noise_multiplier": noise,
        "sample_norm": config.sample_norm,
        "sample_rate": rate,
        "steps": config.total_steps,
        "images": images,
        "accountant": f"opacus {opacus.__version__} {ACCOUNTANT}",
    }


def secret_key(folder: Path | None, device: torch.device) -> int:
    """The key of the training that keeps its checkpoints in ``folder``: made once, readable by its owner alone; the same on every rank."""
    found = secrets.randbits(KEY_PARTS * PART_BITS)
    if folder is not None and rank() == 0:
        path = folder / KEY_FILE
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                stream.write(str(found))
        found = int(path.read_text())
    parts = [from_rank_zero(found >> PART_BITS * i & 2**PART_BITS - 1, device) for i in range(KEY_PARTS)]
    return sum(part << PART_BITS * i for i, part in enumerate(parts))


class Private:
    """The gradients of private steps on this rank's share of each sample."""

    def __init__(self, model: VAE, config: FitConfig, images: int, key: int) -> None:
        self._model, self._config, self._images, self._key = model, config, images, key
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if config.delta * images >= 1:
            raise ValueError(
                f"train.delta {config.delta:g} is not below 1 / {images} training images: it would allow to publish one of them"
            )
        self._rate, self.noise_multiplier = sample_rate(config, images), noise_multiplier(config, images)

    @property
    def _part(self) -> int:
        numbers = sum(p.numel() for p in self._parameters.values())
        return max(1, min(MOST_IN_PART, NUMBERS_IN_PART // numbers))

    def _random(self, step: int, kind: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self._key, step, kind])))

    def drawn(self, step: int) -> np.ndarray:
        """The numbers of the images of a step, int64, ascending: each image by itself, so seldom exactly a batch of them."""
        return np.flatnonzero(self._random(step, _SAMPLE).random(self._images) < self._rate)

    def take(self, step: int, loader: Loader, objective: Objective, images_seen: int) -> None:
        """Set every parameter's gradient to the noisy sum of the step, divided by the batch size that is expected."""
        indices, device = self.drawn(step), next(iter(self._parameters.values())).device
        own = np.array_split(np.arange(len(indices)), world_size())[rank()]
        draws = objective.draw(step, loader.pixels, len(indices))
        total = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        for first, last in itertools.pairwise([*range(0, len(own), self._part), len(own)]):
            rows = slice(int(own[first]), int(own[last - 1]) + 1)
            x_NCHW, label_N = loader.chosen(indices[rows], step)
            clipped = self._clipped(x_NCHW, label_N, draws.of(rows), objective, images_seen)
            for name, part in clipped.items():
                total[name] += part
        noise = torch.from_numpy(self._random(step, _NOISE).standard_normal(sum(p.numel() for p in total.values())))
        deviation = self.noise_multiplier * self._config.sample_norm
        parts = noise.mul_(deviation).float().to(device).split([p.numel() for p in total.values()])
        for (name, parameter), part in zip(self._parameters.items(), parts, strict=True):
            summed = all_reduce_sum(total[name]) + part.view_as(parameter)
            parameter.grad = summed / self._config.global_batch_size

    def _clipped(
        self, x_NCHW: Tensor, label_N: Tensor | None, draws: Draws, objective: Objective, images_seen: int
    ) -> dict[str, Tensor]:
        """The sum of the images' gradients, none of them longer than ``sample_norm``."""
        parameters = {name: p.detach() for name, p in self._parameters.items()}

        def loss(weights: dict[str, Tensor], x_CHW: Tensor, label: Tensor | None, *drawn: Tensor | None) -> Tensor:
            def forward(*inputs: Tensor | None) -> Output:
                return functional_call(self._model, weights, inputs)

            one = Draws(*(each if each is None else each[None] for each in drawn))  # type: ignore[arg-type]
            found, _ = objective(forward, x_CHW[None], None if label is None else label[None], one, images_seen)
            return found

        given = (x_NCHW, label_N, draws.noise_NE, draws.uniform_NP, draws.corruption_NP)
        axes = (None, *(None if each is None else 0 for each in given))
        gradients = vmap(grad(loss), in_dims=axes, randomness="error")(parameters, *given)
        norm_N = torch.stack([each.flatten(1).square().sum(1) for each in gradients.values()]).sum(0).sqrt()
        # A gradient that is no number would make the sum one too: such an image says nothing.
        factor_N = torch.where(norm_N.isfinite(), (self._config.sample_norm / norm_N.clamp_min(1e-12)).clamp_max(1.0), 0.0)
        return {
            name: torch.einsum(
                "n,n...->...", factor_N, torch.nan_to_num(each, 0.0, 0.0, 0.0) if not norm_N.isfinite().all() else each
            )
            for name, each in gradients.items()
        }

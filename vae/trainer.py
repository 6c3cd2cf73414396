"""One ``fit`` for plain Python, torchrun and Ray Train: load, forward, backward, check, step, average, report, checkpoint.

Randomness is stateless: order = f(seed, epoch), noise = f(seed, step), augmentation = f(seed, image, epoch). A checkpoint
therefore holds the step and the tensors, and a restart at any step goes on as if nothing had happened.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vae.augment import OnTheFly
from vae.config import FitConfig, ModelConfig
from vae.data import ImageShards, stream_indices
from vae.distributed import all_reduce_sum, default_device, from_rank_zero, own_rows, rank, world_size, wrap
from vae.images import to_model_range
from vae.models import build
from vae.noise import step_noise
from vae.objective import annealed_beta
from vae.optim import Ema, build_optimizer, learning_rate
from vae.state import Progress, checkpoint_path, load_checkpoint, newest_step, save_checkpoint
from vae.validation import Metrics, bound

log = logging.getLogger(__name__)
STOP_POLL_STEPS = 8  # steps between two agreements of all ranks on whether to stop


class NonFiniteError(RuntimeError):
    """A loss or gradient is not finite; raised on every rank before the optimizer step, with step and terms."""


class StoppedError(RuntimeError):
    """Asked to stop: the current step is done and, where a directory was given, checkpointed."""


@dataclass(frozen=True)
class Fitted:
    """What ``fit`` leaves: the model with averaged (EMA) weights on its device, and the optimizer steps done."""

    model: nn.Module
    step: int


class _Clock:
    """Images per second of training alone: validation, checkpoints and reports stop the clock."""

    def __init__(self) -> None:
        self._images, self._seconds = 0, 0.0
        self._since: float | None = time.perf_counter()

    def add_images(self, count: int) -> None:
        self._images += count

    def pause(self) -> None:
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None

    def resume(self) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def images_per_second(self) -> float:
        """Since the last call, over all ranks."""
        speed = self._images / max(self._seconds, 1e-9)
        self._images, self._seconds = 0, 0.0
        return speed


def _training_metrics(sums: list[float], step: int, config: FitConfig) -> Metrics:
    distortion, rate, count = sums
    images = step * config.global_batch_size
    return {
        "step": step,
        "images": images,
        "elbo_nats": -(distortion + rate) / count,
        "distortion_nats": distortion / count,
        "rate_nats": rate / count,
        "learning_rate": learning_rate(images - config.global_batch_size, config),
        "beta": annealed_beta(images - config.global_batch_size, config),
    }


def _agreed(flag: bool, device: torch.device) -> bool:
    """Whether any rank says so."""
    if world_size() == 1:
        return flag
    return bool(all_reduce_sum(torch.tensor(float(flag), device=device)) > 0)


def _batch(images: ImageShards, config: FitConfig, step: int, device: torch.device, augment: OnTheFly | None) -> Tensor:
    """This rank's rows of global batch ``step`` in model range, varied by ``augment`` where there is one."""
    start, rows = step * config.global_batch_size, own_rows(config.global_batch_size)
    indices = stream_indices(len(images), config.seed, start, start + config.global_batch_size)[rows]
    x_NHWC = torch.from_numpy(images.gather(indices)).to(device, non_blocking=True)
    if augment is not None:
        epochs = np.arange(start, start + config.global_batch_size)[rows] // len(images)
        x_NHWC = augment(x_NHWC, indices, epochs, config.seed)
    return to_model_range(x_NHWC)


def fit(
    model_config: ModelConfig,
    config: FitConfig,
    train: ImageShards,
    val: ImageShards,
    *,
    augment: OnTheFly | None = None,
    checkpoints: Path | None = None,
    on_report: Callable[[Metrics, nn.Module], None] = lambda metrics, averaged: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Train to ``config.total_images`` and return the averaged model; goes on from the newest checkpoint in ``checkpoints``.

    ``on_report(metrics, averaged_model)`` is called on every rank, equally often, with metrics already reduced over ranks.
    ``augment`` varies the training images, each anew in every epoch; ``val`` is measured as it is.
    Raises NonFiniteError (on every rank, before the step), StoppedError once ``should_stop`` said so on any rank, ValueError
    for a batch that does not divide by the world size, or keys of ``augment`` that are not one per training image.
    """
    if config.global_batch_size % world_size():
        raise ValueError(
            f"fit.global_batch_size {config.global_batch_size} does not divide by {world_size()} workers: "
            "change the batch size or the workers of the cluster profile"
        )
    if augment is not None and len(augment.keys) != len(train):
        raise ValueError(
            f"{len(augment.keys)} keys for {len(train)} training images: give the keys of these shards, in their order"
        )
    device = default_device()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build(model_config).to(device)
    averaged = build(model_config).to(device).requires_grad_(False)
    if device.type == "cuda":
        model = model.to(memory_format=torch.channels_last)
    optimizer, ema, progress = build_optimizer(model, config), Ema(model, config.ema_decay), Progress()
    # Rank 0 chooses for all: ranks that trusted different checkpoints would wait for each other for ever.
    found = from_rank_zero(newest_step(checkpoints) if checkpoints and rank() == 0 else -1, device)
    if checkpoints is not None and found >= 0:
        progress = load_checkpoint(checkpoint_path(checkpoints, found), model, ema, optimizer)
        log.info("resumed at step %d of %d", progress.step, config.total_steps)
        averaged.load_state_dict(ema.shadow)
        if progress.report is not None:  # due when the run ended; whoever has it already knows it by its step
            on_report(progress.report, averaged)
    parallel = wrap(model)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
    validate_every, checkpoint_every = (config.steps(n) for n in (config.validate_every_images, config.checkpoint_every_images))
    # Distortion, rate and count of this rank since the last report; what earlier runs saw is carried by rank 0.
    sums = torch.tensor(progress.sums if rank() == 0 else [0.0] * 3, dtype=torch.float64, device=device)
    clock = _Clock()

    while progress.step < config.total_steps:
        step, rows = progress.step, own_rows(config.global_batch_size)
        x_NCHW = _batch(train, config, step, device, augment)
        noise_ND = step_noise(config.seed, step, (config.global_batch_size, model_config.latent_dim), device)[rows]

        with autocast:
            terms = parallel(x_NCHW, noise_ND)
        distortion, rate = terms.distortion_N.mean(), terms.rate_ND.sum(1).mean()
        loss = distortion + annealed_beta(step * config.global_batch_size, config) * rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        # Gradients are averages over all ranks by now, so every rank sees the same norm and takes the same decision.
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        # A loss may be infinite on one rank alone, and with finite gradients: that takes a word among all.
        if _agreed(not (math.isfinite(norm) and math.isfinite(loss.detach())), device):
            raise NonFiniteError(
                f"not finite at step {step}: gradient norm {float(norm):.6g}, distortion {float(distortion.detach()):.6g} nats, "
                f"rate {float(rate.detach()):.6g} nats on rank {rank()}: lower fit.learning_rate or fit.clip_norm"
            )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step * config.global_batch_size, config)
        optimizer.step()
        ema.update(model, step)
        progress.step += 1
        progress.report = None
        sums += torch.stack([distortion.detach(), rate.detach(), torch.ones((), device=device)]).double()
        clock.add_images(config.global_batch_size)

        last = progress.step == config.total_steps
        polled = progress.step % STOP_POLL_STEPS == 0 and not last
        stopping = polled and _agreed(should_stop(), device)
        if progress.step % validate_every == 0 or last:
            clock.pause()
            averaged.load_state_dict(ema.shadow)
            progress.report = {
                **_training_metrics(all_reduce_sum(sums).tolist(), progress.step, config),
                "images_per_second": clock.images_per_second(),
                **{f"val_{k}": v for k, v in bound(averaged, val, config.global_batch_size, config.seed).items()},
            }
            sums.zero_()
        if checkpoints is not None and (stopping or last or progress.step % checkpoint_every == 0):
            clock.pause()
            progress.sums = all_reduce_sum(sums).tolist()
            if rank() == 0:
                save_checkpoint(checkpoints, progress, model, ema, optimizer)
        if progress.report is not None:
            on_report(progress.report, averaged)
        clock.resume()
        if stopping:
            raise StoppedError(f"stopped after step {progress.step} of {config.total_steps}")
    averaged.load_state_dict(ema.shadow)
    return Fitted(averaged.eval(), progress.step)

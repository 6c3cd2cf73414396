"""One training on one rank: load, forward, backward, check, step, average, report, checkpoint.

Randomness is stateless: order = f(seed, epoch), noise = f(seed, step), augmentation = f(seed, image, epoch). A checkpoint
therefore holds the step and the tensors, and a restart at any step goes on as if nothing had happened.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vae.adversary import Contest
from vae.clock import Clock
from vae.config import FitConfig, ModelConfig
from vae.data import ImageShards
from vae.distributed import all_reduce_sum, any_rank, broadcast_tensors, from_rank_zero, rank
from vae.errors import NonFiniteError, ResumeRefusedError, StepError, StoppedError
from vae.files import DamagedError
from vae.gradients import Gradients
from vae.images import LAYOUTS
from vae.loader import Blank, Loader
from vae.losses import Objective
from vae.models import build
from vae.models.base import VAE
from vae.numerics import check_numerics, numerics
from vae.objective import annealed_beta
from vae.optim import Ema, build_optimizer, clip, learned, learning_rate, set_rates
from vae.pace import Pace
from vae.private import Private
from vae.state import Progress, Saver, checkpoint_path, claim, load_averaged, load_checkpoint, newest_step
from vae.transfer import Origin, carry
from vae.validation import Metrics, bound, training_terms

OnReport = Callable[[Metrics, VAE], None]
log = logging.getLogger(__name__)
STOP_POLL_STEPS = 8  # steps between two agreements of all ranks on whether to stop


@dataclass(frozen=True)
class Fitted:
    """What ``fit`` leaves: the model with averaged (EMA) weights on its device, and the optimizer steps done."""

    model: VAE
    step: int


class Run:
    """The state of one training on this rank, its loop, and a single ``step`` for whoever wants to know what one costs."""

    def __init__(
        self,
        model_config: ModelConfig,
        config: FitConfig,
        device: torch.device,
        checkpoints: Path | None,
        initial: Mapping[str, Tensor] | None = None,
        initial_config: Origin | None = None,
        private: Callable[[VAE], Private] | None = None,
    ) -> None:
        self.model_config, self.config, self.device, self.checkpoints = model_config, config, device, checkpoints
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = build(model_config).to(device)
        carried = None
        if initial is not None and initial_config is not None:
            found = carry(model, initial, initial_config)
            initial, carried = found.tensors, found.depths
        if initial is not None:
            model.load_state_dict(initial)
        layout = LAYOUTS[config.memory_format]
        self.model = model.to(memory_format=layout)  # type: ignore[call-overload]
        self.model.recompute = config.recompute
        self.averaged: VAE = build(model_config).to(device, memory_format=layout).requires_grad_(False).eval()  # type: ignore[call-overload]
        self.optimizer, self.ema = build_optimizer(model, config, carried), Ema(model, config.ema_decay)
        self.objective, self._learned = Objective(model, config, device), learned(model)
        self.saver = Saver(checkpoints, config.keep_checkpoints) if checkpoints is not None and rank() == 0 else None
        self.private = private(self.model) if private else None
        self.rival = Contest(self.model, config, model_config.image_shape[2]) if config.adversary_weight else None
        self.trained: nn.Module = self.rival or self.model  # what is called, and has all parameters that learn
        self.gradients = Gradients(self.trained, config)
        self.progress, self.saved_step, self._pace = Progress(), -1, Pace()

    def resume(self, checkpoints: Path, identity: Mapping[str, Any], on_report: OnReport) -> None:
        """Go on from the newest valid checkpoint, where there is one of this very training."""
        here, refused, found = numerics(self.device, self.gradients.order), "", -1
        if rank() == 0:
            try:
                claim(checkpoints, self.model_config, self.config, identity)
                found = newest_step(checkpoints)
            except ResumeRefusedError as error:
                refused = str(error)
        # Rank 0 chooses for all: ranks that trusted different checkpoints would wait for each other for ever.
        found = from_rank_zero(found, self.device)
        if found >= 0:
            parts = self.model, self.ema, self.optimizer, self.rival
            self.progress = load_checkpoint(checkpoint_path(checkpoints, found), *parts)
            try:
                check_numerics(self.progress.numerics, here, self.config)
            except ResumeRefusedError as error:
                refused = str(error)
        if any_rank(bool(refused), self.device):
            raise ResumeRefusedError(refused or "another rank cannot go on from the checkpoints, and says why")
        if found >= 0:
            self.saved_step = found
            log.info("resumed at step %d of %d", found, self.config.total_steps)
            self.averaged.load_state_dict(self.ema.shadow)
            if self.progress.report is not None:  # due when the run ended; whoever has it already knows it by its step
                on_report(self.progress.report, self.averaged)
        self.progress.numerics = here

    def train(self, loader: Loader, val: ImageShards, on_report: OnReport, should_stop: Callable[[], bool]) -> Fitted:
        """The loop: every line of it runs on every rank."""
        config, progress, clock = self.config, self.progress, Clock()
        validate_every, checkpoint_every = (
            config.steps(n) for n in (config.validate_every_images, config.checkpoint_every_images)
        )
        # Distortion, rate, count and critic's loss of this rank since the last report; what earlier runs saw is carried by rank 0.
        sums = torch.tensor(progress.sums if rank() == 0 else [0.0] * 4, dtype=torch.float64, device=self.device)

        while progress.step < config.total_steps and not progress.finished:
            try:
                sums += self.step(loader)
            except (NonFiniteError, ValueError):
                raise
            except Exception as error:
                raise StepError(progress.step, error) from error
            clock.add_images(config.global_batch_size)

            last, best = progress.step == config.total_steps, False
            stopping = progress.step % STOP_POLL_STEPS == 0 and not last and any_rank(should_stop(), self.device)
            if progress.step % validate_every == 0 or last:
                clock.pause()
                best = self._report(all_reduce_sum(sums).tolist(), val, clock.images_per_second())
                sums.zero_()
            due = stopping or best or last or progress.finished or progress.step % checkpoint_every == 0
            if self.checkpoints is not None and due:
                clock.pause()
                progress.sums = all_reduce_sum(sums).tolist()
                self.saved_step = progress.step
                if self.saver is not None:
                    self.saver.save(progress, self.model, self.ema, self.optimizer, self.rival)
            if progress.report is not None:
                on_report(progress.report, self.averaged)
            clock.resume()
            if stopping:
                if self.saver is not None:
                    self.saver.wait()
                raise StoppedError(f"stopped after step {progress.step} of {config.total_steps}")
        if self.saver is not None:
            self.saver.wait()
        return Fitted(self._final(), progress.step)

    def step(self, loader: Loader) -> Tensor:
        """One optimizer step; returns this rank's sums over its images: distortion, rate (both in nats), count, critic's loss."""
        config, step = self.config, self.progress.step
        images_seen = step * config.global_batch_size
        if self.private is not None:
            self.private.take(step, loader, self.objective, images_seen)
            self._move(step, images_seen)
            return torch.zeros(4, dtype=torch.float64, device=self.device)  # what the images themselves say is not told
        if not self.gradients.rehearsed:
            self.gradients.rehearsed = True
            self._gradient(Blank(loader), 0, len(self.gradients.parts) - 1)
        sums = self._gradient(loader, step)
        # Gradients are those of the whole batch by now, so every rank sees the same norm and takes the same decision.
        norm = clip(self._learned, config.clip_norm)
        bad = not math.isfinite(norm) or (self.rival is not None and not self.rival.finite())
        if bad:
            self._skip(norm, sums.tolist())
        self._move(step, images_seen, still=bad)
        return sums.zero_() if bad else sums

    def _gradient(self, loader: Loader | Blank, step: int, first: int = 0) -> Tensor:
        """Leave the gradient of global batch ``step`` (its parts from ``first`` on) at the parameters; returns the sums of ``step``."""
        gradients, images_seen = self.gradients, step * self.config.global_batch_size
        draws = self.objective.draw(step, math.prod(self.model_config.image_shape))
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        self.trained.zero_grad(set_to_none=True)
        for number in range(first, len(gradients.parts)):
            with gradients.part(number) as rows:
                x_NCHW, label_N = loader.batch(step, rows)
                after_NCHW = loader.after(step, rows) if self.config.smoothness else None
                loss, part = self.objective(gradients.forward, x_NCHW, label_N, draws.of(rows), images_seen, after_NCHW)
                gradients.backward(loss)
            sums += part
        gradients.reduce()
        return sums

    def _move(self, step: int, images_seen: int, still: bool = False) -> None:
        """Take the optimizer's step, unless all is to stay ``still``."""
        if not still:
            set_rates(self.optimizer, images_seen, self.config)
            self.optimizer.step()
            if self.rival is not None:
                self.rival.move(images_seen)
            self.model.settle(step)
            self.ema.update(step)
        self.progress.step, self.progress.report = step + 1, None

    def _skip(self, norm: float, sums: list[float]) -> None:
        """Leave a step out that is not finite, or raise NonFiniteError where no more of them may be."""
        config, progress = self.config, self.progress
        distortion, rate, count, _ = sums
        text = (
            f"not finite at step {progress.step}: gradient norm {norm:.6g}, distortion {distortion / count:.6g} nats, "
            f"rate {rate / count:.6g} nats on rank {rank()}"
        )
        if progress.skipped_steps >= config.skip_nonfinite_steps:
            last = f"step {self.saved_step}" if self.saved_step >= 0 else "none"
            raise NonFiniteError(f"{text}; last good checkpoint: {last}: lower fit.learning_rate or fit.clip_norm")
        progress.skipped_steps += 1
        log.warning("%s; skipped (%d of %d)", text, progress.skipped_steps, config.skip_nonfinite_steps)

    def _report(self, sums: list[float], val: ImageShards, images_per_second: float) -> bool:
        """Make the report that is due; returns whether its bound is the best so far."""
        config, progress = self.config, self.progress
        images = progress.step * config.global_batch_size
        self.averaged.load_state_dict(self.ema.shadow)
        held_out = bound(self.averaged, val, config.global_batch_size, config.seed, self._pace)
        self._pace.tell()
        progress.report = {
            "step": progress.step,
            "images": images,
            **({} if self.private else training_terms(*sums, critic=self.rival is not None)),
            "learning_rate": learning_rate(images - config.global_batch_size, config),
            "beta": annealed_beta(images - config.global_batch_size, config),
            "skipped_steps": progress.skipped_steps,
            "images_per_second": images_per_second,
            **{f"val_{name}": value for name, value in held_out.items()},
        }
        return progress.judge(held_out["elbo_nats"], config.patience_reports)

    def _final(self) -> VAE:
        """The averaged model: the last one, or with early stopping the best."""
        self.averaged.load_state_dict(self.ema.shadow)
        if self.config.patience_reports and self.checkpoints is not None:
            if rank() == 0:
                try:
                    load_averaged(checkpoint_path(self.checkpoints, self.progress.best_step), self.averaged)
                except DamagedError as error:
                    log.warning("the best checkpoint cannot be used, the last weights are taken: %s", error)
            broadcast_tensors(self.averaged.state_dict().values())
        return self.averaged.eval()

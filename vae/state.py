"""Checkpoints: directories that describe themselves, are written beside and renamed, and are trusted only after their hashes.

Layout of ``step-00001234/``: model.safetensors, ema.safetensors, optimizer.safetensors, state.json, MANIFEST.json; with a critic
critic.safetensors and critic_optimizer.safetensors too. Beside them ``identity.json``: which training this is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vae.adversary import Contest
from vae.config import FitConfig, ModelConfig
from vae.errors import ResumeRefusedError
from vae.files import (
    DamagedError,
    canonical_json,
    read_json,
    read_manifest,
    remove_directory,
    replaced_directory,
    write_manifest,
    write_text,
)
from vae.numerics import check_identity
from vae.optim import Ema

log = logging.getLogger(__name__)
PREFIX = "step-"
IDENTITY = "identity.json"
Tensors = dict[str, Tensor]


@dataclass
class Progress:
    """What a run knows beside its tensors. All randomness follows from ``step``.

    ``sums`` are the training terms since the last report, over all ranks; ``report`` is the report due at this very step, so
    that a crash between the checkpoint and the report loses nothing. ``best_elbo_nats`` is that of held-out images at
    ``best_step``; ``reports_since_best`` and ``finished`` serve early stopping; ``numerics`` is where the run ran.
    """

    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)
    report: dict[str, float] | None = None
    best_step: int = -1
    best_elbo_nats: float | None = None
    reports_since_best: int = 0
    skipped_steps: int = 0
    finished: bool = False
    numerics: dict[str, Any] = field(default_factory=dict)

    def judge(self, elbo_nats: float, patience_reports: int) -> bool:
        """Take in the bound of held-out images at this step: whether it is the best so far, and whether that was the last try."""
        best = self.best_elbo_nats is None or elbo_nats > self.best_elbo_nats
        if best:
            self.best_elbo_nats, self.best_step = elbo_nats, self.step
        self.reports_since_best = 0 if best else self.reports_since_best + 1
        self.finished = 0 < patience_reports <= self.reports_since_best
        return best


@dataclass(frozen=True)
class Snapshot:
    """One moment of a training, in memory of its own: the training goes on while this is written."""

    progress: dict[str, Any]
    tensors: dict[str, Tensors]  # file name without suffix -> tensors

    @classmethod
    def take(
        cls, progress: Progress, model: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer, rival: Contest | None = None
    ) -> Snapshot:
        """A copy of everything, on the processor."""
        every = {"model": model.state_dict(), "ema": ema.shadow, "optimizer": _moments(optimizer)}
        if rival is not None:
            every |= {"critic": rival.critic.state_dict(), "critic_optimizer": _moments(rival.optimizer)}
        own = {name: {k: v.detach().to("cpu", copy=True).contiguous() for k, v in some.items()} for name, some in every.items()}
        return cls(asdict(progress), own)


def _moments(optimizer: torch.optim.Optimizer) -> Tensors:
    return {f"{i}.{k}": v for i, each in optimizer.state_dict()["state"].items() for k, v in each.items()}


def _put_moments(path: Path, optimizer: torch.optim.Optimizer) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, Tensors] = {}
    for name, tensor in load_file(path).items():
        index, key = name.split(".")
        like = parameters[int(index)]  # moments lie in memory as their parameter does
        state.setdefault(int(index), {})[key] = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def checkpoint_path(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return root / f"{PREFIX}{step:08d}"


def write_checkpoint(root: Path, snapshot: Snapshot, keep: int = 2) -> Path:
    """Write ``root/step-<n>`` atomically and drop all but the newest ``keep`` and the best; returns the directory."""
    step, best = snapshot.progress["step"], snapshot.progress["best_step"]
    final = checkpoint_path(root, step)
    with replaced_directory(final) as directory:
        for name, tensors in snapshot.tensors.items():
            save_file(tensors, directory / f"{name}.safetensors")
        write_text(directory / "state.json", canonical_json(snapshot.progress))
        write_manifest(directory, step=step)
    every = sorted(root.glob(f"{PREFIX}*"))
    ahead = [path for path in every if path.name > final.name]  # passed over when this run resumed: damaged
    behind = [path for path in every if path.name <= final.name][:-keep]
    for old in [*ahead, *behind]:
        if old != checkpoint_path(root, best):
            remove_directory(old)
    return final


class Saver:
    """Writes snapshots one after the other in a thread; what a writing raises comes with the next call.

    The copy costs one step a moment; hashing, writing and fsync cost none. At most one snapshot waits, so memory is bounded.
    """

    def __init__(self, root: Path, keep: int) -> None:
        self._root, self._keep = root, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def save(
        self, progress: Progress, model: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer, rival: Contest | None = None
    ) -> None:
        """Take a snapshot now and write it soon."""
        self.wait()
        snapshot = Snapshot.take(progress, model, ema, optimizer, rival)
        self._writing = self._thread.submit(write_checkpoint, self._root, snapshot, self._keep)

    def wait(self) -> None:
        """Until everything is on the disk, or raise what kept it from there."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        """End the thread; what is being written is finished, an error of it is only logged: another one is on its way."""
        try:
            self.wait()
        except Exception as error:
            log.warning("the last checkpoint was not written: %s", error)
        self._thread.shutdown()


def claim(root: Path, model: ModelConfig, config: FitConfig, facts: Mapping[str, Any]) -> None:
    """Write down which training ``root`` belongs to; ResumeRefusedError where it holds checkpoints of another one.

    ``facts`` is what else makes it the one that it is: hashes of data and code.
    """
    path, identity = root / IDENTITY, {"model": asdict(model), "fit": asdict(config), **facts}
    if path.exists() and any(root.glob(f"{PREFIX}*")):
        try:
            before = read_json(path)
        except ValueError:
            raise ResumeRefusedError(f"{path} cannot be read: start anew with --fresh") from None
        check_identity(before, json.loads(canonical_json(identity)))
    else:
        write_text(path, canonical_json(identity))


def newest_checkpoint(root: Path) -> Path | None:
    """The newest checkpoint under ``root`` whose hashes hold, or None; a damaged one is reported and passed over."""
    for candidate in sorted(root.glob(f"{PREFIX}*"), reverse=True):
        try:
            read_manifest(candidate)
        except DamagedError as error:
            log.warning("checkpoint passed over: %s", error)
            continue
        return candidate
    return None


def newest_step(root: Path) -> int:
    """The step of the newest valid checkpoint, or -1."""
    newest = newest_checkpoint(root)
    return -1 if newest is None else int(newest.name.removeprefix(PREFIX))


def load_checkpoint(
    directory: Path, model: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer, rival: Contest | None = None
) -> Progress:
    """Put a checkpoint's tensors into place and return where it stood; nothing on this path can run foreign code."""
    model.load_state_dict(load_file(directory / "model.safetensors"))
    shadow = load_file(directory / "ema.safetensors")
    assert shadow.keys() == ema.shadow.keys()
    for name, tensor in ema.shadow.items():
        tensor.copy_(shadow[name])
    _put_moments(directory / "optimizer.safetensors", optimizer)
    if rival is not None:
        rival.critic.load_state_dict(load_file(directory / "critic.safetensors"))
        _put_moments(directory / "critic_optimizer.safetensors", rival.optimizer)
    return Progress(**json.loads((directory / "state.json").read_text()))


def load_averaged(directory: Path, model: nn.Module) -> None:
    """The averaged weights of a checkpoint, into ``model``; DamagedError where its hashes do not hold."""
    read_manifest(directory)
    model.load_state_dict(load_file(directory / "ema.safetensors"))

"""Checkpoints: directories that describe themselves, are written beside and renamed, and are trusted only after their hashes.

Layout of ``step-00001234/``: model.safetensors, ema.safetensors, optimizer.pt (tensors only), state.json, MANIFEST.json.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vae.files import DamagedError, canonical_json, read_manifest, replaced_directory, write_manifest, write_text
from vae.optim import Ema

log = logging.getLogger(__name__)
PREFIX = "step-"


@dataclass
class Progress:
    """What a run knows beside its tensors. All randomness follows from ``step``.

    ``sums`` are the training terms since the last report, over all ranks; ``report`` is the report due at this very step, so
    that a crash between the checkpoint and the report loses nothing.
    """

    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    report: dict[str, float] | None = None


def checkpoint_path(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return root / f"{PREFIX}{step:08d}"


def save_checkpoint(
    root: Path, progress: Progress, model: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer, keep: int = 2
) -> Path:
    """Write ``root/step-<n>`` atomically and drop all but the newest ``keep``; returns the directory."""
    final = checkpoint_path(root, progress.step)
    with replaced_directory(final) as directory:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, directory / "model.safetensors")
        save_file({k: v.contiguous() for k, v in ema.shadow.items()}, directory / "ema.safetensors")
        torch.save(optimizer.state_dict(), directory / "optimizer.pt")
        write_text(directory / "state.json", canonical_json(asdict(progress)))
        write_manifest(directory, step=progress.step)
    every = sorted(root.glob(f"{PREFIX}*"))
    ahead = [path for path in every if path.name > final.name]  # passed over when this run resumed: damaged
    for old in ahead + [path for path in every if path.name <= final.name][:-keep]:
        shutil.rmtree(old)
    return final


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


def load_checkpoint(directory: Path, model: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer) -> Progress:
    """Put a checkpoint's tensors into place and return where it stood; nothing on this path can run foreign code."""
    model.load_state_dict(load_file(directory / "model.safetensors"))
    shadow = load_file(directory / "ema.safetensors")
    assert shadow.keys() == ema.shadow.keys()
    device = next(iter(ema.shadow.values())).device
    ema.shadow = {name: shadow[name].to(device) for name in ema.shadow}
    optimizer.load_state_dict(torch.load(directory / "optimizer.pt", weights_only=True, map_location="cpu"))
    return Progress(**json.loads((directory / "state.json").read_text()))

"""From ``python -m pipeline.train``, as a person types it, to the end of its first step: what the stage does before Ray counts, too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.rows import ROOT
from pipeline import params
from pipeline.paths import Paths

BATCH = 64
# Data of seconds, and a training of one step whose report says that it is done.
SMALL = {
    "download.source": "sprites", "download.sprite_images": 400, "preprocess.val_fraction": 0.3, "preprocess.test_fraction": 0.3,
    "fit.global_batch_size": BATCH, "fit.warmup_images": 0, "train.use_tuned": False, "train.latent_dim": 4,
    "train.total_images": BATCH, "train.validate_every_images": BATCH, "train.checkpoint_every_images": BATCH,
}  # fmt: skip


def _stage(name: str, root: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", f"pipeline.{name}"], cwd=root, env=environment, stderr=subprocess.DEVNULL)


def _ended(name: str, process: subprocess.Popen[bytes], root: Path) -> None:
    if process.wait():
        raise RuntimeError(f"stage {name} ended with {process.returncode} in {root}")


def prepare(root: Path) -> None:
    """A workspace whose data are ready, and whose MLflow store knows a training already."""
    shutil.copytree(ROOT / "infra", root / "infra", dirs_exist_ok=True)
    (root / "params.yaml").write_text(params.edited((ROOT / "params.yaml").read_text(), SMALL))
    for name in ("download", "preprocess", "augment", "train"):
        _ended(name, _stage(name, root), root)


def first_step_seconds(root: Path) -> float:
    """Of one training in that workspace."""
    paths = Paths(root)
    shutil.rmtree(paths.work / "train", ignore_errors=True)
    spool, started = paths.work / "train" / "spool.jsonl", time.perf_counter()
    process = _stage("train", root)
    while not spool.exists() and process.poll() is None:
        time.sleep(0.01)
    seconds = time.perf_counter() - started
    _ended("train", process, root)
    return seconds

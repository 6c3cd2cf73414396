"""From ``python -m pipeline.train``, as a person types it, to the end of its first step: what the stage does before Ray counts, too."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from benchmarks.project import Project

BATCH = 64
# Data of seconds, and a training of one step whose report says that it is done.
SMALL = {
    "download.source": "sprites", "download.sprite_images": 400, "preprocess.val_fraction": 0.3, "preprocess.test_fraction": 0.3,
    "fit.global_batch_size": BATCH, "fit.warmup_images": 0, "train.use_tuned": False, "train.latent_dim": 4,
    "train.total_images": BATCH, "train.validate_every_images": BATCH, "train.checkpoint_every_images": BATCH,
}  # fmt: skip


def prepared(root: Path) -> Project:
    """A project whose data are ready, and whose MLflow store knows a training already."""
    project = Project(root)
    project.set(SMALL)
    shutil.copy(root / "infra/ray/two-processes.yaml", root / "infra/ray/laptop.yaml")
    for stage in ("download", "preprocess", "augment", "train"):
        project.stage(stage)
    return project


def first_step_seconds(project: Project) -> float:
    """Of one training in that project."""
    state, started = project.root / ".work" / "train", time.perf_counter()
    shutil.rmtree(state, ignore_errors=True)
    process = project.start("train")
    while not (state / "spool.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    seconds = time.perf_counter() - started
    if process.wait():
        raise RuntimeError(f"stage train failed: {(project.root / 'log').read_text()[-2000:]}")
    return seconds

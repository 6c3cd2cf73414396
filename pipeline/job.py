"""One training as plain data, and its execution in a process: the same for train's worker group and for a trial of tune.

A job names files by absolute paths, because Ray's workers run in a folder of their own.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import vae
from pipeline.errors import BadConfigError, BadDataError
from pipeline.paths import INDEX
from pipeline.sections import Augment
from pipeline.spool import SpoolWriter, read
from pipeline.trial_score import Scorer
from vae.artefact import WEIGHTS
from vae.augment import OnTheFly, image_keys
from vae.config import AugmentConfig, FitConfig, ModelConfig
from vae.data import ImageShards, check_labels
from vae.distributed import rank
from vae.errors import NonFiniteError, ResumeRefusedError, StoppedError
from vae.files import canonical_json, read_manifest, replaced_file, sources_sha256
from vae.models.base import VAE
from vae.run import Fitted
from vae.shard_cache import ShardCache
from vae.trainer import fit
from vae.transfer import origin

STOP_FILE, CHECKPOINTS, SPOOL = "stop", "checkpoints", "spool.jsonl"  # below a job's state


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to fit, on what, where it keeps its state, and how many threads a process may use."""

    model: ModelConfig
    fit: FitConfig
    train_directories: tuple[str, ...]
    val_directory: str
    state_directory: str  # checkpoints/, spool.jsonl, the final weights, stop
    threads: int
    identity: dict[str, Any]  # what else makes this training the one that it is: hashes of data and code
    augment: dict[str, Any] | None = None  # on the fly: policy, index (of the training images), mode
    initial: str | None = None  # weights to begin from
    initial_config: dict[str, Any] | None = None  # ... of a network of this configuration; None: of the same model
    score: dict[str, Any] | None = None  # of every report: pipeline/trial_score.py
    cache: dict[str, Any] | None = None  # of training shards on each machine: folder, bytes

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Job:
        return cls(**{**values, "model": ModelConfig.of(values["model"]), "fit": FitConfig(**values["fit"])})

    @property
    def state(self) -> Path:
        return Path(self.state_directory)

    @property
    def spool(self) -> Path:
        return self.state / SPOOL

    @property
    def weights(self) -> Path:
        return self.state / WEIGHTS


def code_hash() -> str:
    """sha256 over the sources of ``vae``: a checkpoint of other code is not resumed."""
    return sources_sha256(Path(vae.__file__).parent)


def identity(data: dict[str, str], augment: dict[str, Any] | None, **extra: Any) -> dict[str, Any]:
    """Hashes of data and code, the policy that is applied on the fly, and whatever else decides a training's result."""
    return {"data": data, "code": code_hash(), "augment": augment["policy"] if augment else {}, **extra}


def fingerprint(model: ModelConfig, config: FitConfig, facts: dict[str, Any]) -> str:
    """A short name for exactly this training."""
    described = {"model": asdict(model), "fit": asdict(config), **facts}
    return hashlib.sha256(canonical_json(described).encode()).hexdigest()[:16]


def training_directories(processed: Path, augmented: Path) -> tuple[str, ...]:
    """The folders of training shards: the originals, and the augmented copies where there are any."""
    folders = [processed / "train", augmented / "train"]
    return tuple(str(folder) for folder in folders if any(folder.glob("shard-*.npy")))


def on_the_fly(section: Augment, processed: Path, mode: str) -> dict[str, Any] | None:
    """The policy that training applies to each batch as plain data, or None where it applies none."""
    if not section.on_the_fly:
        return None
    return {"policy": asdict(section.policy), "index": str(processed / INDEX), "mode": mode}


def check_cache(cache: dict[str, Any] | None, config: FitConfig, directories: tuple[str, ...]) -> None:
    """BadConfigError where a cache has no room for the shards that are shuffled together and those that come next."""
    if cache is None:
        return
    images = ImageShards(*map(Path, directories))
    image_bytes, largest, every = math.prod(images.image_shape), max(images.lengths), len(images)
    at_once = min(every, 2 * (config.shuffle_images + largest)) if config.shuffle_images else every
    if at_once * image_bytes > cache["bytes"]:
        fitting = cache["bytes"] // image_bytes // 2 - largest
        smaller = f"fit.shuffle_images to {fitting} at most" if fitting > 0 else "preprocess.shard_images lower"
        raise BadConfigError(
            f"cache_gib of the cluster profile is {cache['bytes'] / 2**30:g}, but {at_once * image_bytes / 2**30:.3g} are read by turns: "
            f"set it to that, or {smaller}"
        )


def _cache(job: Job) -> ShardCache | None:
    if job.cache is None:
        return None
    cache = ShardCache(Path(job.cache["folder"]), job.cache["bytes"])
    for directory in job.train_directories:
        cache.know(Path(directory).parent)
    return cache


def _on_the_fly(augment: dict[str, Any]) -> OnTheFly:
    """The policy with the key of every training image, in the order of the shards: that of the index."""
    import pandas as pd

    index = pd.read_parquet(augment["index"], columns=["split", "sha256"])
    keys = image_keys(index.loc[index["split"] == "train", "sha256"])
    return OnTheFly(AugmentConfig(**augment["policy"]), keys, augment["mode"])


def classes(values: SimpleNamespace, processed: Path) -> int:
    """How many classes the model is to be told apart, 0 where it is told none; BadDataError where labels are missing for that."""
    if not values.fit.class_conditional:
        return 0
    facts = read_manifest(processed, hashes=False)
    labels, split = facts["labels"], ""
    if len(labels) < 2:
        known = f"one label, {labels[0]!r}" if labels else "no labels"
        raise BadDataError(f"fit.class_conditional is true, but the images have {known}: set it to false")
    try:
        for split in facts["counts"]:
            check_labels(ImageShards(processed / split), len(labels))
    except ValueError as error:
        raise BadDataError(
            f"fit.class_conditional is true, but in the split {split} {error} (preprocess.require_label leaves the others out)"
        ) from None
    return len(labels)


def save_weights(job: Job, model: VAE) -> None:
    """Leave the finished training's averaged weights with the job; whole, or not at all."""
    with replaced_file(job.weights) as beside:
        save_file({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}, beside)


def execute(
    job: Job, after_report: Callable[[dict[str, float]], None] = lambda record: None, leave: Callable[[], bool] = lambda: False
) -> Fitted:
    """Run the job in this process (one of a group, or alone); every report goes to the spool once, by rank 0.

    ``after_report`` is called on every rank, equally often; on rank 0 it gets the report with its score. So is ``leave``: once it
    says so on any rank, all checkpoint and raise StoppedError, as they do when the job is asked to stop.
    """
    torch.set_num_threads(job.threads)
    writer = SpoolWriter(job.spool) if rank() == 0 else None
    known = {record["step"]: record for record in read(job.spool)} if writer else {}  # by a run that lost its last checkpoint
    train = ImageShards(*map(Path, job.train_directories), cache=_cache(job))
    scorer = Scorer(job.score, job.model) if writer and job.score else None

    def on_report(metrics: dict[str, float], averaged: VAE) -> None:
        record = known.get(metrics["step"], metrics)
        if writer is not None and metrics["step"] >= job.fit.total_steps and not job.fit.patience_reports:
            save_weights(job, averaged)  # before anybody hears of the end: whoever stops a trial there would be faster
        if writer is not None and metrics["step"] > writer.last_step:
            record = {**metrics, **(scorer(averaged) if scorer else {}), "time_ms": int(time.time() * 1000)}
            writer.append(record)
        after_report(record)

    fitted = fit(
        job.model,
        job.fit,
        train,
        ImageShards(Path(job.val_directory)),
        augment=_on_the_fly(job.augment) if job.augment else None,
        checkpoints=job.state / CHECKPOINTS,
        identity=job.identity,
        initial=load_file(job.initial) if job.initial else None,
        initial_config=origin(job.initial_config) if job.initial_config else None,
        on_report=on_report,
        should_stop=lambda: leave() or (job.state / STOP_FILE).exists(),
    )
    if writer is not None and job.fit.patience_reports:
        save_weights(job, fitted.model)  # the best, which only the end tells
    return fitted


def failure(error: Exception) -> dict[str, str]:
    """An expected end of a job as data, so that Ray does not restart what would only fail again; others are raised."""
    if isinstance(error, StoppedError):
        return {"outcome": "stopped", "message": str(error)}
    if isinstance(error, ResumeRefusedError):
        return {"outcome": "refused", "message": str(error)}
    if isinstance(error, NonFiniteError | ValueError):
        return {"outcome": "failed", "message": str(error)}
    raise error

"""A rehearsal: the training and the trials of a plan for a few steps, in as many processes at once as there will be.

Ray has no part in it: its own costs are added by ``pipeline.forecast``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from pipeline.cluster import Profile, slots
from pipeline.console import Progress
from pipeline.errors import TrainingFailedError
from pipeline.job import Job, on_the_fly, training_directories
from pipeline.machine import processors
from pipeline.paths import Paths
from pipeline.trial_score import OF_SAMPLES, of_samples
from vae.config import FitConfig, ModelConfig
from vae.data import ImageShards, ShardWriter, save_following
from vae.extractor import load_extractor
from vae.files import canonical_json, read_json, read_manifest, write_text

RANDOM_BYTES = 2**24  # of images made up where there are none, but a batch at least
WAIT_SECONDS = 0.1
AS_IF_GPUS = 2**20  # where there is none, what a profile asks of them is left out
START_SECONDS = 8.0  # of the processes, and of their first steps
GRACE_SECONDS = 600  # beyond the time asked for: large networks, and torch.compile


@dataclass(frozen=True)
class Data:
    """What is measured on, and how many images a run will have; None where nobody knows yet."""

    source: str
    shape: tuple[int, int, int]
    directories: tuple[str, ...]
    train_images: int | None
    val_images: int | None
    bytes: int
    augment: dict[str, Any] | None


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _shards(images_NHWC: np.ndarray, directory: Path) -> tuple[str, ...]:
    writer = ShardWriter(directory, images_NHWC.shape[1:], len(images_NHWC))
    writer.add_all(images_NHWC)
    writer.close()
    return (str(directory),)


def data(values: SimpleNamespace, paths: Paths, directory: Path) -> Data:
    """The images of data/processed where they are those of params.yaml, else random ones; a few for validation in ``directory``."""
    shape, batch = values.base.image_shape, values.fit.global_batch_size
    held_out = 4 * batch  # enough chunks for the ranks to share
    manifest = read_manifest(paths.processed, hashes=False) if paths.processed.exists() else {}
    augment = on_the_fly(values.augment, paths.processed, values.base.mode)
    if tuple(manifest.get("image_shape", ())) == shape:
        folders = training_directories(paths.processed, paths.augmented)
        train, val = ImageShards(*map(Path, folders)), ImageShards(paths.processed / "val")
        _shards(val.spread(held_out), directory / "val")
        size = sum(_size(each) for each in (paths.raw, paths.processed, paths.augmented) if each.exists())
        source = "data/processed" + (" and data/augmented" if len(folders) > 1 else "")
        return Data(source, shape, folders, len(train), len(val), size, augment)
    count = max(batch, RANDOM_BYTES // int(np.prod(shape)) // 4)
    noise = np.random.default_rng(0).integers(0, 256, (min(count, 4096), *shape), np.uint8)
    _shards(noise[:held_out], directory / "val")
    why = (
        f", of {tuple(manifest['image_shape'])} pixels and channels, is not of this params.yaml" if manifest else " is not there"
    )
    source, folders = f"random images (data/processed{why})", _shards(noise, directory / "train")
    if values.fit.smoothness:
        save_following(directory / "train", np.arange(1, len(noise) + 1) % len(noise))
    if values.download.source != "sprites":
        return Data(source, shape, folders, None, None, 0, augment)
    images, section = values.download.sprite_images, values.preprocess
    val = round(images * section.val_fraction)
    train = images - val - round(images * section.test_fraction)
    copies = 0 if values.augment.on_the_fly else values.augment.copies
    size = (2 * images + copies * train) * int(np.prod(shape))  # once as files in data/raw, once as shards
    return Data(source, shape, folders, train * (1 + copies), val, size, augment)


def _share(fit: FitConfig, workers: int) -> FitConfig:
    """What one of ``workers`` does of each batch, as a training of its own."""
    return replace(fit, global_batch_size=fit.global_batch_size // workers, virtual_shards=max(1, fit.virtual_shards // workers))


def _score(values: SimpleNamespace, paths: Paths, found: Data, directory: Path) -> dict[str, Any] | None:
    """What a trial needs to score its samples, as tune makes it, with features made up; None where there is no extractor."""
    if values.tune.score not in OF_SAMPLES or not paths.extractor.exists():
        return None
    shape = values.tune.score_samples, load_extractor(paths.extractor)[0].config.feature_dim
    real_ND = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return of_samples(values, paths.extractor, Path(found.directories[0]), real_ND, directory)


def task(
    values: SimpleNamespace,
    paths: Paths,
    profile: Profile,
    model: ModelConfig,
    fits: tuple[FitConfig, FitConfig],
    at_once: int,
    found: Data,
    directory: Path,
) -> dict[str, Any]:
    """What to rehearse: ``fits`` are those of the training and of a trial. What does not fit this machine is done in part.

    Where the training's workers have no place here, one of them is rehearsed, with its share of each batch.
    """  # fmt: skip
    fit, trial = fits
    here = [{"CPU": processors(), "GPU": torch.cuda.device_count() if torch.cuda.is_available() else AS_IF_GPUS}]
    places, trial_places = slots(profile, here), slots(profile.of_trials, here)
    per_trial = values.tune.workers_per_trial
    grouped, trial_grouped = profile.workers <= places, per_trial <= trial_places
    job = Job(
        model=model,
        fit=fit if grouped else _share(fit, profile.workers),
        train_directories=found.directories,
        val_directory=str(directory / "val"),
        state_directory=str(directory / "train-state"),
        threads=profile.threads_per_worker,
        identity={},
        augment=found.augment,
    )
    trial_job = replace(
        job,
        fit=trial if trial_grouped else _share(trial, per_trial),
        model=replace(model, latent_dim=values.tune.latent_dim_max),
        state_directory=str(directory / "trial-state"),
        threads=profile.of_trials.threads_per_worker,
        score=_score(values, paths, found, directory),
    )
    return {
        "train": job.to_dict(),
        "trial": trial_job.to_dict(),
        "workers": profile.workers if grouped else 1,
        "trial_workers": per_trial if trial_grouped else 1,
        "trials": min(at_once, max(1, trial_places // per_trial)) if trial_grouped else 1,
        "backend": "nccl" if profile.gpus_per_worker and torch.cuda.is_available() else "gloo",
    }


def rehearse(what: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Measure ``what`` (a ``task``, and ``seconds`` and ``compile``); the first process's result.

    ``directory`` is for files of the measurement. TrainingFailedError with the first cause where a process did not come to its end.
    """
    write_text(directory / "task.json", canonical_json(what))
    number = max(what["workers"], what["trials"] * what["trial_workers"])
    errors = [directory / f"errors-{i}.txt" for i in range(number)]
    processes, started = [], time.monotonic()
    expected = round(START_SECONDS + what["seconds"])
    shown = Progress(expected, "s", "measuring")
    try:
        for i, path in enumerate(errors):
            command = [sys.executable, "-m", "pipeline.probe", str(directory), str(i)]
            with path.open("wb") as stream:
                processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stream))
        while any(process.poll() is None for process in processes):
            for process, path in zip(processes, errors, strict=True):
                if process.poll():
                    raise TrainingFailedError(f"measuring failed: {_cause(process.returncode, path)}")
            seconds = time.monotonic() - started
            if seconds > what["seconds"] + GRACE_SECONDS:
                raise TrainingFailedError(f"measuring did not end within {seconds:.0f} s: make the model or the batch smaller")
            shown.to(min(expected, int(seconds)), f"{number} processes")
            time.sleep(WAIT_SECONDS)
        for process, path in zip(processes, errors, strict=True):
            if process.returncode:
                raise TrainingFailedError(f"measuring failed: {_cause(process.returncode, path)}")
    finally:
        shown.close()
        for process in processes:
            process.kill()
            process.wait()
    return read_json(directory / "result-0.json")


def _cause(code: int, errors: Path) -> str:
    if code < 0:
        return f"a process was ended by signal {-code}" + (": not enough memory for this model and batch?" if code == -9 else "")
    lines = [line for line in errors.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {code}"

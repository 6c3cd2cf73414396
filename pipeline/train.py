"""Stage train: one DistributedDataParallel training on the cluster profile's workers, tracked as one MLflow run.

In: data/processed, data/augmented, reports/tune/best.json (where train.use_tuned). Out: models/vae; reports/train
{curves.csv, metrics.json, run.json}. Killed at any time, the same command goes on from the last checkpoint in .work/train.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from types import SimpleNamespace

import pandas as pd
import torch

from pipeline import stage
from pipeline.cluster import connected, load_profile
from pipeline.console import Progress
from pipeline.group import run_group
from pipeline.job import Job, fingerprint, identity, on_the_fly, training_directories
from pipeline.paths import BEST, METRICS, RUN, Paths
from pipeline.plots import draw_curves
from pipeline.spool import read
from pipeline.tracking import Tracker
from vae.artefact import load_artefact, save_artefact
from vae.config import FitConfig, ModelConfig
from vae.data import ImageShards
from vae.files import MANIFEST, canonical_json, read_json, read_manifest, replaced_directory, sha256_file, write_text
from vae.models import build
from vae.samplers import fit_prior

PARAMS = ("base.seed", "augment", "fit", "train")
PRIOR_IMAGES = 10_000  # training images whose latents the prior is fitted to
log = logging.getLogger("pipeline.train")


def choose(values: SimpleNamespace, paths: Paths) -> tuple[float, int]:
    """beta and latent_dim: tune's choice, or the parameters' where ``train.use_tuned`` is false."""
    if not values.train.use_tuned:
        return values.train.beta, values.train.latent_dim
    best = read_json(paths.tune_report / BEST)
    return best["beta"], best["latent_dim"]


def configs(values: SimpleNamespace, shape: tuple[int, int, int], beta: float, latent_dim: int) -> tuple[ModelConfig, FitConfig]:
    """The model and the training that the parameters ask for, on images of ``shape`` with the chosen beta and latent_dim."""
    model = values.fit.model_config(shape, latent_dim)
    fit = values.fit.fit_config(
        seed=values.base.seed,
        beta=beta,
        total_images=values.train.total_images,
        validate_every_images=values.train.validate_every_images,
        checkpoint_every_images=values.train.checkpoint_every_images,
        keep_checkpoints=values.train.keep_checkpoints,
        patience_reports=values.train.patience_reports,
    )
    return model, fit


def _save_model(values: SimpleNamespace, paths: Paths, job: Job) -> None:
    from safetensors.torch import load_file

    model = build(job.model)
    model.load_state_dict(load_file(job.weights))
    facts = read_manifest(paths.processed, hashes=False)
    contract = {
        "mode": facts["mode"],
        "image_shape": facts["image_shape"],
        "data_manifest": sha256_file(paths.processed / MANIFEST),
    }
    images = ImageShards(paths.processed / "train").spread(PRIOR_IMAGES)
    prior = fit_prior(model, images, values.fit.prior, values.fit.mixture_components, values.base.seed)
    with replaced_directory(paths.model) as directory:
        save_artefact(directory, model, job.model, prior, contract)
    load_artefact(paths.model)


def train(values: SimpleNamespace, paths: Paths) -> None:
    """Train, track, fit the prior and write models/vae."""
    torch.set_num_threads(1)
    profile = load_profile(paths)
    shape = tuple(read_manifest(paths.processed)["image_shape"])
    model, fit = configs(values, shape, *choose(values, paths))
    read_manifest(paths.augmented)
    data = {name: sha256_file(getattr(paths, name) / MANIFEST) for name in ("processed", "augmented")}
    augment = on_the_fly(values.augment, paths.processed, read_manifest(paths.processed, hashes=False)["mode"])
    facts = identity(data, augment)
    key = fingerprint(model, fit, facts)
    job = Job(
        model=model,
        fit=fit,
        train_directories=training_directories(paths.processed, paths.augmented),
        val_directory=str(paths.processed / "val"),
        state_directory=str(paths.work / "train"),
        threads=profile.threads_per_worker,
        identity=facts,
        augment=augment,
    )
    tracker = Tracker(paths)
    job.state.mkdir(parents=True, exist_ok=True)
    run_id = tracker.run("train", key=f"train-{key}", tags={"vaeline.stage": "train", "vaeline.data": data["processed"]})
    tracker.params(run_id, {**vars(fit), **{f"model.{k}": v for k, v in vars(model).items()}, "workers": profile.workers})
    log.info(
        "%s, beta %.3g, %d latent dimensions, %d images over %d workers",
        model.name, fit.beta, model.latent_dim, fit.total_images, profile.workers,
    )  # fmt: skip
    tracker.artifacts(run_id, paths.preprocess_report, "data")
    counts = {
        name: float(value) for name, value in read_json(paths.preprocess_report / METRICS).items() if isinstance(value, int)
    }
    tracker.metrics(run_id, {f"data_{name}": value for name, value in counts.items()})
    forwarder = Forwarder(tracker, run_id, fit.total_images)
    started = time.monotonic()
    try:
        with connected(profile, paths, profile.workers):
            run_group(job, profile, profile.workers, values.train.max_failures, forwarder.record)
    except BaseException as error:
        with contextlib.suppress(Exception):  # the store may be what failed; the error that counts is the first
            tracker.end(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    finally:
        forwarder.close()
    _save_model(values, paths, job)
    records = read(job.spool)
    with replaced_directory(paths.train_report) as report:
        curves = pd.DataFrame(records)
        curves.to_csv(report / "curves.csv", index=False)
        draw_curves(curves, report / "curves.png")
        write_text(report / METRICS, canonical_json({k: v for k, v in records[-1].items() if k != "images_per_second"}))
        write_text(report / RUN, canonical_json({"run_id": run_id, "fingerprint": key, "workers": profile.workers}))
        tracker.artifacts(run_id, report, "train")
    tracker.end(run_id)
    shutil.rmtree(job.state)
    log.info("trained in %.0f s; val elbo %.2f nats", time.monotonic() - started, records[-1]["val_elbo_nats"])


class Forwarder:
    """Shows each report and passes it to MLflow; what MLflow does not take now is offered again with the next, and at the end."""

    def __init__(self, tracker: Tracker, run_id: str, total_images: int) -> None:
        self._tracker, self._run_id = tracker, run_id
        self._shown, self._total = Progress(total_images, "images", "training"), total_images
        self._waiting: list[dict[str, float]] = []
        self._known = tracker.logged_steps(run_id, "val_elbo_nats")

    def record(self, record: dict[str, float]) -> None:
        text = f"elbo {record['val_elbo_nats']:.1f} nats, {record['images_per_second']:.0f} images/s"
        self._shown.to(min(int(record["images"]), self._total), text)
        if record["step"] not in self._known:
            self._waiting.append(record)
        self._send()

    def _send(self) -> None:
        while self._waiting:
            record = self._waiting[0]
            try:
                self._tracker.metrics(self._run_id, {k: v for k, v in record.items() if k != "step"}, int(record["step"]))
            except Exception as error:  # whatever the store does, training goes on
                log.warning("MLflow does not take metrics now (%s); they wait", " ".join(str(error).split())[:120])
                return
            self._waiting.pop(0)

    def close(self) -> None:
        """Offer what still waits, and take the bar away."""
        self._shown.close()
        self._send()


if __name__ == "__main__":
    stage.main("train", PARAMS, train, __doc__, resumable=True)

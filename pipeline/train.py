"""Stage train: one DistributedDataParallel training on the cluster profile's workers, tracked as one MLflow run.

In: data/processed, data/augmented, reports/tune/best.json (where train.use_tuned). Out: models/vae; reports/train
{curves.csv, metrics.json, run.json}. Killed at any time, the same command goes on from the last checkpoint in .work/train.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import shutil
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch

from pipeline import stage
from pipeline.cluster import connected, load_profile
from pipeline.errors import BadConfigError, UnavailableError
from pipeline.forwarder import Forwarder
from pipeline.group import run_group
from pipeline.job import CHECKPOINTS, Job, check_cache, classes, fingerprint, identity, on_the_fly, training_directories
from pipeline.outbox import Message, Outbox, connect
from pipeline.paths import BEST, FACTOR, INDEX, METRICS, RUN, Paths
from pipeline.plots import draw_curves
from pipeline.sections import Fit
from pipeline.spool import read
from pipeline.tracking import Tracker, patient
from pipeline.warm_start import TRANSFER, start
from vae.artefact import Generator, load_artefact, save_artefact
from vae.attributes import Attributes
from vae.codec.tables import Tables
from vae.config import FitConfig, ModelConfig, Schedule
from vae.data import ImageShards, Selection
from vae.errors import ResumeRefusedError
from vae.files import MANIFEST, canonical_json, read_json, read_manifest, replaced_directory, sha256_file, write_text
from vae.known import Known
from vae.models import build
from vae.private import spent
from vae.samplers import fit_to, posterior_samples
from vae.schema import checked
from vae.state import claim

PARAMS = ("base.seed", "augment", "fit", "train")
PRIOR_IMAGES = 20_000  # training images whose latents the prior is fitted to
log = logging.getLogger("pipeline.train")


@dataclass(frozen=True)
class Choice:
    """What is trained: beta, the latent dimension, and section ``fit`` with what a search changed in it."""

    beta: float
    latent_dim: int
    fit: Fit


def choose(values: SimpleNamespace, paths: Paths) -> Choice:
    """tune's choice, or the parameters' where ``train.use_tuned`` is false."""
    if not values.train.use_tuned:
        return Choice(values.train.beta, values.train.latent_dim, values.fit)
    best = read_json(paths.tune_report / BEST)
    changes = {name: checked(Fit, name, value)[0] for name, value in best.get("changes", {}).items()}
    return Choice(best["beta"], best["latent_dim"], replace(values.fit, **changes))


def configs(values: SimpleNamespace, shape: tuple[int, int, int], choice: Choice, classes: int) -> tuple[ModelConfig, FitConfig]:
    """The model and the training that the parameters and the choice ask for, on images of ``shape``."""
    model = choice.fit.model_config(shape, choice.latent_dim, classes)
    schedule = {spec.name: getattr(values.train, spec.name) for spec in fields(Schedule)}
    return model, choice.fit.fit_config(seed=values.base.seed, beta=choice.beta, **schedule)


def _save_model(values: SimpleNamespace, paths: Paths, job: Job) -> None:
    from safetensors.torch import load_file

    model = build(job.model)
    model.load_state_dict(load_file(job.weights))
    facts = read_manifest(paths.processed, hashes=False)
    contract = {
        "mode": facts["mode"],
        "image_shape": facts["image_shape"],
        "rules": facts["rules"],  # how a file becomes pixels: vae/decode.py
        "data_manifest": sha256_file(paths.processed / MANIFEST),
        "labels": facts["labels"] if job.model.classes else [],
        "denoise_levels": values.fit.denoise_levels,  # of the noise that the encoder saw images with
    }
    train = ImageShards(paths.processed / "train")
    places = train.places(PRIOR_IMAGES)
    label_N = train.labels(places)
    if job.fit.epsilon:
        contract["privacy"] = spent(job.fit, len(ImageShards(*map(Path, job.train_directories))))
        if label_N is not None and job.model.classes:  # how many images there are of each class is theirs to tell, too
            label_N = torch.arange(len(label_N)) % job.model.classes
    z_ND = posterior_samples(model, Selection(train, places), values.base.seed, label_N)
    prior = fit_to(z_ND, values.fit.prior_config, values.base.seed, job.model.classes, label_N)
    generator = Generator(model, job.model, prior, contract)
    with replaced_directory(paths.model) as directory:
        generator.known = _known(generator, values.train.known_images, paths)
        if values.train.attribute_steps:
            generator.attributes = _attributes(generator, z_ND, label_N, facts["labels"], values, paths)
        if values.train.coding_images:
            generator.tables = Tables.fit(model, Selection(train, train.places(values.train.coding_images)))
        save_artefact(directory, generator)
    load_artefact(paths.model)


def _attributes(
    generator: Generator,
    z_ND: torch.Tensor,
    label_N: torch.Tensor | None,
    labels: list[str],
    values: SimpleNamespace,
    paths: Paths,
) -> Attributes | None:
    """How latents tell the factors and labels of the training images, where these have any.

    Of posterior samples, not of means: what the decoder has learned to overlook is then no way to tell a property by.
    """
    if not generator.model.vector_latents:
        return None
    index, train = pd.read_parquet(paths.processed / INDEX), ImageShards(paths.processed / "train")
    told = index[index["split"] == "train"].iloc[train.places(PRIOR_IMAGES)].filter(regex=f"^{FACTOR}").dropna(axis=1)
    factors = {name.removeprefix(FACTOR): told[name].to_numpy() for name in told}
    if label_N is not None and (not labels or (label_N < 0).any()):
        label_N = None  # some images have none
    own = [] if generator.config.classes else labels  # what a model is told its latents need not say
    return Attributes.fit(z_ND, factors, label_N, own, values.train.attribute_steps, values.base.seed)


def _known(generator: Generator, count: int, paths: Paths) -> Known | None:
    """The names and latents of ``count`` training images, spread over them all."""
    if not count:
        return None
    train = ImageShards(paths.processed / "train")
    index = pd.read_parquet(paths.processed / INDEX, columns=["path", "split"])
    places = train.places(count)
    mean_ND, _ = generator.encode(Selection(train, places), train.labels(places) if generator.config.classes else None)
    return Known(index.loc[index["split"] == "train", "path"].iloc[places].tolist(), mean_ND)


def _begin(job: Job) -> None:
    """Drop what a training left that never came to a checkpoint; BadConfigError where there are checkpoints of another one."""
    checkpoints = job.state / CHECKPOINTS
    if not any(checkpoints.glob("step-*")):
        shutil.rmtree(job.state, ignore_errors=True)
    try:  # the trainer does so too; here it takes no cluster to be started
        claim(checkpoints, job.model, job.fit, job.identity)
    except ResumeRefusedError as error:
        raise BadConfigError(str(error)) from None


def _announced(tracker: Tracker, job: Job, key: str, facts: dict[str, Any], paths: Paths) -> str:
    """The run of this training in MLflow, which knows what is trained, on what; returns its id."""
    facts = facts | {"torch": torch.__version__, "processor": torch.backends.cpu.get_cpu_capability()}
    facts.pop("address")
    counts = paths.preprocess_report / METRICS
    made_ms = int(counts.stat().st_mtime * 1000)  # a resumed run says the same again, and the store keeps it once
    numbers = {f"data_{name}": value for name, value in read_json(counts).items() if isinstance(value, int)}
    with patient(paths):
        run_id = tracker.run(
            "train", key=f"train-{key}", tags={"vaeline.stage": "train", "vaeline.data": job.identity["data"]["processed"]}
        )
        tracker.params(run_id, {**vars(job.fit), **{f"model.{k}": v for k, v in vars(job.model).items()}, **facts})
        tracker.artifacts(run_id, paths.preprocess_report, "data")
        tracker.records(run_id, [{**numbers, "step": 0, "time_ms": made_ms}])
    return run_id


def train(values: SimpleNamespace, paths: Paths) -> None:
    """Train, track, fit the prior and write models/vae."""
    torch.set_num_threads(1)
    if values.train.epsilon and importlib.util.find_spec("opacus") is None:
        raise UnavailableError("train.epsilon needs opacus: pip install -c constraints.txt -e '.[private]'")
    profile = load_profile(paths)
    shape = tuple(read_manifest(paths.processed)["image_shape"])
    model, fit = configs(values, shape, choose(values, paths), classes(values, paths.processed))
    read_manifest(paths.augmented)
    data = {name: sha256_file(getattr(paths, name) / MANIFEST) for name in ("processed", "augmented")}
    augment = on_the_fly(values.augment, paths.processed, read_manifest(paths.processed, hashes=False)["mode"])
    begin = start(values, model, paths)
    facts = identity(data, augment, **begin.identity)
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
        initial=begin.weights,
        initial_config=begin.config,
        cache=profile.cache,
    )
    check_cache(job.cache, fit, job.train_directories)
    tracker = connect(paths)
    _begin(job)
    run_id = _announced(tracker, job, key, {"begun": begin.told, **vars(profile)}, paths)
    log.info(
        "%s, beta %.3g, %d latent dimensions, %d images over %s, %s",
        model.name, fit.beta, model.latent_dim, fit.total_images, profile.told, begin.told,
    )  # fmt: skip
    outbox, forwarder = Outbox(paths), Forwarder(tracker, run_id, fit.total_images)
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
        curves = pd.DataFrame(records).drop(columns="time_ms")
        curves.to_csv(report / "curves.csv", index=False)
        draw_curves(curves, report / "curves.png")
        if begin.layers is not None:
            begin.layers.to_csv(report / TRANSFER, index=False)
        write_text(
            report / METRICS, canonical_json({k: v for k, v in records[-1].items() if k not in ("images_per_second", "time_ms")})
        )
        told = {"run_id": run_id, "fingerprint": key, "workers": profile.workers, "begun": begin.told}
        write_text(report / RUN, canonical_json(told | {"tuned": values.train.use_tuned}))
        outbox.put(tracker.uri, Message(name="train", run_id=run_id, records=records), {"train": report})
    shutil.rmtree(job.state)
    outbox.try_to_deliver(tracker)
    log.info("trained in %.0f s; val elbo %.2f nats", time.monotonic() - started, records[-1]["val_elbo_nats"])


if __name__ == "__main__":
    stage.main("train", PARAMS, train, __doc__, resumable=True)

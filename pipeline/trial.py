"""One trial of the search: a job at a point of the space, run in Ray Tune's actor."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pipeline import space
from pipeline.choice import COMPLETED, FAILED, STOPPED
from pipeline.cluster import Profile
from pipeline.errors import TrainingFailedError
from pipeline.group import run_group
from pipeline.job import CHECKPOINTS, Job, execute, failure
from pipeline.sections import Fit
from pipeline.spool import read
from vae.config import Architecture
from vae.files import canonical_json
from vae.state import checkpoint_path

CHECKPOINT_SECONDS, CHECKPOINT_POLL_SECONDS = 120.0, 0.02


def side_by_side(profile: Profile, workers: int, resources: Mapping[str, float]) -> int:
    """How many trials of ``workers`` a cluster of these resources runs at once; 1 at least."""
    found = int(resources.get("CPU", 1)) // (workers * profile.cpus_per_worker)
    if profile.gpus_per_worker:
        found = min(found, int(resources.get("GPU", 0)) // (workers * profile.gpus_per_worker))
    return max(1, found)


@dataclass(frozen=True)
class Point:
    """A point of the search: beta, the latent dimension, and of ``tune.space`` the keys of fit that it changes."""

    beta: float
    latent_dim: int
    changes: dict[str, Any]
    number: int = 0  # of the trial: a space without continuous dimensions may be asked for a point twice
    history: tuple[dict[str, Any], ...] = ()  # whose weights it went on from, until when, at what values (scheduler pbt)

    @property
    def name(self) -> str:
        """The same for the same trial of the same search."""
        short = f"{self.number:04d}-beta-{self.beta:.8g}-latent-{self.latent_dim}"
        more = [self.changes, *self.history]
        return short if more == [{}] else f"{short}-{hashlib.sha256(canonical_json(more).encode()).hexdigest()[:10]}"


def trial_job(template: Job, point: Point) -> Job:
    """The training of one point; its state is found again by the point, so a killed search loses no step."""
    of_model = {f.name for f in fields(Architecture)}
    architecture = {name: value for name, value in point.changes.items() if name in of_model}
    recipe = {name: value for name, value in point.changes.items() if name not in of_model and name != "model"}
    return replace(
        template,
        model=replace(
            template.model, latent_dim=point.latent_dim, name=point.changes.get("model", template.model.name), **architecture
        ),
        fit=replace(template.fit, beta=point.beta, **recipe),
        state_directory=str(template.state / point.name),
    )


def point_of(config: Mapping[str, Any], space_told: Mapping[str, Any]) -> Point:
    """The point that Ray Tune's configuration stands for."""
    changes, history = space.active(space_told, config, Fit), tuple(config.get("history", ()))
    return Point(float(config["beta"]), int(config["latent_dim"]), changes, int(config["number"]), history)


def outcome(template: Job, point: Point, failed: bool, metric: str) -> dict[str, Any]:
    """The trial in trials.csv: its point, how far it came, its last score and terms, its state."""
    records = read(trial_job(template, point).spool)
    last = records[-1] if records else {}
    done = bool(records) and last["step"] >= template.fit.total_steps
    past = {"history": "; ".join(f"trial {each['trial']} until {each['until_images']} images" for each in point.history)}
    return {
        "trial": point.number, "beta": point.beta, "latent_dim": point.latent_dim, **point.changes,
        "state": FAILED if failed else COMPLETED if done else STOPPED, "images": last.get("images", 0), "score": last.get(metric),
        "elbo_nats": last.get("val_elbo_nats"), "rate_nats": last.get("val_rate_nats"),
        "distortion_nats": last.get("val_distortion_nats"), **(past if point.history else {}),
    }  # fmt: skip


def kept(job: Job, step: int) -> bool:
    """Whether the job's checkpoint of that step is on the disk, or it keeps none any more."""
    return not (job.state / CHECKPOINTS).is_dir() or checkpoint_path(job.state / CHECKPOINTS, step).is_dir()


def wait_until_kept(job: Job, step: int) -> None:
    """Until another trial could go on from that step; TrainingFailedError where its checkpoint does not come."""
    until = time.monotonic() + CHECKPOINT_SECONDS
    while not kept(job, step):
        if time.monotonic() > until:
            raise TrainingFailedError(
                f"the checkpoint of step {step} did not come to {job.state / CHECKPOINTS} in {CHECKPOINT_SECONDS:.0f} s"
            )
        time.sleep(CHECKPOINT_POLL_SECONDS)


def run_trial(config: dict[str, Any], setup: dict[str, Any]) -> None:
    """A trial in Ray's actor: report what its spool knows, then train on, pausing whenever the scheduler wants it."""
    from ray import tune

    job = trial_job(Job.from_dict(setup["template"]), point_of(config, setup["space"]))
    reported = -1
    if checkpoint := tune.get_checkpoint():
        with checkpoint.as_directory() as directory:
            reported = int((Path(directory) / "step").read_text())

    def send(record: dict[str, float]) -> None:
        nonlocal reported
        if record["step"] <= reported:
            return
        reported = int(record["step"])
        if setup["exchange"]:
            wait_until_kept(job, reported)
        with tempfile.TemporaryDirectory() as directory:  # the real checkpoint is the job's own
            (Path(directory) / "step").write_text(str(reported))
            tune.report({**record, "latent_dim": job.model.latent_dim}, checkpoint=tune.Checkpoint.from_directory(directory))

    records = read(job.spool)
    if setup["exchange"] and records and records[-1]["step"] < job.fit.total_steps and not kept(job, records[-1]["step"]):
        records.pop()  # its checkpoint went with a kill: the step is done again
    for record in records:
        send(record)
    if reported >= job.fit.total_steps:
        return
    if setup["workers"] > 1:
        run_group(job, Profile(**setup["profile"]), setup["workers"], 0, send, pausing=setup["stopping"])
        return
    try:
        execute(job, after_report=send)
    except Exception as error:
        raise TrainingFailedError(failure(error)["message"]) from error

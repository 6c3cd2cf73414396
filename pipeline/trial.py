"""One trial of the search: a job with its own beta and latent dimension, run in Ray Tune's actor."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.cluster import Profile
from pipeline.errors import TrainingFailedError
from pipeline.group import run_group
from pipeline.job import Job, execute, failure
from pipeline.spool import read


def side_by_side(profile: Profile, workers: int, resources: Mapping[str, float]) -> int:
    """How many trials of ``workers`` a cluster of these resources runs at once; 1 at least."""
    found = int(resources.get("CPU", 1)) // (workers * profile.cpus_per_worker)
    if profile.gpus_per_worker:
        found = min(found, int(resources.get("GPU", 0)) // (workers * profile.gpus_per_worker))
    return max(1, found)


def trial_job(template: Job, beta: float, latent_dim: int) -> Job:
    """The training of one point; its state is found again by the point, so a killed search loses no step."""
    return replace(
        template,
        model=replace(template.model, latent_dim=latent_dim),
        fit=replace(template.fit, beta=beta),
        state_directory=str(template.state / f"beta-{beta:.8g}-latent-{latent_dim}"),
    )


def run_trial(config: dict[str, Any], setup: dict[str, Any]) -> None:
    """A trial in Ray's actor: report what its spool knows, then train on, pausing whenever the scheduler wants it."""
    from ray import tune

    job = trial_job(Job.from_dict(setup["template"]), config["beta"], int(config["latent_dim"]))
    reported = -1
    if checkpoint := tune.get_checkpoint():
        with checkpoint.as_directory() as directory:
            reported = int((Path(directory) / "step").read_text())

    def send(record: dict[str, float]) -> None:
        nonlocal reported
        if record["step"] <= reported:
            return
        reported = int(record["step"])
        with tempfile.TemporaryDirectory() as directory:  # the real checkpoint is the job's own
            (Path(directory) / "step").write_text(str(reported))
            tune.report(dict(record), checkpoint=tune.Checkpoint.from_directory(directory))

    for record in read(job.spool):
        send(record)
    if reported >= job.fit.total_steps:
        return
    if setup["workers"] > 1:
        run_group(job, Profile(**setup["profile"]), setup["workers"], 0, send)
        return
    try:
        execute(job, after_report=send)
    except Exception as error:
        raise TrainingFailedError(failure(error)["message"]) from error

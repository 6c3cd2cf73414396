"""Stage evaluate: judges models/vae on the test split, which neither tune nor train has seen.

In: data/processed, models/vae, models/extractor, reports/train/run.json. Out: reports/evaluate/{metrics.json, protocol.json,
intervals.json, doctor.json, slices.csv, latents.csv, samples.png, classes.png, reconstructions.png, interpolations.png, traversals.png,
latents.png, factors.png, labels.png, worst.png, typical.png, neighbours.png}; where the images come with known factors also factors.csv.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pipeline import everywhere, stage
from pipeline.assessment import assess
from pipeline.cluster import connected, load_profile
from pipeline.doctor import HEALTHY, Finding
from pipeline.errors import TrainingFailedError
from pipeline.outbox import connect
from pipeline.paths import DOCTOR, METRICS, RUN, Paths
from pipeline.tracking import patient
from vae.files import read_json, replaced_directory

PARAMS = ("base.seed", "evaluate")
THREADS = 2  # fixed: the number of threads changes the last bits of the result
SHOWN = ("elbo_nats", "nll_nats", "bits_per_dim", "fcd", "kid", "coverage", "psnr_db", "active_units")
log = logging.getLogger("pipeline.evaluate")


def _healthy(found: list[Finding], values: SimpleNamespace) -> None:
    """Log the doctor's word; TrainingFailedError where parameters ask for a healthy model and it is none."""
    for finding in found:
        log.info("%s: %s%s", finding.name, finding.evidence, f"; change {finding.remedy}" if finding.remedy else "")
    if values.evaluate.must_be_healthy and found[0].name != HEALTHY:
        told = "; ".join(f"{finding.name} ({finding.evidence}): change {finding.remedy}" for finding in found)
        raise TrainingFailedError(f"evaluate.must_be_healthy is true, and the model is not: {told}")


def _assess(values: SimpleNamespace, paths: Paths, report: Path) -> None:
    torch.set_num_threads(THREADS)
    assess(values, paths, report)


def evaluate(values: SimpleNamespace, paths: Paths) -> None:
    """Assess the model, here or on a cluster's workers, write the report and add it to the training's MLflow run."""
    profile, tracker = load_profile(paths), connect(paths)
    run_id, work = read_json(paths.train_report / RUN)["run_id"], partial(_assess, values, paths)
    with replaced_directory(paths.evaluate_report) as report:
        if everywhere.pays(profile):
            log.info("on %d workers", profile.workers)
            with connected(profile, paths, profile.workers):
                everywhere.on_workers(work, report, profile, paths.work / "evaluate")
        else:
            work(report)
        metrics = read_json(report / METRICS)
        with patient(paths):
            if tracker.exists(run_id):
                tracker.metrics(run_id, {f"test_{name}": value for name, value in metrics.items() if value is not None})
                tracker.artifacts(run_id, report, "evaluate")
            else:
                log.warning("the training's run %s is not in %s: metrics are in %s only", run_id, tracker.uri, report)
        told: Any = read_json(report / DOCTOR)
    log.info("%s", ", ".join(f"{k} {metrics[k]:.4g}" for k in SHOWN if metrics[k] is not None))
    _healthy([Finding(**each) for each in told], values)


if __name__ == "__main__":
    stage.main("evaluate", PARAMS, evaluate, __doc__)

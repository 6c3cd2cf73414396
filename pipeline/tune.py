"""Stage tune: a Ray Tune search over beta (log-uniform) and the latent dimension, ranked by a score without beta in it.

In: data/processed, data/augmented, models/extractor. Out: reports/tune/{best.json, trials.csv, trials.png, metrics.json}.
Points are proposed in rounds, from the scores of all rounds before, so the choice does not depend on which trial is faster. A killed
search replays what its trials reported and goes on from there.
"""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch

from pipeline import constraints, space, stage, trial_score
from pipeline.choice import COMPLETED, FAILED, STOPPED, chosen, told, with_fronts
from pipeline.cluster import Profile, connected, load_profile
from pipeline.console import Progress
from pipeline.job import Job, check_cache, classes, fingerprint, identity, on_the_fly, training_directories
from pipeline.outbox import Message, Outbox, connect
from pipeline.paths import BEST, METRICS, Paths
from pipeline.search import search
from pipeline.search_plots import draw_fronts, draw_lineages, draw_study, draw_trials
from pipeline.sections import Fit
from pipeline.spool import read
from pipeline.study import importances, study_of
from pipeline.trial import Point, outcome, point_of, trial_job
from pipeline.trial_score import SCORES
from vae.artefact import CONFIG, WEIGHTS
from vae.config import FitConfig
from vae.files import MANIFEST, canonical_json, read_manifest, replaced_directory, sha256_file, write_manifest, write_text

PARAMS = ("base.seed", "augment", "fit", "tune")
log = logging.getLogger("pipeline.tune")


def trial_fit(values: SimpleNamespace) -> FitConfig:
    """The training that a trial is where nothing stops it, with ``tune.beta_min``."""
    section, batch = values.tune, values.fit.global_batch_size
    # Whole steps, so that the last report is the end.
    every = max(1, round(section.images_per_trial / section.reports / batch)) * batch
    return values.fit.fit_config(
        seed=values.base.seed,
        beta=section.beta_min,
        total_images=every * section.reports,
        validate_every_images=every,
        checkpoint_every_images=every,
        keep_checkpoints=2,
        patience_reports=0,  # the scheduler stops trials
        frozen_images=0,
        layer_decay=1.0,
        epsilon=0.0,  # what a search finds out does not go into a private model
        delta=1e-5,
        sample_norm=1.0,
    )


def _template(values: SimpleNamespace, paths: Paths, profile: Profile) -> Job:
    """The job that all trials share; a trial replaces what its point says."""
    section = values.tune
    facts = read_manifest(paths.processed)
    read_manifest(paths.augmented)
    fit = trial_fit(values)
    model = values.fit.model_config(tuple(facts["image_shape"]), section.latent_dim_min, classes(values, paths.processed))
    data = {name: sha256_file(getattr(paths, name) / MANIFEST) for name in ("processed", "augmented", "extractor")}
    # The prior decides a trial's score: without it a search begun under another prior would replay that one's scores.
    prior = {"prior": asdict(values.fit.prior_config), "latents": trial_score.LATENTS}
    augment = on_the_fly(values.augment, paths.processed, facts["mode"])
    extra = {**prior, "search": vars(section), "threads": profile.threads_per_worker}
    described = identity(data, augment, **extra)
    key = fingerprint(model, fit, described)
    job = Job(
        model=model,
        fit=fit,
        train_directories=training_directories(paths.processed, paths.augmented),
        val_directory=str(paths.processed / "val"),
        state_directory=str(paths.work / "tune" / key),
        threads=profile.threads_per_worker,
        identity=described,
        augment=augment,
        score=trial_score.settings(values, paths, paths.work / "tune" / key),
        cache=profile.cache,
    )
    check_cache(job.cache, fit, job.train_directories)
    return job


def _messages(
    values: SimpleNamespace, template: Job, table: pd.DataFrame, points: list[Point], best: dict[str, Any]
) -> list[Message]:
    """The search as a run of MLflow and each trial as its child."""
    # A key of its own for every search, also for one that is done again with the same parameters.
    key, tags = f"tune-{template.state.name}-{time.time_ns():x}", {"vaeline.stage": "tune"}
    parameters = {name: str(value) for name, value in {**vars(values.tune), **vars(values.fit)}.items()}
    chosen = {f"best_{name}": best[name] for name in ("score", "beta", "latent_dim")}
    record = {**chosen, "step": 0, "time_ms": int(time.time() * 1000)}
    messages = [Message(name="tune", key=key, tags=tags, params=parameters, records=[record])]
    for row, point in zip(table.itertuples(), points, strict=True):
        messages += [Message(
            name=f"trial-{row.trial}", key=f"{key}-{row.trial}", parent_key=key, tags=tags | {"vaeline.state": row.state},
            params={"beta": str(point.beta), "latent_dim": str(point.latent_dim), **{k: str(v) for k, v in point.changes.items()}},
            records=read(trial_job(template, point).spool),
            status="FAILED" if row.state == FAILED else "FINISHED",
        )]  # fmt: skip
    return messages


def _save_weights(job: Job, best: dict[str, Any], paths: Paths) -> None:
    """models/tuned: what a training may begin from. Without weights where the trial was stopped early."""
    with replaced_directory(paths.tuned) as directory:
        if job.weights.exists():
            shutil.copyfile(job.weights, directory / WEIGHTS)  # not the mode that Ray's processes give it
        write_text(directory / CONFIG, canonical_json({"model": asdict(job.model), "trial": best["trial"]}))
        write_manifest(directory)


def tune(values: SimpleNamespace, paths: Paths) -> None:
    """Search, choose, write the choice and how it was reached."""
    torch.set_num_threads(1)
    profile, section = load_profile(paths).of_trials, values.tune
    tracker, outbox = connect(paths), Outbox(paths)
    template = _template(values, paths, profile)
    metric, mode = SCORES[section.score]
    trials, limits = space.trials(section, Fit), constraints.parsed(section.constraints)
    shown = Progress(trials * section.images_per_trial, "images", "searching")
    log.info("%d trials of at most %d images, ranked by %s", trials, template.fit.total_images, metric)
    try:
        with connected(profile, paths, section.workers_per_trial):
            grid = search(values, template, profile, shown)
    finally:
        shown.close()
    points = [point_of(result.config, section.space) for result in grid]
    rows = [outcome(template, point, bool(result.error), metric) for result, point in zip(grid, points, strict=True)]
    table = with_fronts(pd.DataFrame(rows), mode)
    taken = chosen(table, mode, section.choice, grid.errors, limits)
    point = points[int(taken.name)]
    best = {
        "trial": point.number,
        "beta": point.beta,
        "latent_dim": point.latent_dim,
        "changes": point.changes,
        "history": list(point.history),
        "score": float(taken["score"]),
        "score_name": metric,
        "rule": told(section.choice, metric, mode, limits),
    }
    _save_weights(trial_job(template, point), best, paths)
    with replaced_directory(paths.tune_report) as report:
        table.to_csv(report / "trials.csv", index=False)
        draw_trials(table, best, metric, report / "trials.png")
        draw_fronts(table, best, metric, report / "fronts.png")
        if section.scheduler == "pbt":
            draw_lineages(points, table["images"], best, report / "lineages.png")
        study = study_of(table, section, metric, mode)
        shares = {} if study is None else importances(study, values.base.seed)
        draw_study(study, shares, report / "parallel.png", report / "importance.png")
        write_text(report / BEST, canonical_json(best))
        counts = table["state"].value_counts()
        numbers = {"trials": len(table), "best_score": best["score"], "images": int(table["images"].sum())}
        numbers |= {name.replace(" ", "_"): int(counts.get(name, 0)) for name in (COMPLETED, STOPPED, FAILED)}
        write_text(report / METRICS, canonical_json(numbers))
        for message in _messages(values, template, table, points, best):
            outbox.put(tracker.uri, message, {"tune": report} if message.name == "tune" else None)
    shutil.rmtree(template.state)
    outbox.try_to_deliver(tracker)
    log.info("chose beta %.3g and %d latent dimensions: %s %.4g", best["beta"], best["latent_dim"], metric, best["score"])
    if point.history:
        log.info("its weights saw other values before (history in best.json): train.warm_start: tuned begins with them")


if __name__ == "__main__":
    stage.main("tune", PARAMS, tune, __doc__, resumable=True)

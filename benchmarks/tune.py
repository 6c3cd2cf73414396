"""What a search finds and what it costs: ``python -m benchmarks.tune [rows] [--seeds 5]`` writes docs/results/tune.json.

sprites, mnist: the search of params.yaml (its searcher, scheduler, trials and images) over beta and the latent dimension, against the
full grid of 5 x 5 points, every one trained to the end; both by stage tune itself on the same prepared data, once for each seed.
``behind``: by how much the search's best score is worse than the grid's, as a share of it (negative: better); ``cost``: its images as
a share of the grid's. ``noise``: the spread of the grid's best point over the seeds, without which the former means little.
again-sprites, again-mnist: the points that rows sprites and mnist name, the grid's and the search's of every seed, each trained with other
seeds, from which neither was chosen: what of the grid's lead is left without the luck of the best of 25.
latents: the FCD of one model, trained to the end, by how many training latents its prior was fitted to: what a trial's score leaves out.
start: what a trial costs beyond its training: stage tune with few and with many trials of one step, and how many train at once.
"""

from __future__ import annotations

import statistics
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.project import Project
from benchmarks.rows import REAL, Row, measure, result
from pipeline import params
from pipeline.paths import Paths
from pipeline.spool import read
from pipeline.train import PRIOR_IMAGES
from pipeline.trial_score import LATENTS
from vae.artefact import Generator, load_artefact
from vae.data import ImageShards, Selection
from vae.extractor import load_extractor
from vae.files import read_json
from vae.metrics.frechet import frechet_distance, moments
from vae.samplers import fit_prior

SPACE = {"tune.beta_min": 0.1, "tune.beta_max": 10.0, "tune.latent_dim_min": 4, "tune.latent_dim_max": 16}
GRID = {"tune.searcher": "grid", "tune.grid_points": 5, "tune.scheduler": "none"}
DATA: dict[str, dict[str, Any]] = {
    "sprites": {},
    "mnist": {
        "download.source": "path", "download.path": str(REAL / "mnist-png.zip"), "base.image_size": 28, "base.mode": "L",
        "augment.copies": 0, "fit.beta_anneal_share": 0.0,
    },
}  # fmt: skip
FEW, MANY, ONE_STEP, OTHER_SEEDS = 2, 14, 128, 100
USUAL = {"train.use_tuned": False, "train.beta": 0.42, "train.latent_dim": 9}  # near what the search of params.yaml takes
PREPARE = ("download", "preprocess", "augment", "extractor")


def _searched(project: Project) -> tuple[dict[str, Any], dict[str, Any], pd.DataFrame]:
    """best.json, metrics.json and trials.csv of stage tune, which is run."""
    project.stage("tune")
    report = project.root / "reports/tune"
    return read_json(report / "best.json"), read_json(report / "metrics.json"), pd.read_csv(report / "trials.csv")


def _prepared(data: str, work: Path) -> Project:
    project = Project(work / "project")
    project.set(DATA[data] | SPACE)
    for stage in PREPARE:
        project.stage(stage)
    return project


def _against_grid(data: str, score: str, work: Path, seeds: float) -> dict[str, Any]:
    project = _prepared(data, work)
    own = params.load(project.root / "params.yaml", ("tune",)).tune
    behind, cost, found = [], [], []
    for seed in range(int(seeds)):
        project.set({"base.seed": seed, "tune.score": score, **GRID})
        best, numbers, table = _searched(project)
        project.set({"tune.searcher": own.searcher, "tune.scheduler": own.scheduler})
        ours, ours_numbers, _ = _searched(project)
        sign = 1 if best["score_name"] == "val_fcd" else -1
        behind.append(sign * (ours["score"] - best["score"]) / abs(best["score"]))
        cost.append(ours_numbers["images"] / numbers["images"])
        cell = table.groupby(["beta", "latent_dim"])["score"].mean()
        found.append({"seed": seed, "grid": _told(best), "search": _told(ours), "cells": cell})
        print(f"  {data} seed {seed}: behind {behind[-1]:+.3f} at {cost[-1]:.3f} of the images", flush=True)
    cells = pd.concat([each.pop("cells") for each in found], axis=1)
    steady = cells.loc[cells.mean(axis=1).idxmin() if score == "fcd" else cells.mean(axis=1).idxmax()]
    return {
        "score": score, "searcher": own.searcher, "scheduler": own.scheduler, "trials": own.trials,
        "images_per_trial": own.images_per_trial, "behind_median": round(statistics.median(behind), 4),
        "behind": [round(value, 4) for value in behind], "cost_median": round(statistics.median(cost), 4),
        "noise": round(float(steady.std() / abs(steady.mean())), 4), "found": found,
    }  # fmt: skip


def _told(best: dict[str, Any]) -> dict[str, float]:
    return {"beta": round(best["beta"], 4), "latent_dim": best["latent_dim"], "score": round(best["score"], 4)}


def _again(data: str, work: Path, seeds: float) -> dict[str, Any]:
    """Mean scores of the chosen points of row ``data``, each trained anew with the same other seeds."""
    before = read_json(result("tune"))[data]
    project = _prepared(data, work)
    project.set(
        {"tune.searcher": "random", "tune.trials": 1, "tune.rungs": 1, "tune.scheduler": "none", "tune.score": before["score"]}
    )
    found, behind = [], []

    @cache  # both may have taken the same
    def trained(beta: float, latent_dim: int) -> list[float]:
        project.set({"tune.beta_min": beta, "tune.beta_max": beta})
        project.set({"tune.latent_dim_min": latent_dim, "tune.latent_dim_max": latent_dim})
        return [_trained(project, OTHER_SEEDS + seed) for seed in range(int(seeds))]

    for pair in before["found"]:
        scores = {who: trained(pair[who]["beta"], pair[who]["latent_dim"]) for who in ("grid", "search")}
        grid, search = (statistics.mean(scores[who]) for who in ("grid", "search"))
        behind.append((search - grid) / grid)
        luck = (grid - pair["grid"]["score"]) / pair["grid"]["score"]
        found.append(
            {"seed": pair["seed"], "luck": round(luck, 4), **{who: [round(each, 4) for each in scores[who]] for who in scores}}
        )
        print(f"  seed {pair['seed']}: behind {behind[-1]:+.3f}, the grid's best again {luck:+.3f}", flush=True)
    return {
        "score": before["score"], "behind_median_again": round(statistics.median(behind), 4), "again": [round(each, 4) for each in behind],
        "luck_median": round(statistics.median(each["luck"] for each in found), 4), "found": found,
    }  # fmt: skip


def _trained(project: Project, seed: int) -> float:
    project.set({"base.seed": seed})
    return _searched(project)[0]["score"]


def latents(work: Path, seeds: float) -> dict[str, Any]:
    """FCD to validation images of samples of the trained model, under a prior fitted to so many latents; and the seconds of a fit."""
    project = _prepared("sprites", work)
    project.set(USUAL)
    project.stage("train")
    paths = Paths(project.root)
    told = params.check((project.root / "params.yaml").read_text(), "params.yaml")
    generator, (extractor, _) = load_artefact(paths.model), load_extractor(paths.extractor)
    train, val = (ImageShards(paths.processed / split) for split in ("train", "val"))
    real = moments(extractor.features(val.spread(told.tune.score_samples)))
    found: dict[str, Any] = {"total_images": told.train.total_images}
    for count in (told.tune.score_samples, LATENTS, min(PRIOR_IMAGES, len(train))):
        started = time.process_time()
        prior = fit_prior(generator.model, Selection(train, train.places(count)), told.fit.prior_config, told.base.seed)
        seconds = time.process_time() - started
        made_NHWC = Generator(generator.model, generator.config, prior, {}).sample(told.tune.score_samples, told.base.seed)
        fcd = frechet_distance(real, moments(extractor.features(made_NHWC)))
        found[str(count)] = {"fcd": round(fcd, 4), "seconds": round(seconds, 2)}
    return found


def start(work: Path, seeds: float) -> dict[str, Any]:
    """Seconds for each trial more, of one step each; and the most trials that were in training at the same moment."""
    project = _prepared("sprites", work)
    project.set({"tune.scheduler": "none", "tune.rungs": 1, "tune.images_per_trial": ONE_STEP, "tune.score": "elbo_nats"})
    seconds: dict[int, list[float]] = {FEW: [], MANY: []}
    for _ in range(int(seeds)):
        for trials in seconds:
            project.set({"tune.trials": trials})
            seconds[trials].append(project.stage("tune"))
    few, many = (statistics.median(seconds[trials]) for trials in (FEW, MANY))
    project.set({"tune.trials": 6, "tune.rungs": 3, "tune.images_per_trial": 40_000})
    return {
        "seconds_for_each_trial_more": round((many - few) / (MANY - FEW), 2),
        "seconds_of_a_search_of_two": round(few, 1),
        "trials_at_once": _at_once(project),
    }


def _at_once(project: Project) -> int:
    """The most trials whose first and last reports enclose one moment."""
    process, spans = project.start("tune"), {}
    while process.poll() is None:
        for spool in project.root.glob(".work/tune/*/*/spool.jsonl"):
            if records := read(spool):
                spans[spool.parent.name] = records[0]["time_ms"], records[-1]["time_ms"]
        time.sleep(0.2)
    return max(sum(first <= moment <= last for first, last in spans.values()) for moment, _ in spans.values())


if __name__ == "__main__":
    own_rows: dict[str, Row] = {
        name + suffix: partial(_against_grid, name, score)
        for name in DATA
        for suffix, score in (("", "fcd"), ("-bound", "elbo_nats"))
    }
    own_rows |= {f"again-{name}": partial(_again, name) for name in DATA} | {"latents": latents, "start": start}
    measure("tune", own_rows, __doc__, seeds=5)

"""How stage tune asks Ray Tune: the space, who proposes points, who stops trials early, how many run at once."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace
from typing import Any

from pipeline import space
from pipeline.cluster import Profile
from pipeline.console import Progress
from pipeline.group import watched
from pipeline.job import Job
from pipeline.sections import Fit
from pipeline.spool import read
from pipeline.trial import run_trial, side_by_side
from pipeline.trial_score import SCORES

DRIVER_BYTES = 2**20  # of Ray's memory resource, for a trial that only drives its worker group


def search(values: SimpleNamespace, template: Job, profile: Profile, trials_seen: Progress) -> Any:
    """Run Ray Tune to its end on the cluster that is connected; returns its result grid."""
    if values.tune.searcher != "tpe":  # all trials are known before the first one reports
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(values.tune.trials)
    import optuna
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    section = values.tune
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    metric, mode = SCORES[section.score]
    reports = section.reduction_factor ** (section.rungs - 1)
    grouped = section.workers_per_trial > 1
    # A trial that drives a group must not hold a processor that its own workers wait for; Ray wants some resource all the same.
    alone: dict[str, float] = {"CPU": profile.cpus_per_worker, "GPU": profile.gpus_per_worker}
    needs = tune.PlacementGroupFactory([{"memory": DRIVER_BYTES} if grouped else alone])
    at_once = side_by_side(profile, section.workers_per_trial, ray.cluster_resources())
    setup = {
        "template": template.to_dict(), "workers": section.workers_per_trial, "profile": vars(profile), "space": section.space,
    }  # fmt: skip
    storage = template.state / "ray"
    shutil.rmtree(storage, ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, setup=setup), needs),
        param_space={
            "beta": tune.loguniform(section.beta_min, section.beta_max),
            "latent_dim": tune.randint(section.latent_dim_min, section.latent_dim_max + 1),
            **{name: _domain(name, dimension) for name, dimension in space.dimensions(section.space).items()},
        },
        tune_config=tune.TuneConfig(
            metric=metric,
            mode=mode,
            num_samples=section.trials,
            search_alg=OptunaSearch(sampler=_sampler(section.searcher, values.base.seed)),
            scheduler=_scheduler(section, reports),
            reuse_actors=not grouped,
            max_concurrent_trials=at_once if grouped or section.searcher == "tpe" else None,
        ),
        run_config=tune.RunConfig(name="search", storage_path=str(storage), verbose=0),
    )

    def tick() -> None:
        spools = list(template.state.glob("beta-*/spool.jsonl"))
        images = sum(int(records[-1]["images"]) for spool in spools if (records := read(spool)))
        trials_seen.to(images, f"{len(spools)} of {section.trials} trials started")

    return watched(tuner.fit, tick)


def _domain(name: str, dimension: space.Dimension) -> Any:
    """A dimension as Ray Tune samples it; a choice by its place, as choices may be lists."""
    from ray import tune

    if dimension.choices is not None:
        return tune.choice(list(range(len(dimension.choices))))
    low, high = dimension.ends
    if space.of_integers(Fit, name):
        return (tune.lograndint if dimension.log else tune.randint)(int(low), int(high) + 1)
    return (tune.loguniform if dimension.log else tune.uniform)(low, high)


def _scheduler(section: SimpleNamespace, reports: int) -> Any:
    from ray.tune import schedulers

    if section.scheduler == "none":
        return schedulers.FIFOScheduler()
    kind = schedulers.HyperBandScheduler if section.scheduler == "hyperband" else schedulers.ASHAScheduler
    return kind(max_t=reports, reduction_factor=section.reduction_factor)


def _sampler(searcher: str, seed: int) -> Any:
    import warnings

    import optuna

    chance = optuna.samplers.RandomSampler(seed)
    if searcher == "random":
        return chance
    if searcher == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.QMCSampler(
            qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False, independent_sampler=chance
        )

"""How stage tune asks Ray Tune: the space, who proposes points, who stops trials early, how many run at once."""

from __future__ import annotations

import math
import os
import shutil
from functools import partial
from types import SimpleNamespace
from typing import Any

import pandas as pd

from pipeline import constraints, space
from pipeline.choice import worth_keeping
from pipeline.cluster import Profile
from pipeline.console import Progress
from pipeline.group import watched
from pipeline.job import CHECKPOINTS, SPOOL, Job
from pipeline.population import population
from pipeline.sections import Fit
from pipeline.spool import read
from pipeline.trial import outcome, point_of, run_trial, side_by_side, trial_job
from pipeline.trial_score import SCORES

TERMS = [("val_rate_nats", "min"), ("val_distortion_nats", "min")]
MOST_DRAWN = 10  # trials at random before gp or tpe proposes: Optuna's number; of a small search fewer, or it would learn nothing
DRAWN_SHARE = {"gp": 4, "tpe": 3}  # one trial in so many; a Gaussian process says more of two points than densities do
HEAD = "node:__internal_head__"  # a resource that every Ray cluster has once
HEAD_SHARE, SHARES = 0.9, 10_000  # of it, for trials that only drive a worker group; Ray counts in ten thousandths


def search(values: SimpleNamespace, template: Job, profile: Profile, trials_seen: Progress) -> Any:
    """Run Ray Tune to its end on the cluster that is connected; returns its result grid."""
    section = values.tune
    trials = space.trials(section, Fit)
    if not section.learns:  # all trials are known before the first one reports
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(trials)
    import ray
    from ray import tune

    metric, mode = SCORES[section.score]
    grouped = section.workers_per_trial > 1
    at_once = side_by_side(profile, section.workers_per_trial, ray.cluster_resources())
    # A trial that drives a group must not hold a processor that its own workers wait for, and no more may run than groups have room:
    # they share something else. Ray's limit on trials would do no good: it counts those that wait for others to be compared with.
    driver = max(1, math.floor(HEAD_SHARE * SHARES / at_once)) / SHARES
    alone: dict[str, float] = {"CPU": profile.cpus_per_worker, "GPU": profile.gpus_per_worker}
    needs = tune.PlacementGroupFactory([{HEAD: driver} if grouped else alone])
    setup = {
        "template": template.to_dict(), "workers": section.workers_per_trial, "profile": vars(profile), "space": section.space,
        "exchange": section.scheduler == "pbt", "stopping": section.scheduler != "none",
    }  # fmt: skip
    storage = template.state / "ray"
    shutil.rmtree(storage, ignore_errors=True)
    alone_decides = section.objectives == "score"
    points, ways = _ways(section, template, trials, values.base.seed)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, setup=setup), needs),
        param_space=points,
        tune_config=tune.TuneConfig(
            metric=metric if alone_decides else None,
            mode=mode if alone_decides else None,
            reuse_actors=not grouped,
            **ways,
        ),
        run_config=tune.RunConfig(name="search", storage_path=str(storage), verbose=0, callbacks=[_tidying(template, section)]),
    )

    def tick() -> None:
        images: dict[str, int] = {}  # of each trial, which may have had several states
        for spool in template.state.glob(f"[0-9]*/{SPOOL}"):
            number, records = spool.parent.name.split("-")[0], read(spool)
            images[number] = max(images.get(number, 0), int(records[-1]["images"]) if records else 0)
        trials_seen.to(sum(images.values()), f"{len(images)} of {trials} trials started")

    return watched(tuner.fit, tick)


def _ways(section: SimpleNamespace, template: Job, trials: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What Ray Tune draws points from, and who proposes and stops, as its configuration has it."""
    from ray import tune

    domains = {name: _domain(name, dimension) for name, dimension in space.searched(section).items()}
    proposing = proposer(section, seed)
    if section.scheduler != "pbt":
        return domains, {"search_alg": proposing, "scheduler": _scheduler(section), "num_samples": trials}
    # The scheduler of populations takes no searcher: it gets the points that one would propose as a list.
    proposing.set_search_properties(*SCORES[section.score], domains)
    points = [proposing.suggest(str(number)) for number in range(trials)]
    listed = {name: tune.sample_from(partial(_of_point, points, name)) for name in domains}
    numbers = {"number": tune.grid_search(list(range(trials))), "history": []}
    return numbers | listed, {"scheduler": population(template, section, domains)}


def _of_point(points: list[dict[str, Any]], name: str, config: dict[str, Any]) -> Any:
    return points[config["number"]][name]


def proposer(section: SimpleNamespace, seed: int) -> Any:
    """Optuna's sampler as Ray Tune's searcher; each point that it proposes has a number, counted in their order."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    class Numbered(OptunaSearch):
        """Trials come in rounds, and nothing is told of one before all of it have ended: so points do not depend on who is faster.

        Ray's ConcurrencyLimiter tells what it has whenever all trials that it gave out have ended, the round being full or not.
        """

        number = 0

        def __init__(self, **how: Any) -> None:
            super().__init__(**how)
            self.going: dict[str, int] = {}
            self.ended: dict[str, tuple[Any, bool]] = {}

        def suggest(self, trial_id: str) -> dict[str, Any] | None:
            if section.round_size and len(self.going) == section.round_size:
                return None
            point = super().suggest(trial_id)
            if point is not None:
                point["number"] = self.going[trial_id] = self.number
                self.number += 1
            return point

        def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
            self.ended[trial_id] = result, error
            if len(self.ended) < section.round_size:
                return
            for each in sorted(self.ended, key=self.going.__getitem__):
                super().on_trial_complete(each, *self.ended[each])
                del self.going[each]
            self.ended = {}

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    objectives = {
        "score": [],
        "latent_dim_and_score": [("latent_dim", "min"), SCORES[section.score]],
        "rate_and_distortion": TERMS,
    }
    wanted = objectives[section.objectives]
    how: dict[str, Any] = {"metric": [name for name, _ in wanted], "mode": [way for _, way in wanted]} if wanted else {}
    if section.searcher == "grid":
        how["points_to_evaluate"] = space.grid(section, Fit)
    return Numbered(sampler=_sampler(section.searcher, seed, space.trials(section, Fit)), **how)


def _tidying(template: Job, section: SimpleNamespace) -> Any:
    """Leaves of a trial that has ended its reports, and its weights only where it may still be chosen: a search's disk is bounded."""
    from ray import tune

    limits, (metric, mode) = constraints.parsed(section.constraints), SCORES[section.score]

    class Tidying(tune.Callback):
        def __init__(self) -> None:
            self.ended: list[dict[str, Any]] = []

        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            point = point_of(trial.config, section.space)
            self.ended.append({**outcome(template, point, False, metric), "job": trial_job(template, point)})
            shutil.rmtree(self.ended[-1]["job"].state / CHECKPOINTS, ignore_errors=True)
            kept = worth_keeping(pd.DataFrame(self.ended), mode, limits)
            for ended in self.ended:
                if ended["trial"] not in kept:
                    ended["job"].weights.unlink(missing_ok=True)
            self.ended = [ended for ended in self.ended if ended["trial"] in kept]  # what is beaten once stays so

        def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            job = trial_job(template, point_of(trial.config, section.space))
            shutil.rmtree(job.state / CHECKPOINTS, ignore_errors=True)

    return Tidying()


def _domain(name: str, dimension: space.Dimension) -> Any:
    """A dimension as Ray Tune samples it; a choice by its place, as choices may be lists."""
    from ray import tune

    if dimension.choices is not None:
        return tune.choice(list(range(len(dimension.choices))))
    low, high = dimension.ends
    if space.of_integers(Fit, name):
        return (tune.lograndint if dimension.log else tune.randint)(int(low), int(high) + 1)
    return (tune.loguniform if dimension.log else tune.uniform)(low, high)


def _scheduler(section: SimpleNamespace) -> Any:
    from ray.tune import schedulers

    if section.scheduler == "none":
        return schedulers.FIFOScheduler()
    kind = halving() if section.scheduler == "hyperband" else schedulers.ASHAScheduler
    return kind(max_t=section.reports, reduction_factor=section.reduction_factor)


def halving() -> Any:
    """Ray's HyperBand, which in 2.60 forgets paused trials twice, and with them the search would never end.

    A trial that was told to pause and is still writing its checkpoint when the last one of its bracket ends is not stopped with the
    others; and where the one that all wait for fails, nobody looks whether the others have arrived. So whenever there is nothing to
    run, each bracket whose trials are all there and paused is dealt with as it is at the last one's report.
    """
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import HyperBandScheduler

    class HyperBand(HyperBandScheduler):
        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            chosen = super().choose_trial_to_run(tune_controller)
            if chosen is not None:
                return chosen
            for bracket in [bracket for band in self._hyperbands for bracket in band if bracket is not None]:
                waiting = bracket.current_trials()
                paused = all(trial.status == Trial.PAUSED and not trial.is_saving for trial in waiting)
                if waiting and paused and bracket.cur_iter_done():
                    self._process_bracket(tune_controller, bracket)
            return super().choose_trial_to_run(tune_controller)

    return HyperBand


def _sampler(searcher: str, seed: int, trials: int) -> Any:
    import warnings

    import optuna

    chance = optuna.samplers.RandomSampler(seed)
    if searcher == "random":
        return chance
    drawn = max(1, min(MOST_DRAWN, trials // DRAWN_SHARE.get(searcher, 1)))
    if searcher == "tpe":
        return optuna.samplers.TPESampler(n_startup_trials=drawn, seed=seed)
    if searcher == "gp":
        return optuna.samplers.GPSampler(n_startup_trials=drawn, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.QMCSampler(
            qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False, independent_sampler=chance
        )

"""Population-based training as stage tune does it: the worst trials go on from the best ones' weights, with their values a little changed.

Jaderberg et al., Population Based Training of Neural Networks, 2017, by Ray's scheduler, all trials waiting for each other at every report
(its Appendix A.1). What is exchanged and drawn depends on the scores and the seed alone, so a killed search that is repeated comes to the
same states and finds them done.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline import space
from pipeline.job import CHECKPOINTS, SPOOL, Job
from pipeline.spool import SpoolWriter, read
from pipeline.trial import point_of, trial_job
from vae.config import Recipe
from vae.files import replaced_directory
from vae.state import checkpoint_path, claim

# A checkpoint holds the critic, or none: these go with the weights, as the network's own keys do.
OF_THE_CRITIC = ("adversary_weight", "critic_width")


def changed(section: SimpleNamespace) -> dict[str, space.Dimension]:
    """The dimensions of the search that change within a training: beta, and those of the recipe."""
    of_recipe = Recipe.__dataclass_fields__.keys() - set(OF_THE_CRITIC)
    return {name: each for name, each in space.searched(section).items() if name == "beta" or name in of_recipe}


def within(config: dict[str, Any], section: SimpleNamespace) -> dict[str, Any]:
    """The configuration with every changed value between the ends of its range."""
    ranges = {name: each.ends for name, each in changed(section).items() if each.choices is None}
    return config | {name: type(config[name])(min(max(config[name], low), high)) for name, (low, high) in ranges.items()}


def fork(job: Job, other: Job, step: int) -> None:
    """Let ``other`` go on from where ``job`` is at ``step``: with its reports up to there and that checkpoint; whole, or not at all."""
    if other.state.exists():  # a killed search is repeated
        return
    with replaced_directory(other.state) as directory:
        writer = SpoolWriter(directory / SPOOL)
        for record in read(job.spool):
            if record["step"] <= step:
                writer.append(record)
        checkpoints = directory / CHECKPOINTS
        claim(checkpoints, other.model, other.fit, other.identity)
        shutil.copytree(checkpoint_path(job.state / CHECKPOINTS, step), checkpoint_path(checkpoints, step))


@contextmanager
def _drawing(*key: Any) -> Iterator[None]:
    """Python's and NumPy's own random numbers, from which Ray draws, as a function of ``key``."""
    before, before_numpy = random.getstate(), np.random.get_state()
    random.seed(repr(key))
    np.random.seed(random.getrandbits(32))
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)


def population(template: Job, section: SimpleNamespace, domains: dict[str, Any]) -> Any:
    """Ray's scheduler for a search whose trials ``template`` makes; ``domains`` are its dimensions as Ray samples them."""
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import PopulationBasedTraining

    fit = template.fit

    class Population(PopulationBasedTraining):
        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            if result["step"] >= fit.total_steps:  # nobody is replaced any more
                return self.CONTINUE
            for each in tune_controller.get_live_trials():  # Ray 2.60 would wait for those that failed
                if each.status == Trial.ERROR:
                    state = self._trial_state[each]
                    state.last_train_time = max(state.last_train_time, int(self._next_perturbation_sync))
            return super().on_trial_result(tune_controller, trial, result)

        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            """Where the trial that all others wait for fails, Ray 2.60 does not see that all are there; it looks when one reports."""
            chosen = super().choose_trial_to_run(tune_controller)
            live = [trial for trial in tune_controller.get_live_trials() if not trial.is_finished()]
            if chosen is None and live and all(trial.status == Trial.PAUSED for trial in live):
                self.on_trial_result(tune_controller, live[0], self._trial_state[live[0]].last_result or {})
                return super().choose_trial_to_run(tune_controller)
            return chosen

        def _checkpoint_or_exploit(self, trial: Any, *arguments: Any) -> None:
            with _drawing(fit.seed, trial.config["number"], self._trial_state[trial].last_train_time):
                super()._checkpoint_or_exploit(trial, *arguments)

        def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            config, told = super()._get_new_config(trial, trial_to_clone)
            step = int(self._trial_state[trial_to_clone].last_train_time)
            donor = point_of(trial_to_clone.config, section.space)
            past = {"trial": donor.number, "until_images": step * fit.global_batch_size, "beta": donor.beta, **donor.changes}
            config |= {"number": trial.config["number"], "history": [*donor.history, past]}
            left = trial_job(template, point_of(trial.config, section.space))
            fork(trial_job(template, donor), trial_job(template, point_of(config, section.space)), step)
            shutil.rmtree(left.state / CHECKPOINTS, ignore_errors=True)  # its reports stay, for a search that is repeated
            return config, told

    return Population(
        time_attr="step",
        perturbation_interval=fit.steps(fit.validate_every_images),
        hyperparam_mutations={
            name: list(range(len(each.choices))) if each.choices is not None else domains[name]
            for name, each in changed(section).items()
        },
        quantile_fraction=1 / section.reduction_factor,
        custom_explore_fn=lambda config: within(config, section),
        log_config=False,
        synch=True,
    )

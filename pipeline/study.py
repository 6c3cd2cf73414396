"""A search as an Optuna study, for Optuna's own figures: which parameters mattered, and what came of which values."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pandas as pd

from pipeline import space
from pipeline.choice import COMPLETED
from pipeline.sections import Fit

LEAST_TRIALS = 4  # with the whole budget, for figures that say something


def _distributions(section: SimpleNamespace) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for name, dimension in space.searched(section).items():
        if dimension.choices is not None:
            found[name] = CategoricalDistribution([str(choice) for choice in dimension.choices])
            continue
        low, high = dimension.ends
        if space.of_integers(Fit, name):
            found[name] = IntDistribution(int(low), int(high), log=dimension.log)
        else:
            found[name] = FloatDistribution(low, high, log=dimension.log)
    return found


def study_of(table: pd.DataFrame, section: SimpleNamespace, metric: str, mode: str) -> Any:
    """The trials that had the whole budget as a study; None where they are too few."""
    import optuna

    completed = table[(table["state"] == COMPLETED) & table["score"].notna()]
    if len(completed) < LEAST_TRIALS:
        return None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = _distributions(section)
    study = optuna.create_study(direction="minimize" if mode == "min" else "maximize", study_name=metric)
    for row in completed.to_dict("records"):
        here = {name: kind for name, kind in known.items() if name in row and _given(row[name])}
        values = {name: _value(row[name], kind) for name, kind in here.items()}
        study.add_trial(optuna.trial.create_trial(params=values, distributions=here, value=float(row["score"])))
    return study


def _given(value: Any) -> bool:
    return isinstance(value, list | tuple) or bool(pd.notna(value))


def _value(value: Any, kind: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(kind, CategoricalDistribution):
        return str(list(value) if isinstance(value, tuple) else value)
    return int(value) if isinstance(kind, IntDistribution) else float(value)


def importances(study: Any, seed: int) -> dict[str, float]:
    """The share of the score's variance that each parameter explains (fANOVA, Hutter et al. 2014); only of those all trials have."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)

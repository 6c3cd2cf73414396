"""study: the parameter that decides the planted score is the important one, and the figures are drawn whatever came of the search."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.search_plots import draw_study
from pipeline.study import importances, study_of

SECTION = SimpleNamespace(
    beta_min=0.1, beta_max=10.0, latent_dim_min=2, latent_dim_max=32,
    space={
        "learning_rate": {"low": 0.001, "high": 0.01, "log": True},
        "model": {"choices": ["conv", "resnet"]},
        "blocks": {"low": 1, "high": 3, "when": {"model": "resnet"}},
        "widths": {"choices": [[8, 16], [16, 32]]},
    },
)  # fmt: skip


def trials(count: int) -> pd.DataFrame:
    """Scores that follow from the learning rate alone; blocks known of resnets only, the first trial stopped early."""
    rng = np.random.default_rng(0)
    rate, model = 10 ** rng.uniform(-3, -2, count), rng.integers(0, 2, count)
    return pd.DataFrame(
        {
            "beta": 10 ** rng.uniform(-1, 1, count), "latent_dim": rng.integers(2, 33, count), "learning_rate": rate,
            "model": np.array(["conv", "resnet"])[model], "blocks": np.where(model, rng.integers(1, 4, count), np.nan),
            "widths": [((8, 16), (16, 32))[i] for i in rng.integers(0, 2, count)], "score": 100 * np.log10(rate) ** 2,
            "state": ["stopped early"] + ["completed"] * (count - 1),
        }
    )  # fmt: skip


def test_study_holds_the_completed_trials_with_what_each_was_told():
    table = trials(12)
    study = study_of(table, SECTION, "val_fcd", "min")
    assert len(study.trials) == 11 and study.best_value == pytest.approx(table["score"][1:].min())
    for trial, row in zip(study.trials, table[1:].to_dict("records"), strict=True):
        assert ("blocks" in trial.params) == (trial.params["model"] == "resnet")
        assert trial.params["widths"] == str(list(row["widths"])) and trial.params["latent_dim"] == row["latent_dim"]


def test_the_parameter_that_decides_is_the_important_one():
    found = importances(study_of(trials(60), SECTION, "val_fcd", "min"), 0)
    assert "blocks" not in found  # not all trials have it
    assert next(iter(found)) == "learning_rate" and found["learning_rate"] > 0.8
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.parametrize("count", [1, 4, 5, 12])
def test_figures_are_drawn_whatever_came_of_the_search(count, tmp_path):
    study = study_of(trials(count), SECTION, "val_fcd", "min")
    assert (study is None) == (count < 5)
    draw_study(study, {} if study is None else importances(study, 0), tmp_path / "parallel.png", tmp_path / "importance.png")
    assert all((tmp_path / f"{name}.png").stat().st_size > 2000 for name in ("parallel", "importance"))

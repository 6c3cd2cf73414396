"""constraints: what is one, what is told of what is none, and which trials meet them and are taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import params
from pipeline.choice import chosen, told, worth_keeping
from pipeline.constraints import meeting, parse, parsed
from pipeline.errors import BadConfigError, TrainingFailedError

TEXT = (Path(__file__).resolve().parents[3] / "params.yaml").read_text()
TABLE = pd.DataFrame(
    {
        "trial": range(6), "latent_dim": [2, 4, 8, 16, 32, 2], "score": [9.0, 5.0, 3.0, 2.0, 1.5, 0.1], "rate_nats": [1, 2, 3, 4, 5, 0.5],
        "distortion_nats": [9.0, 8, 7, 6, 5, 1], "state": ["completed"] * 5 + ["stopped early"],
    }
)  # fmt: skip


@pytest.mark.parametrize("text", ["latent_dim <= 32", "latent_dim<=32.0", "  latent_dim   <=  3.2e1 "])
def test_constraint_is_read_whatever_its_spaces(text):
    assert str(parse(text)) == "latent_dim <= 32"


@pytest.mark.parametrize("text", ["latent_dim < 32", "latent_dim <=", "32 >= latent_dim = 1", "latent_dim <= many", "", 7, None])
def test_what_is_no_constraint_is_none(text):
    assert parse(text) is None


def refusal(**changes: object) -> str:
    values = yaml.safe_load(TEXT)
    values["tune"] |= changes
    with pytest.raises(BadConfigError) as caught:
        params.check(yaml.safe_dump(values), "params.yaml")
    return str(caught.value)


def test_all_faults_of_a_list_are_told():
    message = refusal(constraints=["latent_dim < 3", "width <= 3", "rate_nats <= 3"])
    assert "tune.constraints.0: 'latent_dim < 3' is none: write a column" in message
    assert "tune.constraints.1: 'width' is no number of a trial; known: beta, latent_dim, score" in message
    assert "constraints.2" not in message
    ranges = {"learning_rate": {"low": 0.001, "high": 0.01}, "model": {"choices": ["conv", "resnet"]}}
    message = refusal(constraints=["learning_rate <= 0.005", "model <= 3"], space=ranges)
    assert "constraints.0" not in message and "constraints.1: 'model' is no number" in message


def test_front_is_asked_for_with_those_who_can_propose_it():
    assert "tune.objectives: rate_and_distortion needs tune.searcher tpe" in refusal(objectives="rate_and_distortion")
    assert "scheduler none" in refusal(objectives="latent_dim_and_score", searcher="tpe", scheduler="asha")


def test_population_needs_others_to_go_on_from_and_points_that_are_known_at_the_start():
    message = refusal(scheduler="pbt", searcher="tpe", rungs=1, trials=1)
    for wrong in (
        "tune.searcher: tpe learns from trials that ended",
        "tune.trials: must be 2 at least",
        "tune.rungs: must be 2 at least",
    ):
        assert wrong in message
    assert "tune.searcher: gp learns" in refusal(scheduler="pbt", searcher="gp")
    assert "tune.trials" not in refusal(scheduler="pbt", searcher="grid", rungs=1, trials=1)


def test_grid_of_too_many_points_is_refused():
    wide = {name: {"low": 0.001, "high": 0.01} for name in ("learning_rate", "weight_decay")}
    message = refusal(searcher="grid", grid_points=20, space=wide)
    assert "tune.grid_points: make a grid of 32000 points, 10000 at most" in message


def test_meeting_is_all_of_them_and_no_missing_value():
    table = pd.DataFrame({"rate_nats": [1.0, 5.0, np.nan, 9.0], "beta": [1.0, 1.0, 1.0, 3.0]})
    assert meeting(table, parsed(["rate_nats >= 2", "beta <= 2"])).tolist() == [False, True, False, False]
    assert meeting(table, []).all()


@pytest.mark.parametrize(
    ("texts", "rule", "trial"),
    [
        ([], "best", 4),
        (["latent_dim <= 8"], "best", 2),
        (["latent_dim <= 16", "rate_nats <= 2"], "best", 1),
        (["latent_dim >= 4"], "knee", 2),
    ],
)
def test_choice_is_of_those_that_meet_the_constraints(texts, rule, trial):
    limits = parsed(texts)
    assert chosen(TABLE, "min", rule, [], limits)["trial"] == trial
    assert trial in worth_keeping(TABLE, "min", limits)
    assert all(text in told(rule, "val_fcd", "min", limits) for text in texts)


def test_no_trial_that_meets_them_is_told_with_what_there_was():
    with pytest.raises(TrainingFailedError, match=r"none of 5 trials meets .*latent_dim <= 1; latent_dim was 2 to 32"):
        chosen(TABLE, "min", "best", [], parsed(["latent_dim <= 1"]))


@pytest.mark.parametrize("rule", ["best", "knee"])
@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_chosen_in_the_end_was_kept_at_every_moment(rule, seed):
    rng, limits = np.random.default_rng(seed), parsed(["rate_nats >= 2"])
    table = pd.DataFrame(
        {
            "trial": range(30), "latent_dim": rng.integers(2, 9, 30), "score": rng.integers(0, 20, 30) / 2.0,
            "rate_nats": rng.uniform(0, 9, 30), "distortion_nats": rng.uniform(0, 9, 30),
            "state": rng.choice(["completed", "stopped early"], 30),
        }
    )  # fmt: skip
    taken = int(chosen(table, "min", rule, [], limits)["trial"])
    order = rng.permutation(30)
    for ended in range(1, 31):
        so_far = table.iloc[order[:ended]]
        assert (taken in worth_keeping(so_far, "min", limits)) == (taken in set(so_far["trial"]))

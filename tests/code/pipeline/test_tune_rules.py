"""Tune's rules without Ray: what a trial's job is, how its row in the table reads, and which trial is best."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from types import SimpleNamespace

import pandas as pd
import pytest

from configs import fit_config, model_config
from pipeline.choice import chosen
from pipeline.cluster import Profile
from pipeline.errors import TrainingFailedError
from pipeline.job import Job
from pipeline.sections import Tune
from pipeline.spool import SpoolWriter
from pipeline.trial import Point, outcome, trial_job
from pipeline.trial_score import SCORES
from pipeline.tune import PARAMS, _template
from vae.files import write_manifest


@pytest.fixture
def template(tmp_path) -> Job:
    model = model_config(latent_dim=2, widths=(8,), hidden_units=8)
    fit = fit_config(
        seed=0,
        global_batch_size=10,
        total_images=100,
        learning_rate=1e-3,
        warmup_images=0,
        weight_decay=0.0,
        clip_norm=1.0,
        validate_every_images=50,
        checkpoint_every_images=50,
    )
    return Job(
        model=model, fit=fit, train_directories=(), val_directory="", state_directory=str(tmp_path), threads=1, identity={}
    )


def _best(table: pd.DataFrame, mode: str, errors: list) -> pd.Series:
    return chosen(table, mode, "best", errors)


def rows(*trials: tuple[str, float | None]) -> pd.DataFrame:
    return pd.DataFrame([{"trial": i, "state": state, "score": score} for i, (state, score) in enumerate(trials)])


def result(beta: float, latent_dim: int, error: Exception | None = None) -> SimpleNamespace:
    return SimpleNamespace(config={"beta": beta, "latent_dim": latent_dim}, error=error)


def test_scores_hold_no_beta_and_say_which_way_is_better():
    assert [name for name, (_, mode) in SCORES.items() if mode == "min"] == ["fcd", "kid"]
    choices = next(f for f in fields(Tune) if f.name == "score").metadata["choices"]
    assert sorted(choices) == sorted(SCORES)
    assert all("loss" not in metric and "beta" not in metric for metric, _ in SCORES.values())


@pytest.mark.parametrize(("mode", "expected"), [("min", 1), ("max", 2)])
def test_best_follows_the_direction_of_the_score(mode, expected):
    table = rows(("completed", 3.0), ("completed", 1.0), ("completed", 9.0))
    assert _best(table, mode, [])["trial"] == expected


def test_best_trial_with_the_whole_budget_beats_a_better_one_without():
    table = rows(("stopped early", 0.1), ("completed", 2.0), ("failed", 0.0), ("completed", 3.0))
    assert _best(table, "min", [])["trial"] == 1


def test_best_without_a_completed_trial_takes_the_best_that_reported():
    table = rows(("stopped early", 5.0), ("stopped early", 4.0), ("failed", 1.0), ("stopped early", None))
    assert _best(table, "min", [])["trial"] == 1


def test_best_tie_goes_to_the_earlier_trial():
    assert _best(rows(("completed", 2.0), ("completed", 1.0), ("completed", 1.0)), "min", [])["trial"] == 1
    assert _best(rows(("completed", 2.0), ("completed", 2.0)), "max", [])["trial"] == 0


@pytest.mark.parametrize("mode", ["min", "max"])
def test_best_never_takes_a_score_that_is_no_number(mode):
    assert _best(rows(("completed", math.nan), ("completed", 7.0), ("completed", None)), mode, [])["trial"] == 1


def test_best_all_failed_names_the_first_cause():
    with pytest.raises(TrainingFailedError) as caught:
        _best(
            rows(("failed", None), ("failed", 1.0)),
            "min",
            [ValueError("Traceback\n  lines\nValueError: not finite"), ValueError("b")],
        )
    assert "all 2 trials failed" in str(caught.value) and str(caught.value).endswith("ValueError: not finite")
    assert caught.value.exit_code == 70


@pytest.mark.parametrize("errors", [[], [ValueError("")]])
def test_best_nothing_reported_says_so(errors):
    with pytest.raises(TrainingFailedError, match="no report"):
        _best(rows(("stopped early", None)), "min", errors)


def test_trial_job_changes_the_point_and_its_state_only(template):
    job = trial_job(template, Point(2.5, 7, {}))
    assert (job.fit.beta, job.model.latent_dim) == (2.5, 7)
    back = Job.from_dict(job.to_dict() | {"state_directory": template.state_directory})
    assert trial_job(back, Point(1.0, 2, {})).to_dict() == trial_job(template, Point(1.0, 2, {})).to_dict()
    assert job.state.parent == template.state


def test_trial_job_same_point_same_state_other_point_another(template):
    points = [(1.0, 4), (1.0, 5), (1.0000001, 4), (0.1 + 0.2, 4), (1e-5, 4), (10.0, 4)]
    points = [Point(*point, {}) for point in points]
    points += [
        Point(1.0, 4, changes) for changes in ({"learning_rate": 0.1}, {"learning_rate": 0.2}, {"blocks": 2}, {"widths": (4, 8)})
    ]
    points += [Point(1.0, 4, {}, number=1)]  # asked for twice
    states = [trial_job(template, point).state_directory for point in points]
    assert len(set(states)) == len(points)
    assert states == [trial_job(template, point).state_directory for point in points]


def test_trial_job_takes_the_keys_of_the_model_and_of_the_recipe(template):
    job = trial_job(template, Point(1.0, 4, {"model": "resnet", "blocks": 3, "widths": (4, 8), "learning_rate": 0.5}))
    assert (job.model.name, job.model.blocks, job.model.widths, job.fit.learning_rate) == ("resnet", 3, (4, 8), 0.5)
    assert Job.from_dict(job.to_dict()) == job


def test_trial_job_travels_as_plain_data(template):
    job = trial_job(template, Point(0.3, 3, {}))
    assert Job.from_dict(job.to_dict()) == job


def test_table_tells_completed_stopped_and_failed_apart(template):
    numbers = {(0.5, 2): 0, (1.0, 3): 1}

    def report(point: tuple[float, int], *steps: int) -> SimpleNamespace:
        writer = SpoolWriter(trial_job(template, Point(*point, {}, numbers[point])).spool)
        for step in steps:
            writer.append(
                {"step": step, "images": step * 10, "val_fcd": 100.0 - step, "val_elbo_nats": -float(step),
                 "val_rate_nats": 1.0, "val_distortion_nats": 2.0}
            )  # fmt: skip
        return result(*point)

    assert template.fit.total_steps == 10
    grid = [report((0.5, 2), 5, 10), report((1.0, 3), 5), result(2.0, 4, ValueError("x")), result(4.0, 5)]
    points = [Point(each.config["beta"], each.config["latent_dim"], {}) for each in grid]
    points = [replace(point, number=number) for number, point in enumerate(points)]

    def table_of(metric: str) -> pd.DataFrame:
        return pd.DataFrame([outcome(template, p, bool(g.error), metric) for g, p in zip(grid, points, strict=True)])

    table = table_of("val_fcd")
    assert list(table["state"]) == ["completed", "stopped early", "failed", "stopped early"]
    assert list(table["trial"]) == [0, 1, 2, 3] and list(table["latent_dim"]) == [2, 3, 4, 5]
    assert list(table["images"]) == [100, 50, 0, 0]
    assert list(table["score"][:2]) == [90.0, 95.0] and table["score"][2:].isna().all()
    assert list(table["elbo_nats"][:2]) == [-10.0, -5.0]
    assert _best(table, "min", [])["trial"] == 0
    assert list(table_of("val_elbo_nats")["score"][:2]) == [-10.0, -5.0]


def test_template_names_the_policy_on_the_fly_and_so_does_its_fingerprint(project):
    for place in (project.paths.processed, project.paths.augmented, project.paths.extractor):
        place.mkdir(parents=True)
        write_manifest(place, image_shape=[32, 32, 3], mode="RGB")
    profile = Profile(address="local", workers=1, cpus_per_worker=1, gpus_per_worker=0, threads_per_worker=1)

    def template(**changes: object) -> Job:
        return _template(project.values(PARAMS, tune__score="elbo_nats", **changes), project.paths, profile)

    plain, stronger = template(), template(augment__rotate_probability=0.5)
    assert plain.augment is None and plain == stronger  # copies on disk are known by their manifest
    flying = [template(augment__on_the_fly=True, augment__rotate_probability=p) for p in (0.0, 0.5)]
    assert len({job.state_directory for job in (plain, *flying)}) == 3
    assert [job.augment["policy"]["rotate_probability"] for job in flying] == [0.0, 0.5]
    assert flying[0].augment["mode"] == "RGB" and trial_job(flying[1], Point(2.0, 5, {})).augment == flying[1].augment
    copies = template(augment__on_the_fly=True, augment__copies=7)
    assert copies.state_directory == flying[0].state_directory  # copies are no part of the policy

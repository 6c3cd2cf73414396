"""A search over more than beta and the latent dimension, and that the training takes what it chose."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.forecast import halved_reports
from pipeline.spool import read
from workspace import START_SECONDS, Workspace

SPACE = {
    "learning_rate": {"low": 0.001, "high": 0.01, "log": True},
    "model": {"choices": ["conv", "resnet"]},
    "blocks": {"low": 1, "high": 2, "when": {"model": "resnet"}},
    "widths": {"choices": [[8, 16], [8, 8]]},
}


def table_and_best(workspace: Workspace) -> tuple[pd.DataFrame, dict]:
    result = workspace.stage("tune")
    assert result.returncode == 0, result.stderr
    best = json.loads((workspace.root / "reports/tune/best.json").read_text())
    return pd.read_csv(workspace.root / "reports/tune/trials.csv"), best


@pytest.mark.parametrize(("searcher", "scheduler", "choice"), [("tpe", "asha", "best"), ("sobol", "hyperband", "knee")])
def test_search_of_more_keys_of_fit_reaches_the_training(ready: Workspace, searcher: str, scheduler: str, choice: str) -> None:
    ready.set({"tune.space": SPACE, "tune.searcher": searcher, "tune.scheduler": scheduler, "tune.choice": choice,
               "train.use_tuned": True})  # fmt: skip
    table, best = table_and_best(ready)
    assert len(table) == 4 and set(table["model"]) <= {"conv", "resnet"} and table["learning_rate"].between(0.001, 0.01).all()
    assert table["learning_rate"].nunique() == 4 and (table["state"] == "completed").any()
    if "blocks" in table:  # said of resnet alone
        assert (table["blocks"].notna() == (table["model"] == "resnet")).all()
    row = table.loc[(table["beta"] - best["beta"]).abs().idxmin()]
    assert best["changes"]["model"] == row["model"] and best["changes"]["learning_rate"] == pytest.approx(row["learning_rate"])
    assert ("knee" in best["rule"]) == (choice == "knee")
    result = ready.stage("train")
    assert result.returncode == 0, result.stderr
    trained = json.loads((ready.root / "models/vae/config.json").read_text())["model"]
    chosen = best["changes"]["model"], best["changes"]["widths"], best["latent_dim"]
    assert (trained["name"], trained["widths"], trained["latent_dim"]) == chosen


def test_search_with_a_worker_group_per_trial_finds_the_same_as_with_single_workers(ready: Workspace, tmp_path: Path) -> None:
    found = []
    for workers in (1, 2):
        copy = ready.copied(tmp_path / str(workers))
        # Long enough that a group has steps left when it is to end after a report.
        copy.set({"tune.workers_per_trial": workers, "tune.trials": 4, "tune.images_per_trial": 1024})
        found.append(table_and_best(copy)[0])
    assert found[0]["state"].tolist() == found[1]["state"].tolist() and set(found[0]["state"]) == {"completed", "stopped early"}
    assert found[0]["images"].tolist() == found[1]["images"].tolist()
    # Two ranks sum in another order than one: equal but for rounding.
    np.testing.assert_allclose(found[0]["elbo_nats"], found[1]["elbo_nats"], rtol=1e-3)


def test_grid_is_searched_whole_and_the_training_begins_from_its_best(ready: Workspace) -> None:
    ready.set({"tune.searcher": "grid", "tune.grid_points": 2, "tune.scheduler": "none", "tune.constraints": ["latent_dim <= 4"],
               "tune.score": "mig", "tune.score_samples": 64, "train.use_tuned": True, "train.warm_start": "tuned",
               "download.sprite_images": 800})  # fmt: skip
    for stage in ("download", "preprocess", "augment", "extractor"):
        assert ready.stage(stage).returncode == 0
    table, best = table_and_best(ready)
    points = {(round(beta, 9), latent_dim) for beta, latent_dim in zip(table["beta"], table["latent_dim"], strict=True)}
    assert points == {(beta, latent_dim) for beta in (0.3, 1.2) for latent_dim in (2, 6)}
    assert (table["state"] == "completed").all() and best["latent_dim"] == 2 and "latent_dim <= 4" in best["rule"]
    small = table[table["latent_dim"] == 2]
    assert best["score"] == pytest.approx(small["score"].max()) and best["score_name"] == "val_mig"
    weights = (ready.root / "models/tuned/model.safetensors").read_bytes()
    result = ready.stage("train")
    assert result.returncode == 0 and "begun from the weights of the search's chosen trial" in result.stderr, result.stderr
    assert (ready.root / "models/vae/model.safetensors").read_bytes() != weights
    known = json.loads((ready.root / "models/vae/attributes.json").read_text())
    assert set(known["factors"]) >= {"scale", "orientation", "x", "y"} and len(known["labels"]) == 3
    curves = pd.read_csv(ready.root / "reports/train/curves.csv")
    assert not (ready.root / "reports/train/transfer.csv").exists()
    ready.set({"train.warm_start": "models/tuned/model.safetensors", "train.transfer": True, "train.frozen_images": 200,
               "train.layer_decay": 0.8, "train.use_tuned": False, "train.latent_dim": 3})  # fmt: skip
    result = ready.stage("train")
    assert result.returncode == 0 and "layer by layer" in result.stderr and " in part" in result.stderr, result.stderr
    table = pd.read_csv(ready.root / "reports/train/transfer.csv")
    assert set(table.loc[table["outcome"] == "in part", "name"]) >= {"expand.0.weight"} and "as it is" in set(table["outcome"])
    carried = pd.read_csv(ready.root / "reports/train/curves.csv")
    ready.set({"train.warm_start": "", "train.transfer": False, "train.frozen_images": 0, "train.layer_decay": 1.0})
    result = ready.stage("train")
    assert result.returncode == 0 and "begun anew" in result.stderr, result.stderr
    anew = pd.read_csv(ready.root / "reports/train/curves.csv")
    for begun in (curves, carried):
        assert begun["elbo_nats"].iloc[0] > anew["elbo_nats"].iloc[0]  # it knows something already


@pytest.mark.parametrize("objectives", ["latent_dim_and_score", "rate_and_distortion"])
def test_front_is_proposed_for_and_the_disk_holds_only_what_may_be_chosen(ready: Workspace, objectives: str) -> None:
    ready.set({"tune.searcher": "tpe", "tune.objectives": objectives, "tune.scheduler": "none", "tune.choice": "knee",
               "tune.trials": 12})  # fmt: skip
    ready.keep_trials()
    table, best = table_and_best(ready)
    assert len(table) == 12 and (table["state"] == "completed").all() and "knee" in best["rule"]
    (state,) = (ready.root / ".work/tune").iterdir()
    assert list(state.glob("*/checkpoints")) == []
    kept_trials = {int(path.parent.name[:4]) for path in state.glob("*/model.safetensors")}
    front = set(table.loc[table["front_latent_dim_score"], "trial"]) | {int(table["score"].idxmin())}
    assert kept_trials == front and best["trial"] in front and len(front) < 12


@pytest.mark.parametrize("searcher", ["tpe", "sobol"])
def test_hyperband_compares_whole_brackets_whoever_proposes(ready: Workspace, searcher: str) -> None:
    ready.set(
        {"tune.searcher": searcher, "tune.trials": 10, "tune.rungs": 3, "tune.images_per_trial": 512, "tune.score": "elbo_nats"}
    )
    table, _ = table_and_best(ready)
    assert table["images"].sum() == halved_reports(10, 3, 2) * 512 // 4 and (table["state"] == "stopped early").any()


@pytest.mark.parametrize("searcher", ["gp", "tpe"])
def test_search_that_learns_comes_to_the_same_after_a_kill(ready: Workspace, tmp_path: Path, searcher: str) -> None:
    ready.set({"tune.searcher": searcher, "tune.scheduler": "none", "tune.trials": 6, "tune.images_per_trial": 1024})
    killed = ready.copied(tmp_path / "killed")
    table, best = table_and_best(ready)
    assert (table["state"] == "completed").all() and table["beta"].nunique() > 2

    process = killed.start("pipeline.tune")
    deadline = time.monotonic() + START_SECONDS
    while not any(read(path) for path in killed.root.glob(".work/tune/*/000[23]-*/spool.jsonl")):  # of the second round
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = {path: path.read_bytes() for path in killed.root.glob(".work/tune/*/*/spool.jsonl")}
    killed.keep_trials()
    again, chosen = table_and_best(killed)
    pd.testing.assert_frame_equal(again, table)
    assert chosen == best
    assert before and all(path.read_bytes().startswith(text) for path, text in before.items()), "what was done is not done again"


def test_point_that_is_proposed_twice_is_two_trials(ready: Workspace) -> None:
    ready.set(
        {"tune.beta_min": 1.0, "tune.beta_max": 1.0, "tune.latent_dim_min": 2, "tune.latent_dim_max": 2, "tune.scheduler": "none"}
    )
    table, best = table_and_best(ready)
    assert list(table["trial"]) == [0, 1, 2, 3] and (table["state"] == "completed").all()
    assert table["score"].nunique() == 1 and best["trial"] == 0

"""A search over more than beta and the latent dimension, and that the training takes what it chose."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from workspace import Workspace

SPACE = {
    "learning_rate": {"low": 0.001, "high": 0.01, "log": True},
    "model": {"choices": ["conv", "resnet"]},
    "blocks": {"low": 1, "high": 2, "when": {"model": "resnet"}},
    "widths": {"choices": [[8, 16], [8, 8]]},
}


@pytest.mark.parametrize(("searcher", "scheduler", "choice"), [("tpe", "asha", "best"), ("sobol", "hyperband", "knee")])
def test_search_of_more_keys_of_fit_reaches_the_training(ready: Workspace, searcher: str, scheduler: str, choice: str) -> None:
    ready.set({"tune.space": SPACE, "tune.searcher": searcher, "tune.scheduler": scheduler, "tune.choice": choice,
               "train.use_tuned": True})  # fmt: skip
    for stage in ("tune", "train"):
        result = ready.stage(stage)
        assert result.returncode == 0, result.stderr
    table = pd.read_csv(ready.root / "reports/tune/trials.csv")
    assert len(table) == 4 and set(table["model"]) <= {"conv", "resnet"} and table["learning_rate"].between(0.001, 0.01).all()
    assert table["learning_rate"].nunique() == 4 and (table["state"] == "completed").any()
    if "blocks" in table:  # said of resnet alone
        assert (table["blocks"].notna() == (table["model"] == "resnet")).all()
    best = json.loads((ready.root / "reports/tune/best.json").read_text())
    row = table.loc[(table["beta"] - best["beta"]).abs().idxmin()]
    assert best["changes"]["model"] == row["model"] and best["changes"]["learning_rate"] == pytest.approx(row["learning_rate"])
    assert ("knee" in best["rule"]) == (choice == "knee")
    trained = json.loads((ready.root / "models/vae/config.json").read_text())["model"]
    assert (trained["name"], trained["widths"], trained["latent_dim"]) == (
        best["changes"]["model"], best["changes"]["widths"], best["latent_dim"],
    )  # fmt: skip

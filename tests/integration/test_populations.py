"""Population-based training on a real Ray: who goes on from whom, a killed search that comes to the same, one whose last trial fails.

The search of the second part is a process of its own, which is this file run as a script.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from configs import fit_config, model_config
from pipeline.job import CHECKPOINTS, Job
from pipeline.population import population
from pipeline.spool import SpoolWriter, read
from pipeline.trial import point_of, trial_job
from searches import patience, told_by, wait_for
from vae.state import checkpoint_path
from workspace import START_SECONDS, Workspace

SEARCH = {
    "tune.scheduler": "pbt", "tune.trials": 5, "tune.rungs": 3, "tune.images_per_trial": 1024,
    "tune.space": {"learning_rate": {"low": 0.001, "high": 0.01, "log": True}, "widths": {"choices": [[8, 16], [8, 8]]}},
}  # fmt: skip
EVERY = 256  # images between two reports
TRIALS, STEPS = 4, 10  # of the search of the second part: steps between its two reports


def found(workspace: Workspace) -> tuple[pd.DataFrame, dict, bytes]:
    """What a search that came to its end left."""
    report = workspace.root / "reports/tune"
    assert (report / "lineages.png").stat().st_size > 1000
    weights = (workspace.root / "models/tuned/model.safetensors").read_bytes()
    return pd.read_csv(report / "trials.csv"), json.loads((report / "best.json").read_text()), weights


def ended(state: Path, number: int) -> list[dict]:
    """The reports of the state in which a trial came to its end."""
    (records,) = [r for path in state.glob(f"{number:04d}-*/spool.jsonl") if len(r := read(path)) == 4]
    return records


def test_worst_trials_go_on_from_the_best_and_a_killed_search_comes_to_the_same(ready: Workspace, tmp_path: Path) -> None:
    ready.set(SEARCH)
    ready.keep_trials()
    killed = ready.copied(tmp_path / "killed")
    result = ready.stage("tune")
    assert result.returncode == 0, result.stderr
    table, best, weights = found(ready)
    assert (
        (table["state"] == "completed").all() and (table["images"] == 4 * EVERY).all() and list(table["trial"]) == [0, 1, 2, 3, 4]
    )
    assert table["beta"].between(0.3, 1.2).all() and table["learning_rate"].between(0.001, 0.01).all()
    (state,) = (ready.root / ".work/tune").iterdir()
    exchanges = 0
    for row in table.itertuples():
        records = ended(state, row.trial)
        assert row.score == pytest.approx(records[-1]["val_fcd"]) and [r["images"] for r in records] == [
            EVERY * n for n in (1, 2, 3, 4)
        ]
        past = [] if pd.isna(row.history) else [each.split() for each in row.history.split("; ")]
        if not past:
            continue
        exchanges += 1
        _, donor, _, images, _ = past[-1]
        at = int(images) // EVERY  # reports until then
        of_donor = [read(path) for path in state.glob(f"{int(donor):04d}-*/spool.jsonl")]
        assert any(each[:at] == records[:at] for each in of_donor)
        left = [r for path in state.glob(f"{row.trial:04d}-*/spool.jsonl") if len(r := read(path)) == at]
        assert any(each[-1]["val_fcd"] > records[at - 1]["val_fcd"] for each in left), "it was among the worse ones"
    assert exchanges >= 2
    assert list(state.glob(f"*/{CHECKPOINTS}")) == [], "nobody's checkpoints are left"

    process = killed.start("pipeline.tune")
    deadline = time.monotonic() + START_SECONDS
    while not any(len(read(path)) == 3 for path in killed.root.glob(".work/tune/*/*/spool.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (state,) = (killed.root / ".work/tune").iterdir()
    before = {path: path.read_bytes() for path in state.glob("*/spool.jsonl")}
    result = killed.stage("tune")
    assert result.returncode == 0, result.stderr
    again, chosen, same = found(killed)
    pd.testing.assert_frame_equal(again, table)
    assert chosen == best and same == weights
    assert all(path.read_bytes().startswith(text) for path, text in before.items()), "what was done is not done again"


def script(signs: Path) -> dict:
    """Four trials of which the last one fails, once all others have reported and wait for it."""
    import ray
    from ray import tune

    template = Job(
        model=model_config(),
        fit=fit_config(total_images=2 * STEPS * 16, validate_every_images=STEPS * 16),
        train_directories=(), val_directory="", state_directory=str(signs / "states"), threads=1, identity={},
    )  # fmt: skip
    section = SimpleNamespace(beta_min=0.5, beta_max=2.0, latent_dim_min=2, latent_dim_max=6, space={}, reduction_factor=2)

    def trial(config: dict) -> None:
        """Reports as a training does, and has a folder where a checkpoint would be."""
        job = trial_job(template, point_of(config, {}))
        for step in (STEPS, 2 * STEPS):
            if any(record["step"] == step for record in read(job.spool)):
                continue
            if config["number"] == TRIALS - 1:
                wait_for(signs / "all wait")
                raise RuntimeError("planted")
            SpoolWriter(job.spool).append({"step": step})
            (checkpoint := checkpoint_path(job.state / CHECKPOINTS, step)).mkdir(parents=True)
            tune.report({"step": step, "score": config["number"]}, checkpoint=tune.Checkpoint.from_directory(str(checkpoint)))

    class Watch(tune.Callback):
        def on_step_end(self, iteration: int, trials: list, **info: object) -> None:
            if sum(each.status == "PAUSED" and not each.is_saving for each in trials) == TRIALS - 1:
                (signs / "all wait").touch()

    patient = patience()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    grid = tune.Tuner(
        trial,
        param_space={
            "number": tune.grid_search(list(range(TRIALS))),
            "history": [],
            "beta": tune.uniform(0.5, 2.0),
            "latent_dim": 3,
        },
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            scheduler=population(template, section, {"beta": tune.uniform(0.5, 2.0)}),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="search", storage_path=str(signs / "ray"), verbose=0, stop=patient, callbacks=[Watch()]),
    ).fit()
    ends = {each.config["number"]: [each.metrics["step"], len(each.config["history"])] for each in grid if each.error is None}
    return {"ends": sorted(ends.items()), "failed": len(grid.errors), "given_up": patient.lost}


def test_search_ends_when_the_trial_that_all_others_wait_for_fails(tmp_path: Path) -> None:
    # Of three that are left the worst goes on from the best: 0 from 2, scores being their numbers.
    expected = {"ends": [[0, [2 * STEPS, 1]], [1, [2 * STEPS, 0]], [2, [2 * STEPS, 0]]], "failed": 1, "given_up": False}
    assert told_by(__file__, str(tmp_path)) == expected


if __name__ == "__main__":
    print(json.dumps(script(Path(sys.argv[1]))))

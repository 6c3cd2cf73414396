"""What goes wrong for real people: a wrong address, too few processors, a full disk, Ctrl-C, a killed driver, divergence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys

import pytest

from workspace import LONG, Workspace, free_port, one_line

END_SECONDS = 60


def test_train_with_more_workers_than_processors_says_both_numbers(ready: Workspace) -> None:
    workers = (os.cpu_count() or 1) + 2
    profile = ready.root / "infra/ray/many.yaml"
    profile.write_text((ready.root / "infra/ray/laptop.yaml").read_text().replace("workers: 2", f"workers: {workers}"))
    result = ready.stage("train", VAELINE_CLUSTER="infra/ray/many.yaml")
    assert result.returncode == 78
    line = one_line(result, "train")
    assert f"{workers} workers" in line
    assert f"has {os.cpu_count()}" in line
    assert not (ready.root / "models/vae").exists()


def test_train_with_dead_mlflow_says_where_and_what_to_do(ready: Workspace) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    result = ready.stage("train", MLFLOW_TRACKING_URI=address)
    assert result.returncode == 69
    line = one_line(result, "train")
    assert address in line
    assert "MLFLOW_TRACKING_URI" in line


def test_run_with_dead_mlflow_stops_before_the_first_stage(workspace: Workspace) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    result = workspace.run(sys.executable, "-m", "pipeline.run", MLFLOW_TRACKING_URI=address)
    assert result.returncode == 69
    assert address in one_line(result, "run")
    assert not (workspace.root / "data/raw").exists()


def test_train_without_cluster_at_the_address_says_so(ready: Workspace) -> None:
    result = ready.stage("train", RAY_ADDRESS=f"127.0.0.1:{free_port()}")
    assert result.returncode == 69
    assert "RAY_ADDRESS" in one_line(result, "train")


def test_train_that_diverges_stops_before_the_step_and_names_the_remedy(ready: Workspace) -> None:
    # Decay of 10 at a rate of 1 multiplies every weight by -9 at each step.
    ready.set({"fit.learning_rate": 1.0, "fit.weight_decay": 10.0, "fit.warmup_images": 0, "train.total_images": 6400})
    result = ready.stage("train")
    assert result.returncode == 70, result.stderr
    line = one_line(result, "train")
    assert "fit.learning_rate" in line
    assert "step" in line
    assert not (ready.root / "models/vae").exists()


def test_preprocess_on_a_full_disk_leaves_nothing_half_written(ready: Workspace) -> None:
    shutil.rmtree(ready.root / "data/processed")
    # A limit on the size of one file is the portable way to make a write fail in the middle.
    result = ready.run("bash", "-c", f"ulimit -f 40; exec {sys.executable} -m pipeline.preprocess")
    assert result.returncode == 73, result.stderr
    assert "free some space" in one_line(result, "preprocess")
    assert not (ready.root / "data/processed").exists()
    again = ready.stage("preprocess")
    assert again.returncode == 0, again.stderr


def test_ctrl_c_leaves_a_checkpoint_from_which_the_same_weights_follow(ready: Workspace, uninterrupted: str) -> None:
    ready.set(LONG)
    process = ready.start_training()
    process.send_signal(signal.SIGINT)
    assert process.wait(END_SECONDS) == 130
    assert not (ready.root / "models/vae").exists()
    result = ready.stage("train")
    assert result.returncode == 0, result.stderr
    assert ready.weights_sha256() == uninterrupted
    curves = (ready.root / "reports/train/curves.csv").read_text().splitlines()
    assert len(curves) == 1 + 10  # every report once, whichever run it came from


@pytest.mark.slow
def test_killed_driver_goes_on_to_the_same_weights_in_the_same_run(ready: Workspace, uninterrupted: str) -> None:
    ready.set(LONG)
    process = ready.start_training()
    process.kill()
    process.wait(END_SECONDS)
    result = ready.stage("train")
    assert result.returncode == 0, result.stderr
    assert ready.weights_sha256() == uninterrupted
    run_id = json.loads((ready.root / "reports/train/run.json").read_text())["run_id"]
    code = """
import sys, json, mlflow
client = mlflow.MlflowClient(sys.argv[1])
runs = client.search_runs([client.get_experiment_by_name("vaeline").experiment_id])
steps = [m.step for m in client.get_metric_history(sys.argv[2], "val_elbo_nats")]
print(json.dumps([len(runs), steps]))
"""
    seen = ready.run(sys.executable, "-c", code, f"sqlite:///{ready.root / 'mlflow.db'}", run_id)
    runs, steps = json.loads(seen.stdout.splitlines()[-1])
    assert runs == 1
    assert steps == sorted(set(steps))
    assert len(steps) == 10

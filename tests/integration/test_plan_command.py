"""The plan as a command, in a workspace of its own: what it says, what it leaves alone, and how it refuses."""

from __future__ import annotations

import json

from workspace import Workspace


def test_plan_foresees_time_memory_and_disk_and_changes_no_parameter(workspace: Workspace) -> None:
    before = (workspace.root / "params.yaml").read_text()
    done = workspace.stage("plan", "--seconds", "1")
    assert done.returncode == 0, done.stderr
    found = json.loads((workspace.root / "reports/plan.json").read_text())
    assert "random images (data/processed is not there)" in done.stdout and "measuring" in done.stderr
    assert found["tune"]["images"] == {"low": 7 * 128, "high": 8 * 128}
    assert found["train"]["images"] == 640 and found["train"]["val_images"] == 120
    assert 0 < found["train"]["seconds"]["low"] <= found["train"]["seconds"]["high"] < 120
    assert {(v["precision"], v["memory_format"]) for v in found["variants"]} == {
        (p, m) for p in ("float32", "bfloat16") for m in ("channels_last", "contiguous")
    }
    assert 0.7 < (found["memory_bytes"]["train"]["in all"] - 150 * 2**20) / found["memory_bytes"]["rehearsed_train"] < 1.3
    assert (workspace.root / "params.yaml").read_text() == before
    assert not list((workspace.root / ".work").glob("plan-*"))


def test_plan_says_why_a_job_would_wait_and_ends_with_78(workspace: Workspace) -> None:
    text = (workspace.root / "infra/ray/laptop.yaml").read_text().replace("workers: 2", "workers: 512", 1)
    (workspace.root / "wide.yaml").write_text(text)
    workspace.set({"fit.global_batch_size": 512, "tune.workers_per_trial": 1000})
    done = workspace.stage("plan", VAELINE_CLUSTER="wide.yaml")
    assert done.returncode == 78 and "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(lines) == 2, done.stderr
    assert "train (workers 512): 512 workers of 1 CPU each need 512 CPU, the Ray cluster has" in lines[0]
    assert "tune (tune.workers_per_trial 1000)" in lines[1]
    assert not (workspace.root / "reports/plan.json").exists()

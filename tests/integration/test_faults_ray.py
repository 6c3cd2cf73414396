"""Faults of a training on Ray: workers that die, hang or have a bug, another configuration, a second run beside the first."""

from __future__ import annotations

import os
import signal
import sys
import time

import psutil
import pytest

from workspace import LONG, Workspace, one_line

END_SECONDS = 120
STEPS = 400


def _reports(workspace: Workspace) -> int:
    return len((workspace.root / "reports/train/curves.csv").read_text().splitlines()) - 1


def _left_running(workspace: Workspace) -> list[str]:
    """Command lines of processes that still work for this workspace: Ray's carry it in PYTHONPATH."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and str(workspace.root) in process.environ().get("PYTHONPATH", ""):
                found.append(" ".join(process.cmdline()) or process.name())
        except psutil.Error:
            continue
    return found


def _all_gone(workspace: Workspace) -> bool:
    deadline = time.monotonic() + END_SECONDS
    while _left_running(workspace):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


@pytest.mark.parametrize(
    ("step", "rank"),
    [
        (213, 1),
        *(pytest.param(s, r, marks=pytest.mark.slow) for s, r in ((0, 0), (0, 1), (213, 0), (STEPS - 1, 0), (STEPS - 1, 1))),
    ],
)
def test_killed_worker_is_replaced_and_the_weights_are_the_same(
    ready: Workspace, uninterrupted: str, step: int, rank: int
) -> None:
    ready.set(LONG)
    ready.plant("kill", step, rank)
    result = ready.stage("train")
    assert result.returncode == 0, result.stderr
    assert not list((ready.root / "fault").iterdir())  # it did happen
    assert ready.weights_sha256() == uninterrupted and _reports(ready) == 10
    assert _all_gone(ready)


def test_bug_that_comes_twice_at_the_same_step_stops_the_training_and_names_both(ready: Workspace) -> None:
    ready.set(LONG | {"train.max_failures": 9})
    ready.plant("bug", 30, 1, times=9)
    result = ready.stage("train")
    assert result.returncode == 70
    line = one_line(result, "train")
    assert "twice at step 30" in line and "a planted bug" in line
    assert len(list((ready.root / "fault").iterdir())) == 7  # two tries, not ten


@pytest.mark.slow
def test_worker_that_fails_for_ever_uses_up_its_budget(ready: Workspace) -> None:
    ready.set(LONG | {"train.max_failures": 1})
    ready.plant("kill", 30, 1, times=9)
    result = ready.stage("train")
    assert result.returncode == 70
    assert len(list((ready.root / "fault").iterdir())) == 7
    assert one_line(result, "train")


@pytest.mark.slow
def test_hung_worker_is_found_and_replaced_within_two_minutes(ready: Workspace, uninterrupted: str) -> None:
    ready.set(LONG)
    ready.plant("stop", 213, 1)
    started = time.monotonic()
    result = ready.stage("train")
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - started < 120 + 60  # the time of the training itself
    assert ready.weights_sha256() == uninterrupted and _all_gone(ready)


def test_terminated_stage_leaves_a_checkpoint_and_nothing_running_and_another_configuration_is_refused(
    ready: Workspace, uninterrupted: str
) -> None:
    ready.set(LONG)
    process = ready.start("pipeline.train")
    ready.wait_for(".work/train.lock", process)
    second = ready.stage("train")  # beside the first, which takes longer to begin than this to end
    assert second.returncode == 75 and "already running" in one_line(second, "train")
    ready.wait_for(".work/train/checkpoints/step-*/MANIFEST.json", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(END_SECONDS) == 143
    assert _all_gone(ready)
    ready.set({"fit.learning_rate": 0.001})
    refused = ready.stage("train")
    assert refused.returncode == 78
    line = one_line(refused, "train")
    assert "fit.learning_rate: 0.003 before, 0.001 now" in line and "--fresh" in line
    ready.set({"fit.learning_rate": 0.003})
    result = ready.stage("train")
    assert result.returncode == 0, result.stderr
    assert ready.weights_sha256() == uninterrupted


TERMINATED = """
import os, signal, sys
from pipeline import stage
from pipeline.cluster import connected, load_profile
from pipeline.paths import Paths

def work():
    signal.signal(signal.SIGTERM, stage._on_sigterm)
    with connected(load_profile(Paths.here()), Paths.here(), 1):
        if sys.argv[1] == "while":
            os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)

sys.exit(stage.guarded("train", work, False))
"""


@pytest.mark.parametrize("when", ["while", "after"])
def test_stage_terminated_while_ray_is_there_but_trains_nothing_or_is_gone_says_so(ready: Workspace, when: str) -> None:
    result = ready.run(sys.executable, "-c", TERMINATED, when)
    assert result.returncode == 143 and "stopped by SIGTERM" in one_line(result, "train")
    assert _all_gone(ready)


def test_fresh_forgets_the_unfinished_training(ready: Workspace) -> None:
    ready.set({"train.total_images": 640})
    checkpoints = ready.root / ".work/train/checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "identity.json").write_text('{"fit": "another"}')
    (checkpoints / "step-00000003").mkdir()
    assert ready.stage("train").returncode == 78
    result = ready.stage("train", "--fresh")
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_killed_driver_leaves_nothing_running(ready: Workspace) -> None:
    ready.set(LONG)
    process = ready.start_training()
    process.kill()
    process.wait(END_SECONDS)
    assert _all_gone(ready), _left_running(ready)

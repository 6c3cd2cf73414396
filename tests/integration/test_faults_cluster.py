"""A cluster of three raylets on this machine, of which one that holds a worker is killed."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from raylets import cluster, end
from workspace import LONG, Workspace, free_port, one_line

END_SECONDS = 240
RAY = [str(Path(sys.executable).parent / "ray")]


def _raylet_with_a_worker(nodes: list[subprocess.Popen]) -> psutil.Process | None:
    """The raylet of a node (not of the head) whose children are training."""
    for node in nodes[1:]:
        for child in psutil.Process(node.pid).children(recursive=True):
            if child.name() == "raylet" and any(
                "RayTrainWorker" in " ".join(c.cmdline()) for c in child.children(recursive=True)
            ):
                return child
    return None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_raylet_is_replaced_by_the_spare_one_and_the_weights_are_the_same(
    ready: Workspace, uninterrupted: str, tmp_path: Path
) -> None:
    ready.set(LONG)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    folder = Path("/tmp") / f"ray-{os.getpid()}"  # sockets below it: a path may have 107 bytes
    folder.mkdir()
    with cluster(folder, token, 3) as (address, nodes):
        process = ready.start_training(**token, RAY_ADDRESS=address)
        raylet = _raylet_with_a_worker(nodes)
        assert raylet is not None
        raylet.kill()
        output, _ = process.communicate(timeout=END_SECONDS)
        assert process.returncode == 0, output
    assert ready.weights_sha256() == uninterrupted


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_node_that_will_be_taken_away_is_left_with_a_checkpoint_of_that_step(
    ready: Workspace, uninterrupted: str, tmp_path: Path
) -> None:
    ready.set(LONG | {"train.max_failures": 0})
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    folder = Path("/tmp") / f"ray-{os.getpid()}-d"
    folder.mkdir()
    with cluster(folder, token, 3) as (address, nodes):
        process = ready.start_training(**token, RAY_ADDRESS=address)
        raylet = _raylet_with_a_worker(nodes)
        assert raylet is not None
        node = next(word.partition("=")[2] for word in raylet.cmdline() if word.startswith("--node_id="))
        subprocess.run(
            [*RAY, "drain-node", "--address", address, "--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION",
             "--reason-message", "spot", "--deadline-remaining-seconds", "600"],
            env=os.environ | token, check=True, capture_output=True,
        )  # fmt: skip
        output, _ = process.communicate(timeout=END_SECONDS)
        assert process.returncode == 0, output
    assert "a node will be taken away: stopped after step" in output, output
    left = re.search(r"stopped after step (\d+) of 400", output)
    assert left and f"resumed at step {left[1]} of 400" in output, output
    assert ready.weights_sha256() == uninterrupted


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_lost_head_ends_the_command_which_goes_on_elsewhere(ready: Workspace, uninterrupted: str) -> None:
    ready.set(LONG)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    folder = Path("/tmp") / f"ray-{os.getpid()}-h"
    folder.mkdir()
    with cluster(folder, token, 3) as (address, nodes):
        process = ready.start_training(**token, RAY_ADDRESS=address)
        end(nodes[:1])
        output, _ = process.communicate(timeout=END_SECONDS)
        assert process.returncode in (69, 70), output
        assert "Traceback" not in output and output.count("train: error: ") == 1, output
    result = ready.stage("train")
    assert result.returncode == 0 and "resumed at step" in result.stderr, result.stderr
    assert ready.weights_sha256() == uninterrupted


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training_from_outside_through_rays_client_gives_the_same_weights(ready: Workspace, uninterrupted: str) -> None:
    ready.set(LONG)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    folder, port = Path("/tmp") / f"ray-{os.getpid()}-c", free_port()
    while 10002 <= port <= 19999:  # Ray's own workers'
        port = free_port()
    folder.mkdir()
    with cluster(folder, token, 2, client=port):
        result = ready.stage("train", **token, RAY_ADDRESS=f"ray://127.0.0.1:{port}")
    assert result.returncode == 0 and ready.weights_sha256() == uninterrupted, result.stderr


@pytest.mark.slow
def test_evaluation_on_a_clusters_workers_says_what_one_process_says(ready: Workspace) -> None:
    result = ready.stage("train")
    assert result.returncode == 0, result.stderr
    alone, together = ready.root / "alone", ready.root / "reports/evaluate"
    result = ready.stage("evaluate")
    assert result.returncode == 0 and "workers" not in result.stderr, result.stderr
    together.rename(alone)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    folder = Path("/tmp") / f"ray-{os.getpid()}-e"
    folder.mkdir()
    with cluster(folder, token, 2) as (address, _):
        result = ready.stage("evaluate", **token, RAY_ADDRESS=address)
        assert result.returncode == 0 and "on 2 workers" in result.stderr and "likelihood of" in result.stderr, result.stderr
        (ready.root / "models/vae/model.safetensors").write_bytes(b"damaged")
        damaged = ready.stage("evaluate", **token, RAY_ADDRESS=address)
    assert damaged.returncode == 65 and "model.safetensors" in one_line(damaged, "evaluate")
    assert sorted(path.name for path in alone.iterdir()) == sorted(path.name for path in together.iterdir())
    for path in alone.iterdir():
        assert path.read_bytes() == (together / path.name).read_bytes(), path.name

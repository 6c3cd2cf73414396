"""A cluster of three raylets on this machine, of which one that holds a worker is killed."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from workspace import LONG, Workspace, free_port

UP_SECONDS, END_SECONDS = 120, 240


@contextmanager
def _cluster(folder: Path, token: dict[str, str], nodes: int) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """The address and the processes (`ray start --block`, the head first) of raylets with one CPU each."""
    ray, port = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-cpus", "1"], free_port()
    environment = os.environ | token | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_multi_tenancy": "1"}
    processes = []
    try:
        for number in range(nodes):
            place = (
                [
                    "--head",
                    "--port",
                    str(port),
                    "--node-ip-address",
                    "127.0.0.1",
                    "--include-dashboard",
                    "false",
                    "--temp-dir",
                    str(folder),
                ]
                if number == 0
                else ["--address", f"127.0.0.1:{port}"]
            )
            log = (folder.parent / f"node-{number}.log").open("w")
            processes.append(subprocess.Popen([*ray, *place], env=environment, stdout=log, stderr=log, start_new_session=True))
            deadline = time.monotonic() + UP_SECONDS
            while "raylet" not in {child.name() for child in psutil.Process(processes[-1].pid).children(recursive=True)}:
                assert processes[-1].poll() is None, (folder.parent / f"node-{number}.log").read_text()
                assert time.monotonic() < deadline, "the raylet does not come up"
                time.sleep(0.2)
        yield f"127.0.0.1:{port}", processes
    finally:
        for process in reversed(processes):
            family = (
                [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                if process.poll() is None
                else []
            )
            for member in family:
                try:
                    member.kill()
                except psutil.Error:
                    continue
            process.wait(30)


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
    with _cluster(folder, token, 3) as (address, nodes):
        process = ready.start_training(**token, RAY_ADDRESS=address)
        raylet = _raylet_with_a_worker(nodes)
        assert raylet is not None
        raylet.kill()
        output, _ = process.communicate(timeout=END_SECONDS)
        assert process.returncode == 0, output
    assert ready.weights_sha256() == uninterrupted

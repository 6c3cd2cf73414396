"""A Ray cluster of several raylets on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from workspace import free_port

UP_SECONDS = 120
RAY_START = [str(Path(sys.executable).parent / "ray"), "start", "--block"]
# `ray start` gives its agents and workers the same ports everywhere; a second cluster on this machine would have neither (an agent
# whose port is taken lives on without a word and takes no jobs). With zero the system chooses.
OWN_PORTS = ["--dashboard-agent-listen-port", "0", "--min-worker-port", "0", "--max-worker-port", "0"]


def start(command: list[str], token: dict[str, str], log: Path) -> subprocess.Popen:
    """A node of Ray (`ray start --block`, however it is run), once its raylet is there."""
    environment = os.environ | token | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_multi_tenancy": "1"}
    with log.open("w") as sink:
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, start_new_session=True)
    deadline = time.monotonic() + UP_SECONDS
    while "raylet" not in {child.name() for child in psutil.Process(process.pid).children(recursive=True)}:
        assert process.poll() is None, log.read_text()
        if time.monotonic() >= deadline:
            end([process])
            raise AssertionError("the raylet does not come up")
        time.sleep(0.2)
    return process


def end(processes: Iterable[subprocess.Popen]) -> None:
    """End nodes with everything that they started."""
    for process in processes:
        family = []
        if process.poll() is None:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            try:
                member.kill()
            except psutil.Error:
                continue
        process.wait(30)


@contextmanager
def cluster(
    folder: Path, token: dict[str, str], nodes: int, dashboard: int = 0, client: int = 0
) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """The address and the processes (the head first) of raylets with one CPU each; ``dashboard``, ``client``: ports."""
    port = free_port()
    head = ["--head", "--port", str(port), "--node-ip-address", "127.0.0.1", "--temp-dir", str(folder)]
    head += ["--include-dashboard", "true" if dashboard else "false"]
    head += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)] if dashboard else []
    head += ["--ray-client-server-port", str(client or free_port())]
    processes: list[subprocess.Popen] = []
    try:
        for number in range(nodes):
            place = ["--address", f"127.0.0.1:{port}"] if number else head
            log = folder.parent / f"node-{number}.log"
            processes.append(start([*RAY_START, *OWN_PORTS, "--num-cpus", "1", *place], token, log))
        yield f"127.0.0.1:{port}", processes
    finally:
        end(reversed(processes))

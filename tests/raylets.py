"""A Ray cluster of several raylets on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from workspace import free_port

UP_SECONDS = 120


@contextmanager
def cluster(folder: Path, token: dict[str, str], nodes: int, dashboard: int = 0) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """The address and the processes (`ray start --block`, the head first) of raylets with one CPU each; ``dashboard``: its port."""
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
                    *(["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)] if dashboard else []),
                    "--include-dashboard",
                    "true" if dashboard else "false",
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

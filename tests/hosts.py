"""Two hosts with addresses of their own on this machine, and Ray on them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.hosts import Pair
from raylets import RAY_START, end, start

PORT = 6390


class Hosts(Pair):
    """Two hosts with Ray: the first has the head and two processors, the second has one."""

    def __init__(self, folder: Path, token: dict[str, str]) -> None:
        super().__init__()
        self._folder, self._token = folder, token
        self.rays: list[subprocess.Popen] = []

    @property
    def ray_address(self) -> str:
        return f"{self.addresses[0]}:{PORT}"

    def start_ray(self, hidden: Path | None = None) -> None:
        """Ray on both; the second one sees an empty folder where ``hidden`` is."""
        places = [
            ["--head", "--port", str(PORT), "--num-cpus", "2", "--include-dashboard", "false", "--temp-dir", str(self._folder)],
            ["--address", self.ray_address, "--num-cpus", "1"],
        ]
        for host, place in enumerate(places):
            command = [*RAY_START, "--node-ip-address", self.addresses[host], *place]
            if hidden and host == 1:
                command = ["sh", "-ec", 'mount -t tmpfs none "$0" && exec "$@"', str(hidden), *command]
            command = self.on(host, *command)
            self.rays.append(start(command, self._token, self._folder.parent / f"host-{host}-{os.getpid()}.log"))

    def workers(self) -> list[int]:
        """On which host each training worker is."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if "RayTrainWorker" in " ".join(process.info["cmdline"] or ()):
                namespace = os.stat(f"/proc/{process.pid}/ns/net").st_ino
                found += [i for i, name in enumerate(self.names) if os.stat(f"/run/netns/{name}").st_ino == namespace]
        return sorted(found)

    def end(self) -> None:
        end(self.rays)
        super().end()


@contextmanager
def two_hosts(folder: Path, token: dict[str, str], hidden: Path | None = None) -> Iterator[Hosts]:
    """Both with Ray, until the block ends."""
    hosts = Hosts(folder, token)
    try:
        hosts.join()
        hosts.start_ray(hidden)
        yield hosts
    finally:
        hosts.end()

"""Two hosts with addresses of their own on this machine: network namespaces joined by a cable that can be pulled."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from raylets import RAY_START, end, start

CABLE, PORT = "host0", 6390


def permitted() -> bool:
    """Whether this user may make network namespaces."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return False
    name = f"probe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return False
    return subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False).returncode == 0


class Hosts:
    """The names of both, their addresses, and Ray on them: the first has the head and two processors, the second has one."""

    def __init__(self, folder: Path, token: dict[str, str]) -> None:
        self.names = [f"v{letter}{os.getpid()}" for letter in "ab"]
        self.addresses, self._folder, self._token = ["10.77.0.1", "10.77.0.2"], folder, token
        self.rays: list[subprocess.Popen] = []

    @property
    def ray_address(self) -> str:
        return f"{self.addresses[0]}:{PORT}"

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def join(self) -> None:
        """Make both and lay the cable."""
        first, second = self.names
        for name in self.names:
            self._ip("netns", "add", name)
        self._ip("link", "add", CABLE, "netns", first, "type", "veth", "peer", "name", CABLE, "netns", second)
        for name, address in zip(self.names, self.addresses, strict=True):
            self._ip("-n", name, "addr", "add", f"{address}/24", "dev", CABLE)
            for device in ("lo", CABLE):
                self._ip("-n", name, "link", "set", device, "up")

    def cut(self) -> None:
        """Pull the cable."""
        self._ip("-n", self.names[1], "link", "set", CABLE, "down")

    def on(self, host: int, *command: str) -> list[str]:
        """The command, to be run on one of them."""
        return ["ip", "netns", "exec", self.names[host], *command]

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
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


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

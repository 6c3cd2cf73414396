"""Two hosts on this machine, with addresses and memory of their own: network namespaces joined by a cable that can be slow, or pulled."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

CABLE = "host0"
OWN_MEMORY = 'mount -t tmpfs none /dev/shm && exec "$@"'  # hosts share none: ranks of one machine add in it (vae/shared_sum.py)


def permitted() -> bool:
    """Whether this user may make network namespaces."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return False
    name = f"probe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return False
    return subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False).returncode == 0


class Pair:
    """The names of both and their addresses."""

    def __init__(self) -> None:
        self.names = [f"v{letter}{os.getpid()}" for letter in "ab"]
        self.addresses = ["10.77.0.1", "10.77.0.2"]

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

    def slow(self, megabits_per_second: float) -> None:
        """Let the cable carry no more than this, each way."""
        for host in (0, 1):
            shaped = ["tbf", "rate", f"{megabits_per_second:g}mbit", "burst", "32kb", "latency", "100ms"]
            subprocess.run(self.on(host, "tc", "qdisc", "replace", "dev", CABLE, "root", *shaped), check=True)

    def cut(self) -> None:
        """Pull the cable."""
        self._ip("-n", self.names[1], "link", "set", CABLE, "down")

    def on(self, host: int, *command: str) -> list[str]:
        """The command, to be run on one of them."""
        return ["ip", "netns", "exec", self.names[host], "sh", "-ec", OWN_MEMORY, "sh", *command]

    def end(self) -> None:
        """Take both away."""
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextmanager
def pair() -> Iterator[Pair]:
    """Both, joined, until the block ends."""
    hosts = Pair()
    try:
        hosts.join()
        yield hosts
    finally:
        hosts.end()

"""How much memory a process takes at most, followed from outside."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import psutil


def high_water_mib(pid: int | str) -> float:
    """VmHWM: the kernel's own mark of the largest resident memory of a process, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


class Peak:
    """The largest resident memory of a process, and of it and all that it starts (there shared pages count once)."""

    def __init__(self, pid: int) -> None:
        self.own_mib = self.tree_mib = 0.0
        self._process, self._done = psutil.Process(pid), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            total = 0
            for process in [self._process, *self._process.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            with contextlib.suppress(OSError, StopIteration):  # not what wait() says: that is inherited
                self.own_mib = max(self.own_mib, high_water_mib(self._process.pid))
            self.tree_mib = max(self.tree_mib, total / 2**20)

    def close(self) -> None:
        self._done.set()
        self._thread.join()

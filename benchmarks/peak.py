"""How much memory a process takes at most, followed from outside."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import psutil


class Peak:
    """The largest resident memory of a process, and of it and all that it starts (there shared pages count once)."""

    def __init__(self, pid: int) -> None:
        self.own_bytes = self.tree_bytes = 0
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
            with contextlib.suppress(OSError, StopIteration):  # the kernel's own mark, not what wait() says: that is inherited
                lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
                mark = next(line for line in lines if line.startswith("VmHWM"))
                self.own_bytes = max(self.own_bytes, 1024 * int(mark.split()[1]))
            self.tree_bytes = max(self.tree_bytes, total)

    def close(self) -> None:
        self._done.set()
        self._thread.join()

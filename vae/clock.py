"""How fast a training is, without what is not training."""

from __future__ import annotations

import time


class Clock:
    """Images per second of training alone: validation, checkpoints and reports stop the clock."""

    def __init__(self) -> None:
        self._images, self._seconds = 0, 0.0
        self._since: float | None = time.perf_counter()

    def add_images(self, count: int) -> None:
        self._images += count

    def pause(self) -> None:
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None

    def resume(self) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def images_per_second(self) -> float:
        """Since the last call, over all ranks."""
        speed = self._images / max(self._seconds, 1e-9)
        self._images, self._seconds = 0, 0.0
        return speed

"""Whether a rank is slower than the others: each is timed by work of its own, since at a step all wait for the slowest."""

from __future__ import annotations

import logging
import math
import socket
import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from vae.distributed import rank, world_size

SLOW = 1.5  # times the others' time that is worth a word
LEAST, LEAST_SECONDS, LAST = 3, 0.5, 64  # a rank is judged by so many times, and seconds in all, of the last ones
log = logging.getLogger(__name__)


class Pace:
    """Seconds that each rank takes for the same work, at its best of the last few times: chance only ever adds to them.

    What is slow is told once.
    """

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=LAST)
        self._told: set[int] = set()

    @contextmanager
    def timed(self, parts: float) -> Iterator[None]:
        """Within is work of ``parts`` parts of one size, at whose end the device has done it."""
        started = time.perf_counter()
        yield
        self._seconds.append((time.perf_counter() - started) / parts)

    def tell(self) -> None:
        """Log which ranks take longer than the others; all ranks call it."""
        own = min(self._seconds) if len(self._seconds) >= LEAST else math.nan
        if world_size() == 1:
            return
        every: list[tuple[float, float, str]] = [(math.nan, 0.0, "")] * world_size()
        dist.all_gather_object(every, (own, sum(self._seconds), socket.gethostname()))
        if rank() == 0:
            for number, times in slower([seconds for seconds, _, _ in every]).items():
                if number not in self._told and every[number][1] >= LEAST_SECONDS:
                    self._told.add(number)
                    log.warning(
                        "rank %d on %s takes %.1f times as long as the others for the same work, and every step waits for it",
                        number, every[number][2], times,
                    )  # fmt: skip


def slower(seconds: list[float]) -> dict[int, float]:
    """The ranks that take ``SLOW`` times as long as the median of the others, and how many times; NaN is a rank that had no work."""
    found = {}
    for number, own in enumerate(seconds):
        others = [each for place, each in enumerate(seconds) if place != number and not math.isnan(each)]
        if others and own > SLOW * statistics.median(others):
            found[number] = own / statistics.median(others)
    return found

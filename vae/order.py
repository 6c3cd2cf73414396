"""The order in which training sees images: an endless stream of epochs, each a permutation by (seed, epoch) alone.

A batch is a slice of the stream, so no batch is ever short, and a restart needs a number only. Where the images lie in more shards
than a machine should hold, they are shuffled in windows: each epoch shuffles the shards, and within a window of neighbours all
their images. Every number of ranks and machines sees the same stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def _permutation(count: int, *names: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([*names, 0x0DE5]))).permutation(count)


@lru_cache(maxsize=2)
def _epoch(count: int, seed: int, epoch: int) -> np.ndarray:
    return _permutation(count, seed, epoch)


def _slices(count: int, start: int, stop: int) -> list[tuple[int, int, int]]:
    """(epoch, from, to) of the stream's positions start..stop."""
    found = []
    while start < stop:
        epoch, place = divmod(start, count)
        take = min(stop - start, count - place)
        found.append((epoch, place, place + take))
        start += take
    return found


def stream_indices(count: int, seed: int, start: int, stop: int) -> np.ndarray:
    """Data set indices of the stream's positions start..stop for ``count`` images: a function of its arguments alone."""
    return np.concatenate([_epoch(count, seed, epoch)[a:b] for epoch, a, b in _slices(count, start, stop)])


class Windows:
    """The same of shards of ``lengths`` images, of which only neighbours with about ``among`` images are shuffled together."""

    def __init__(self, lengths: Sequence[int], seed: int, among: int) -> None:
        self._lengths, self._seed, self._among = np.asarray(lengths, np.int64), seed, among
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._count = int(self._lengths.sum())
        self._plan = lru_cache(2)(self._planned)
        self._window = lru_cache(3)(self._shuffled)

    def _planned(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The shards of each window of an epoch, and where each window ends in the stream of this epoch."""
        shards = _permutation(len(self._lengths), self._seed, epoch, 1)
        ends = np.cumsum(self._lengths[shards])
        number = (ends - self._lengths[shards]) // self._among  # the window in which each shard begins
        windows = np.split(shards, np.flatnonzero(np.diff(number)) + 1)
        return windows, np.cumsum([int(self._lengths[window].sum()) for window in windows])

    def _shuffled(self, epoch: int, number: int) -> np.ndarray:
        window = self._plan(epoch)[0][number]
        every = np.concatenate([np.arange(self._starts[shard], self._starts[shard] + self._lengths[shard]) for shard in window])
        return every[_permutation(len(every), self._seed, epoch, 2, number)]

    def indices(self, start: int, stop: int) -> np.ndarray:
        """Data set indices of the stream's positions start..stop, int64."""
        pieces = [np.zeros(0, np.int64)]
        for epoch, place, end in _slices(self._count, start, stop):
            ends = self._plan(epoch)[1]
            while place < end:
                number = int(np.searchsorted(ends, place, side="right"))
                first = int(ends[number - 1]) if number else 0
                take = min(end, int(ends[number]))
                pieces.append(self._window(epoch, number)[place - first : take - first])
                place = take
        return np.concatenate(pieces)

    def at(self, position: int) -> tuple[int, int]:
        """Epoch and number of the window that a position of the stream lies in."""
        epoch, place = divmod(position, self._count)
        return epoch, int(np.searchsorted(self._plan(epoch)[1], place, side="right"))

    def after(self, epoch: int, number: int) -> tuple[int, int]:
        """The next window."""
        return (epoch, number + 1) if number + 1 < len(self._plan(epoch)[0]) else (epoch + 1, 0)

    def shards(self, epoch: int, number: int) -> list[int]:
        """The shards of a window."""
        return self._plan(epoch)[0][number].tolist()

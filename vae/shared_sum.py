"""Gradients of processors of one machine, added in memory that they share instead of through its network.

DistributedDataParallel hands each bucket of gradients to a hook. Its own sends the bucket through the loopback, which takes a
fifth of a small network's step. Here each rank copies it into memory that all can read, and once all have done so each adds them in
the order of the ranks: the same bits on every rank, in every run, however the buckets are laid out. The virtual shards of level
elastic lie in such memory too.
"""

import contextlib
import itertools
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

# No annotations as text in this file: torch reads those of the hook.

MEMORY = Path("/dev/shm")  # Linux's files that are nothing but memory
MOST_BYTES = 2**28  # of it, for all ranks together
APART = 16  # numbers between the ranks' counters, so that no two lie in one line of a cache
NAP_SECONDS = 2e-5  # between two looks at the others' counters; the system makes it some more


def memory_bytes(parameter_bytes: int, rows: int) -> int:
    """How much is shared for so many rows of gradients, in two halves; 0 where that would be too much."""
    needed = 2 * rows * parameter_bytes
    return needed if needed <= MOST_BYTES else 0


class SharedRows:
    """Gradients that all ranks see, in two halves that are used in turn, and a meeting after which all have written theirs."""

    def __init__(self, memory: Tensor, rows: int, size: int) -> None:
        self._halves = itertools.cycle(memory[: 2 * rows * size].view(2, rows, size))
        self._came = memory[2 * rows * size :].view(torch.int32).view(-1, APART)[:, 0].numpy()
        self._count = 0

    def turn(self) -> Tensor:
        """The half (rows, elements) for the next pass; every pass has one meeting.

        That of the pass before may still be read by a rank that is not yet done with it. This one is read by nobody any more: whoever
        did has come to a meeting since then.
        """
        return next(self._halves)

    def meet(self) -> None:
        """Return when every rank has called this as often as this one; RuntimeError where one has died, or is silent for too long."""
        self._count += 1
        # Through the network as well, which nobody waits for but where a rank is missing: it takes milliseconds to wake up where every
        # processor computes, and it knows who has died.
        told = dist.all_reduce(torch.zeros(1), async_op=True)
        assert told is not None
        self._came[dist.get_rank()] = self._count
        while (self._came < self._count).any() and not told.is_completed():
            time.sleep(NAP_SECONDS)
        if told.is_completed():
            told.wait()


def shared_rows(rows: int, parameters: Sequence[Tensor]) -> SharedRows | None:
    """Zeros of so many rows of ``parameters``, or None where not all ranks are processors of one machine that has room for it.

    Every rank must call this. The memory loses its name as soon as all have it: it goes with the last rank, however that ends.
    """
    size = sum(p.numel() for p in parameters)
    fitting = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in parameters) and memory_bytes(4 * size, rows)
    length = 2 * rows * size + APART * dist.get_world_size()
    own = _reserved(4 * length) if fitting and dist.get_rank() == 0 else None
    try:
        path, memory = [own], None
        dist.broadcast_object_list(path, src=0)
        if fitting and path[0] is not None and os.path.exists(path[0]):  # it does not on another machine
            with contextlib.suppress(OSError, RuntimeError):
                memory = torch.from_file(path[0], shared=True, size=length, dtype=torch.float32)
        everywhere = torch.tensor(float(memory is not None))
        dist.all_reduce(everywhere, op=dist.ReduceOp.MIN)
    finally:  # a rank may have died meanwhile
        if own is not None:
            os.unlink(own)
    return SharedRows(memory, rows, size) if memory is not None and everywhere else None


class Buckets:
    """The buckets of a pass, in ``shared`` rows of which each rank has one."""

    def __init__(self, shared: SharedRows) -> None:
        self._shared, self._start = shared, 0
        self._put: list[tuple[torch.futures.Future[Tensor], Tensor, Tensor]] = []

    def put(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """Take one in turn, from the first to the last of a pass; with the last all become the sums of all ranks."""
        own, future = bucket.buffer(), torch.futures.Future[Tensor]()
        if bucket.index() == 0:
            self._rows, self._start = self._shared.turn(), 0
        rows = self._rows[:, self._start : self._start + len(own)]
        self._start += len(own)
        rows[dist.get_rank()].copy_(own)
        self._put.append((future, own, rows))
        if bucket.is_last():
            self._shared.meet()
            put, self._put = self._put, []
            for waiting, values, all_values in put:
                waiting.set_result(_sum(values, all_values))
        return future


def _sum(own: Tensor, rows: Tensor) -> Tensor:
    """The sum of all rows in their order, in ``own``, which is one of them."""
    if len(rows) == 2:
        return own.add_(rows[1 - dist.get_rank()])  # two summands have one order
    torch.add(rows[0], rows[1], out=own)
    for other in rows[2:]:
        own.add_(other)
    return own


def add(state: Buckets, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """A hook for DistributedDataParallel: the sum of all ranks' buckets (not their mean), in place of this rank's."""
    return state.put(bucket)


def _reserved(length_bytes: int) -> str | None:
    """The path of a new file of so many bytes in memory, for this user alone; None where there is no room for it."""
    path = MEMORY / f"vaeline-{secrets.token_hex(16)}"
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, length_bytes)  # a page that is missing later on would be a SIGBUS
        except OSError:
            os.unlink(path)
            return None
        finally:
            os.close(descriptor)
        return str(path)
    return None

"""Gradients of processors of one machine, added in memory that they share instead of through its network.

DistributedDataParallel hands each bucket of gradients to a hook. Its own sends the bucket through the loopback, which takes a
fifth of a small network's step. Here each rank copies it into memory that all can read, and each adds all of them in the order of
the ranks: the same bits on every rank, in every run, however the buckets are laid out. The virtual shards of level elastic lie in
such memory too.
"""

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

# No annotations as text in this file: torch reads those of the hook.

MEMORY = Path("/dev/shm")  # Linux's files that are nothing but memory
MOST_BYTES = 2**28  # of it, for all ranks together


def memory_bytes(parameter_bytes: int, rows: int) -> int:
    """How much is shared for so many rows of gradients, in two halves; 0 where that would be too much."""
    needed = 2 * rows * parameter_bytes
    return needed if needed <= MOST_BYTES else 0


def shared_halves(rows: int, parameters: Sequence[Tensor]) -> Tensor | None:
    """Zeros (2, rows, elements of ``parameters``) that all ranks see, or None where not all are processors of one machine with room for it.

    Every rank must call this. The memory loses its name as soon as all have it: it goes with the last rank, however that ends.
    """
    size = sum(p.numel() for p in parameters)
    fitting = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in parameters)
    length_bytes = memory_bytes(4 * size, rows) if fitting else 0
    path = [_reserved(length_bytes) if length_bytes and dist.get_rank() == 0 else None]
    dist.broadcast_object_list(path, src=0)
    memory = None
    if length_bytes and path[0] is not None and os.path.exists(path[0]):  # it does not on another machine
        with contextlib.suppress(OSError, RuntimeError):
            memory = torch.from_file(path[0], shared=True, size=length_bytes // 4, dtype=torch.float32)
    everywhere = torch.tensor(float(memory is not None))
    dist.all_reduce(everywhere, op=dist.ReduceOp.MIN)
    if dist.get_rank() == 0 and path[0] is not None:
        os.unlink(path[0])
    return memory.view(2, rows, size) if memory is not None and everywhere else None


class Buckets:
    """Where the ranks' buckets lie in ``shared_halves`` of a row for each rank."""

    def __init__(self, halves: Tensor) -> None:
        self._halves, self._half, self._start = halves, 0, 0

    def rows(self, bucket: dist.GradBucket) -> Tensor:
        """The memory (ranks, length) of this bucket; to be called for each in turn, from the first to the last of a pass."""
        if bucket.index() == 0:
            # The other half may still be read by a rank that is not yet done with the pass before. Nobody reads this one any more:
            # whoever did has come to a meeting of the pass before since then.
            self._half, self._start = 1 - self._half, 0
        start, self._start = self._start, self._start + len(bucket.buffer())
        return self._halves[self._half, :, start : self._start]


def add(state: Buckets, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """A hook for DistributedDataParallel: the mean of all ranks' buckets, in place of this rank's."""
    own, rows = bucket.buffer(), state.rows(bucket)
    rows[dist.get_rank()].copy_(own)

    def mean(_: object) -> Tensor:
        torch.add(rows[0], rows[1], out=own)
        for other in rows[2:]:
            own.add_(other)
        return own.div_(len(rows))

    # One number goes through the network: then all have written. A rank that has died is an error here, as it always was.
    met = dist.all_reduce(torch.zeros(1), async_op=True)
    assert met is not None
    return met.get_future().then(mean)


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

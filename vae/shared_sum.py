"""Gradients of processors of one machine, added in memory that they share instead of through its network.

DistributedDataParallel hands each bucket of gradients to a hook. Its own sends the bucket through the loopback, which takes a
fifth of a small network's step. Here each rank copies it into memory that all can read, and each adds all of them in the order of
the ranks: the same bits on every rank, in every run, however the buckets are laid out.
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


def memory_bytes(parameter_bytes: int, ranks: int) -> int:
    """How much is shared for so many bytes of parameters; 0 where it would be too much, and for one rank."""
    needed = 2 * ranks * parameter_bytes
    return needed if ranks > 1 and needed <= MOST_BYTES else 0


class SharedSum:
    """Memory for the gradients of all ranks: two halves, used in turn, each of (ranks, parameters)."""

    def __init__(self, memory: Tensor) -> None:
        self._memory, self._half, self._start = memory, 0, 0

    @classmethod
    def of(cls, parameters: Sequence[Tensor]) -> "SharedSum | None":
        """Such memory, or None where not all ranks are float32 on processors of one machine that has the room.

        Every rank must call this. The memory has lost its name when it returns: it goes with the last rank, however that ends.
        """
        size = sum(p.numel() for p in parameters)
        fitting = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in parameters)
        length_bytes = memory_bytes(4 * size, dist.get_world_size()) if fitting else 0
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
        return cls(memory.view(2, -1, size)) if memory is not None and everywhere else None

    def rows(self, bucket: dist.GradBucket) -> Tensor:
        """The memory (ranks, length) of this bucket; to be called for each in turn, from the first to the last of a pass."""
        if bucket.index() == 0:
            # The other half may still be read by a rank that is not yet done with the pass before. Nobody reads this one any more:
            # whoever did has come to a meeting of the pass before since then.
            self._half, self._start = 1 - self._half, 0
        start, self._start = self._start, self._start + len(bucket.buffer())
        return self._memory[self._half, :, start : self._start]


def add(state: SharedSum, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
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

"""How a global batch is divided over ranks and parts, and how the parts' gradients become one: the levels of exactness.

off, run: DistributedDataParallel as it is, on processors of one machine with the sums of vae/shared_sum.py. resume: where a network adds,
its buckets are laid out before the first step, so that a resumed run adds in the order of the uninterrupted one. elastic: the batch is
cut into virtual shards, each shard's gradient is computed alone, and all are added in the order of the shards: the same bits on every
number of ranks that the shards divide by.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vae.config import FitConfig
from vae.distributed import own_rows, world_size
from vae.models.base import Output
from vae.shared_sum import Buckets, add, shared_rows


def _cut(start: int, stop: int, pieces: int) -> list[slice]:
    """start..stop in ``pieces`` neighbours whose lengths differ by one at most."""
    edges = [start + (stop - start) * i // pieces for i in range(pieces + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def check_division(config: FitConfig, ranks: int = 0) -> None:
    """ValueError where this number of ranks (0: those that there are) cannot share the batches out evenly."""
    world, elastic = ranks or world_size(), config.exactness == "elastic"
    name, count = ("virtual_shards", config.virtual_shards) if elastic else ("global_batch_size", config.global_batch_size)
    if count % world:
        fitting = ", ".join(str(n) for n in range(1, min(count, 64) + 1) if count % n == 0)
        raise ValueError(
            f"fit.{name} {count} does not divide by {world} workers: change it, or the workers of the cluster profile to one of {fitting}"
        )


class Gradients:
    """This rank's parts of each global batch, and the gradient of the batch's mean loss on every rank, added in the ``order`` of those.

    For each of ``parts``: within ``part(number)`` call ``forward`` and ``backward``; then ``reduce`` once. Until it is
    ``rehearsed``, first one such pass of the last part, the same in every run, whose gradients nobody takes.
    """

    def __init__(self, model: nn.Module, config: FitConfig) -> None:
        check_division(config)
        self._count, self._elastic = config.global_batch_size, config.exactness == "elastic"
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        forward: Any = torch.compile(model) if config.compile else model
        self.order = "shards" if self._elastic else "ranks"  # two ranks have one order, whoever adds
        self._scale = 1 / self._count
        if self._elastic:
            shards = _cut(0, self._count, config.virtual_shards)
            self._own = own_rows(len(shards))
            self.parts = shards[self._own]
            self._shared = shared_rows(len(shards), self._parameters) if world_size() > 1 else None
            if self._shared is not None:
                self._every = self._shared.turn()
            else:
                size = sum(p.numel() for p in self._parameters)
                self._every = torch.zeros(len(shards), size, device=self._parameters[0].device)
        else:
            rows = own_rows(self._count)
            length = rows.stop - rows.start
            self.parts = _cut(rows.start, rows.stop, -(-length // (config.micro_batch_size or length)))
            if world_size() > 1:
                forward = DistributedDataParallel(forward, gradient_as_bucket_view=True)
                if (shared := shared_rows(world_size(), self._parameters)) is not None:
                    forward.register_comm_hook(Buckets(shared), add)
                else:
                    self._scale *= world_size()  # which it divides by
                    self.order = "network" if world_size() > 2 else "ranks"
        # DDP lays its buckets out anew once it has seen in which order gradients become ready, that is after the first pass, and a
        # network's sums depend on the buckets: a resumed run would add in another order.
        self.rehearsed = config.exactness != "resume" or self.order != "network"
        self.forward: Callable[..., Output] = forward

    @contextmanager
    def part(self, number: int) -> Iterator[slice]:
        """Around forward and backward of a part: yields its rows of the global batch."""
        last = number == len(self.parts) - 1
        shared = self.forward if isinstance(self.forward, DistributedDataParallel) else None
        with shared.no_sync() if shared is not None and not last else nullcontext():
            yield self.parts[number]
        if self._elastic:
            torch.cat([p.grad.flatten() for p in self._parameters if p.grad is not None], out=self._every[self._own][number])
            for p in self._parameters:
                p.grad = None

    def backward(self, loss_sum: Tensor) -> None:
        """Add the gradient of a loss that is summed over the images of the part; of one that is not finite, NaN.

        A loss may be infinite on one rank alone, and with finite gradients: this way every rank sees it in the sum.
        """
        (loss_sum * torch.where(loss_sum.detach().isfinite(), self._scale, math.nan)).backward()

    def reduce(self) -> None:
        """Make every parameter's ``grad`` that of the whole batch; the other levels have done so in ``backward``."""
        if not self._elastic:
            return
        every = self._every
        if self._shared is not None:
            self._shared.meet()
            self._every = self._shared.turn()
        elif world_size() > 1:
            dist.all_gather_into_tensor(every, every[self._own].clone())
        total = every[0].clone()
        for shard in every[1:]:
            total += shard
        for p, gradient in zip(self._parameters, total.split([p.numel() for p in self._parameters]), strict=True):
            p.grad = torch.empty_like(p).copy_(gradient.view(p.shape))

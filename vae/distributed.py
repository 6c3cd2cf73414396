"""The process group, if there is one: plain Python, torchrun and Ray Train look the same from here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Part = TypeVar("Part")
_sharing = False


def rank() -> int:
    """This process's number, 0 where there is no group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes, 1 where there is no group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def default_device() -> torch.device:
    """This process's accelerator, else the processor; Ray and torchrun set the current CUDA device before."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of ``values`` over all ranks, on every rank (a new tensor)."""
    total = values.clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether any rank says so, on every rank."""
    if world_size() == 1:
        return flag
    return bool(all_reduce_sum(torch.tensor(float(flag), device=device)) > 0)


def from_rank_zero(value: int, device: torch.device) -> int:
    """Rank 0's value, on every rank."""
    if world_size() == 1:
        return value
    shared = torch.tensor(value, device=device)
    dist.broadcast(shared, src=0)
    return int(shared)


def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Rank 0's values into these tensors, on every rank."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


@contextmanager
def sharing() -> Iterator[None]:
    """Within, ``shared`` work is divided among the ranks: all of them must come here, and to each such work, in the same order."""
    global _sharing
    before, _sharing = _sharing, True
    try:
        yield
    finally:
        _sharing = before


def shared(parts: Iterable[Part], compute: Callable[[Part], Tensor]) -> Tensor:
    """``compute`` of each part, joined along the rows in the order of the parts; on every rank, whichever computed it.

    Parts are the same however many ranks there are and nothing is summed, so the result does not depend on their number. What ranks
    have shared lies on the processor.
    """
    if not _sharing or world_size() == 1:
        return torch.cat([compute(part) for part in parts])
    own: dict[int, Tensor] = {}
    for number, part in enumerate(parts):
        if number % world_size() == rank():
            own[number] = compute(part).cpu()
    every: list[dict[int, Tensor]] = [{} for _ in range(world_size())]
    dist.all_gather_object(every, own)
    found = {number: tensor for some in every for number, tensor in some.items()}
    return torch.cat([found[number] for number in sorted(found)])


def own_rows(count: int) -> slice:
    """The rows of a global batch of ``count`` that belong to this rank; ``count`` divides by the world size."""
    per_rank = count // world_size()
    return slice(rank() * per_rank, (rank() + 1) * per_rank)

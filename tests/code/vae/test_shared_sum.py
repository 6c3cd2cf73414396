"""shared_sum: gradients added in memory that ranks share: the order of the sum, the two halves, and where it cannot be had."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ranks import side_by_side
from vae import shared_sum
from vae.shared_sum import Buckets, SharedRows, add, memory_bytes, shared_rows

SIZE, PASSES = 1000, 3
LIMIT_SECONDS = 30.0


class Bucket:
    """What DistributedDataParallel hands to a hook."""

    def __init__(self, values: torch.Tensor, number: int, of: int = 1) -> None:
        self._values, self._number, self._of = values, number, of

    def buffer(self) -> torch.Tensor:
        return self._values

    def index(self) -> int:
        return self._number

    def is_last(self) -> bool:
        return self._number == self._of - 1


def gradients(rank: int, number: int) -> torch.Tensor:
    """Of a pass; of numbers so different that their sum depends on the order."""
    generator = torch.Generator().manual_seed(100 * number + rank)
    return torch.randn(SIZE, generator=generator) * 10.0 ** torch.randint(-6, 6, (SIZE,), generator=generator)


def expected(ranks: int, number: int) -> torch.Tensor:
    total = gradients(0, number)
    for rank in range(1, ranks):
        total = total + gradients(rank, number)
    return total


def until(path: Path) -> None:
    limit = time.monotonic() + LIMIT_SECONDS
    while not path.exists():
        assert time.monotonic() < limit, path
        time.sleep(0.001)


def _passes(rank: int, ranks: int, memory: Buckets) -> bool:
    """Some passes of two buckets each: whether every sum has the bits of the sum in the order of the ranks."""
    right = True
    for number in range(PASSES):
        values = gradients(rank, number)
        parts = [values[:300].clone(), values[300:].clone()]
        futures = [add(memory, Bucket(part, i, 2)) for i, part in enumerate(parts)]  # type: ignore[arg-type]
        for future in futures:
            future.wait()
        right &= torch.equal(torch.cat(parts), expected(ranks, number))
    return right


def _late(rank: int, ranks: int, shared: SharedRows, memory: Buckets, root: Path) -> bool:
    """The last rank adds up the first pass only when rank 0 has written its gradients of the second."""
    written, meets, summing, met = root / f"written-{ranks}", [], shared_sum._sum, shared.meet

    def meet() -> None:
        meets.append(1)
        if len(meets) == 2:
            written.touch()
        met()

    first, second = gradients(rank, 0), gradients(rank, 1)
    with pytest.MonkeyPatch.context() as patch:
        if rank == 0:
            patch.setattr(shared, "meet", meet)
        if rank == ranks - 1:
            patch.setattr(shared_sum, "_sum", lambda *values: (until(written), summing(*values))[1])
        for values in (first, second):
            add(memory, Bucket(values, 0)).wait()  # type: ignore[arg-type]
    return torch.equal(first, expected(ranks, 0)) and torch.equal(second, expected(ranks, 1))


def _wrapped(rank: int) -> dict[str, Any]:
    """A module under DistributedDataParallel with the hook."""
    model = nn.Linear(3, 2)
    shared = DistributedDataParallel(model, gradient_as_bucket_view=True)
    rows = shared_rows(dist.get_world_size(), list(model.parameters()))
    assert rows is not None
    shared.register_comm_hook(Buckets(rows), add)
    shared(torch.full((1, 3), float(rank + 1))).sum().backward()
    return {"weight": model.weight.grad.tolist(), "bias": model.bias.grad.tolist()}


def _worker(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    root = Path(folder)
    shared_sum.MEMORY = root / "memory"  # of this test alone: any folder's files can be shared, these are on a disk
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{ranks}", rank=rank, world_size=ranks)
    parameters = [nn.Parameter(torch.zeros(SIZE))]
    rows = shared_rows(ranks, parameters)
    assert rows is not None
    memory = Buckets(rows)
    dist.barrier()
    found: dict[str, Any] = {"nameless": not any(shared_sum.MEMORY.iterdir())}
    found |= {"passes": _passes(rank, ranks, memory), "late": _late(rank, ranks, rows, memory, root), "wrapped": _wrapped(rank)}
    with pytest.MonkeyPatch.context() as patch:  # what one rank alone cannot have, none has
        exists = shared_sum.os.path.exists
        patch.setattr(shared_sum.os.path, "exists", lambda path: rank != ranks - 1 and exists(path))
        found["elsewhere"] = shared_rows(ranks, parameters) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_sum, "MEMORY", root / "nowhere")
        found["no such place"] = shared_rows(ranks, parameters) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_sum.os, "posix_fallocate", _full)
        found["no room"] = shared_rows(ranks, parameters) is None
    found["double"] = shared_rows(ranks, [nn.Parameter(torch.zeros(SIZE, dtype=torch.float64))]) is None
    dist.barrier()
    found["left"] = [path.name for path in shared_sum.MEMORY.iterdir()]
    (root / f"found-{ranks}-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def _full(*_: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.fixture(scope="module", params=[2, 3, 4])
def found(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    root, ranks = tmp_path_factory.mktemp("shared"), request.param
    (root / "memory").mkdir()
    side_by_side(_worker, ranks, str(root))
    return [json.loads((root / f"found-{ranks}-{rank}.json").read_text()) for rank in range(ranks)]


def test_the_order_of_the_numbers_matters_here() -> None:
    backwards = (gradients(2, 0) + gradients(1, 0) + gradients(0, 0)) / 3
    assert not torch.equal(expected(3, 0), backwards)


def test_sums_have_the_bits_of_the_order_of_the_ranks(found: list[dict[str, Any]]) -> None:
    assert all(each["passes"] for each in found)


def test_rank_that_is_late_still_finds_what_it_has_to_add(found: list[dict[str, Any]]) -> None:
    assert all(each["late"] for each in found)


def test_hook_gives_the_sum_of_the_ranks_gradients(found: list[dict[str, Any]]) -> None:
    total = sum(range(1, len(found) + 1))
    for each in found:
        assert each["wrapped"] == {"weight": [[total] * 3] * 2, "bias": [len(found)] * 2}


def test_what_one_rank_cannot_have_none_has(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert each["elsewhere"] and each["no such place"] and each["no room"] and each["double"]


def test_memory_has_no_name_while_it_is_used_and_nothing_is_left(found: list[dict[str, Any]]) -> None:
    assert all(each["nameless"] and each["left"] == [] for each in found)


def test_memory_is_two_halves_for_all_ranks_unless_that_is_too_much() -> None:
    assert memory_bytes(1000, 3) == 6000
    assert memory_bytes(shared_sum.MOST_BYTES, 1) == 0

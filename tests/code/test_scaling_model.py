"""The model of benchmarks/scaling_model.py against cases that have a formula."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.scaling_model import (
    BUCKET,
    FIRST_BUCKET,
    Cluster,
    Compute,
    Link,
    all_reduce_s,
    buckets,
    fitted_compute,
    fitted_link,
    simulate,
)

FREE = Link(0.0, math.inf)
CALM = Compute(0.002, 0.001, 0.0)
READY = [(0.5, 1_000_000), (1.0, 3_000_000)]


def test_one_worker_computes_and_that_is_all() -> None:
    step = simulate(CALM, READY, 10, 100, 1, Cluster(8, Link(1, 1), Link(1, 1)))
    assert step.seconds == pytest.approx(0.012) and step.reduce_s == step.waiting_s == step.input_s == 0


def test_reduction_that_costs_nothing_costs_nothing() -> None:
    assert simulate(CALM, READY, 10, 100, 64, Cluster(8, FREE, FREE)).seconds == pytest.approx(0.012)


@pytest.mark.parametrize(("overlap", "expected"), [(False, 0.012 + 0.004), (True, 0.012 + 0.003)])
def test_reduction_is_hidden_behind_the_backward_pass_or_is_not(overlap: bool, expected: float) -> None:
    link = Link(0.0, 1e9)  # two peers: each byte once, so 1 ms and 3 ms; the first hides, the second begins when all is computed
    assert simulate(CALM, READY, 10, 100, 2, Cluster(1, link, link, overlap=overlap)).seconds == pytest.approx(expected)


def test_last_bucket_waits_for_those_before_it() -> None:
    link = Link(0.0, 1e8)  # 10 ms and 30 ms, from 8 ms on
    step = simulate(CALM, READY, 10, 100, 2, Cluster(1, link, link))
    assert step.seconds == pytest.approx(0.002 + 0.010 - 0.012 * 2 / 3 / 2 + 0.040) and step.first == "all-reduce"


def test_slowest_of_many_grows_as_the_normal_maximum_does() -> None:
    waits = [simulate(Compute(1, 0, 0.01), [(1.0, 0)], 1, 0, n, Cluster(8, FREE, FREE), 2000).waiting_s for n in (2, 64, 512)]
    for wait, deviations in zip(waits, (0.54, 2.36, 3.04), strict=True):  # medians of the largest of 2, 64, 512 normals
        assert wait == pytest.approx(0.01 * deviations, rel=0.08)


def test_storage_that_all_share_is_the_limit() -> None:
    step = simulate(CALM, READY, 10, 1000, 64, Cluster(8, FREE, FREE, storage_bytes_per_s=1e7))
    assert step.seconds == pytest.approx(64 * 10 * 1000 / 1e7) and step.first == "input"


def test_ring_where_bytes_count_and_tree_where_latency_does() -> None:
    cluster = Cluster(8, Link(1e-6, 1e9), Link(1e-5, 1e8))
    assert all_reduce_s(8e9, 8, cluster) == pytest.approx(14e-6 + 14)
    assert all_reduce_s(8, 8, cluster) == pytest.approx(6e-6, rel=0.01)
    assert all_reduce_s(8e9, 64, cluster) == pytest.approx(
        14 + 2 * 7 / 8 * 10, rel=1e-3
    )  # an eighth of the bytes between eight nodes


def test_fits_find_what_was_planted() -> None:
    compute = fitted_compute({n: 0.003 + n * 0.0002 for n in (8, 16, 64)}, 0.1)
    assert (compute.fixed_s, compute.per_image_s) == pytest.approx((0.003, 0.0002))
    link = fitted_link({n: 2e-4 + n / 5e7 for n in (4096, 2**20, 2**24)})
    assert (link.latency_s, link.bytes_per_s) == pytest.approx((1e-4, 5e7))


def test_buckets_are_those_of_distributed_data_parallel(tmp_path) -> None:
    layers = [torch.nn.Linear(n, m) for n, m in ((700, 900), (900, 3000), (3000, 2500), (2500, 300), (300, 10))]
    model = torch.nn.Sequential(*layers)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        shared = DistributedDataParallel(model)
        for _ in range(3):  # after the first step buckets are made anew, in the order in which gradients came
            shared(torch.ones(1, 700)).sum().backward()
        sizes = shared._get_ddp_logging_data()["rebuilt_bucket_sizes"]
    finally:
        dist.destroy_process_group()
    ours = buckets([p.numel() * 4 for p in model.parameters()])
    assert ", ".join(str(size) for _, size in ours) == sizes
    assert [share for share, _ in ours] == sorted(share for share, _ in ours) and ours[-1][0] == 1.0
    assert ours[0][1] >= FIRST_BUCKET and all(size >= BUCKET for _, size in ours[1:-1])

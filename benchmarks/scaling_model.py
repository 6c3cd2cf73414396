"""How long a training step takes on many workers: compute, all-reduce and input, told from a few measured or stated numbers.

One step on N workers, each with b images: every worker computes ``fixed + b * per_image`` seconds, times a chance of its own; a third
of what grows with b is the forward pass, the rest the backward pass, in which DistributedDataParallel's buckets become ready one by
one and are reduced one after the other while the rest is computed. The step ends when the slowest worker has computed and the last
bucket has been reduced, or when the images of the next one have come. Times of collectives are the alpha-beta model of Thakur,
Rabenseifner and Gropp (2005), section 4: a ring within a node, and between nodes a ring or a tree, whichever is shorter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

FORWARD = 1 / 3  # of a step's arithmetic: the backward pass has two products for each one of the forward pass
FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20  # bytes: DistributedDataParallel's


@dataclass(frozen=True)
class Link:
    """A message of n bytes takes ``latency_s + n / bytes_per_s``."""

    latency_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Compute:
    """Seconds of a step on one worker, without the others, and their relative standard deviation from step to step."""

    fixed_s: float
    per_image_s: float
    jitter: float


@dataclass(frozen=True)
class Cluster:
    """Nodes of ``per_node`` workers; a node's images come with ``input_bytes_per_s``, and all of them with ``storage_bytes_per_s``.

    ``overlap``: a worker computes while it reduces. One whose only processor does both does not.
    """

    per_node: int
    inside: Link
    between: Link
    input_bytes_per_s: float = math.inf
    storage_bytes_per_s: float = math.inf
    overlap: bool = True


@dataclass(frozen=True)
class Step:
    """Median seconds of a step, and of what it is made of: what is not hidden behind computing."""

    seconds: float
    compute_s: float
    waiting_s: float  # for the slowest worker
    reduce_s: float
    input_s: float

    @property
    def first(self) -> str:
        """What costs the most beside computing."""
        each = {"slowest worker": self.waiting_s, "all-reduce": self.reduce_s, "input": self.input_s}
        return max(each, key=lambda name: each[name])


def buckets(sizes: list[int]) -> list[tuple[float, int]]:
    """For parameters of ``sizes`` bytes, in the order of the forward pass: when each bucket is ready, as a share of the backward
    pass (by bytes), and its bytes."""
    found: list[tuple[float, int]] = []
    total, done, filling = sum(sizes), 0, 0
    for size in reversed(sizes):
        filling += size
        done += size
        if filling >= (BUCKET if found else FIRST_BUCKET) or done == total:
            found.append((done / total, filling))
            filling = 0
    return found


def _among(count: int, size: float, link: Link) -> float:
    """A reduction and a spreading of ``size`` bytes among ``count`` peers: ring or tree."""
    if count == 1:
        return 0.0
    ring = 2 * (count - 1) * link.latency_s + 2 * (count - 1) / count * size / link.bytes_per_s
    tree = 2 * math.ceil(math.log2(count)) * link.latency_s + 2 * size / link.bytes_per_s
    return min(ring, tree)


def all_reduce_s(size: float, workers: int, cluster: Cluster) -> float:
    """Seconds of the sum of ``size`` bytes over all workers: within each node, then each worker's part between the nodes."""
    inside = min(workers, cluster.per_node)
    nodes = math.ceil(workers / cluster.per_node)
    return _among(inside, size, cluster.inside) + _among(nodes, size / inside, cluster.between)


def simulate(
    compute: Compute, ready: list[tuple[float, int]], images: int, image_bytes: int, workers: int, cluster: Cluster,
    steps: int = 200, seed: int = 0,
) -> Step:  # fmt: skip
    """Medians over ``steps`` steps in which each worker is as slow as chance has it."""
    rng = np.random.default_rng(seed)
    sigma = math.sqrt(math.log1p(compute.jitter**2))
    own = compute.fixed_s + images * compute.per_image_s
    reduced = [(share, all_reduce_s(size, workers, cluster)) for share, size in ready] if workers > 1 else []
    nodes = math.ceil(workers / cluster.per_node)
    node_bytes = images * image_bytes * min(workers, cluster.per_node)
    input_s = max(node_bytes / cluster.input_bytes_per_s, nodes * node_bytes / cluster.storage_bytes_per_s)
    found = []
    for _ in range(steps):
        chance = rng.lognormal(-(sigma**2) / 2, sigma, workers)
        slowest = own * float(chance.max())
        backward = slowest * (1 - FORWARD)
        end = 0.0
        for share, seconds in reduced:
            from_here = slowest - backward + share * backward if cluster.overlap else slowest
            end = max(end, from_here) + seconds
        computed = max(slowest, end)
        found.append((max(computed, input_s), own * float(chance[0]), slowest, computed))
    seconds, alone, slowest, computed = (float(each) for each in np.median(np.array(found), axis=0))
    return Step(seconds, alone, slowest - alone, computed - slowest, seconds - computed)


def fitted_compute(measured: dict[int, float], jitter: float) -> Compute:
    """The line through seconds of a step by the number of its images, by least squares of relative errors."""
    images, seconds = np.array(list(measured), float), np.array(list(measured.values()))
    fixed, slope = np.linalg.lstsq(np.stack([1 / seconds, images / seconds], 1), np.ones(len(images)), rcond=None)[0]
    return Compute(max(0.0, float(fixed)), float(slope), jitter)


def fitted_link(measured: dict[int, float]) -> Link:
    """The link between two peers whose all-reduce of so many bytes takes so many seconds: 2 latencies and once the bytes."""
    sizes, seconds = np.array(list(measured), float), np.array(list(measured.values()))
    latencies, slope = np.linalg.lstsq(np.stack([1 / seconds, sizes / seconds], 1), np.ones(len(sizes)), rcond=None)[0]
    return Link(max(0.0, float(latencies)) / 2, 1 / float(slope))

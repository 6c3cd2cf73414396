"""How training scales over machines: ``python -m benchmarks.scaling [rows]`` writes docs/results/scaling.json and scaling.png.

compute: a step of either network by the number of its images, in two processes that do not know of each other. links: an all-reduce
between two hosts (network namespaces on this machine) over a cable of several speeds. two-hosts: trainings across both, and what
the model of benchmarks/scaling_model.py says of them from the first two alone. prediction: what it says of clusters of GPUs, from the
numbers stated here, which nobody has measured for this. Needs the right to make network namespaces.
"""

from __future__ import annotations

import json
import math
import socket
import statistics
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import tables
from benchmarks.case import NETWORKS, Case, prepare
from benchmarks.hosts import CABLE, Pair, pair
from benchmarks.rows import RESULTS, ROOT, measure, result
from benchmarks.scaling_model import Cluster, Compute, Link, Step, buckets, fitted_compute, fitted_link, simulate
from vae.config import ModelConfig
from vae.models import build

IMAGES = (16, 32, 64, 128)  # of a worker at a step
MEGABITS = (0, 1000, 200, 50)  # per second; 0: as fast as the cable is
HERE = 64
DATA = "mnist"
WORKERS = (1, 8, 64, 512)
# NVIDIA's data sheet of the H100 SXM: 989 teraFLOPS of dense bfloat16, 900 GB/s of NVLink both ways together; a 400 Gb/s card for
# each GPU. The rest is what one would plan with: a third of the peak, 4 ms of launches, 2 % from step to step, latencies of
# collectives, a storage of 20 GB/s that all share.
PEAK_FLOPS, SHARE_OF_PEAK, FIXED_S, JITTER = 989e12, 0.35, 0.004, 0.02
GPUS = Cluster(8, Link(6e-6, 450e9), Link(15e-6, 50e9), input_bytes_per_s=20e9, storage_bytes_per_s=20e9)
CACHED = replace(GPUS, storage_bytes_per_s=math.inf)
SIZES: dict[str, tuple[dict[str, Any], int]] = {
    "small: conv, 32 pixels": ({"name": "conv", "widths": (32, 64, 128, 256), "side": 32}, 256),
    "middle: resnet, 64 pixels": ({"name": "resnet", "widths": (128, 256, 512), "side": 64, "blocks": 3}, 64),
    "large: resnet, 256 pixels": ({"name": "resnet", "widths": (128, 256, 512, 512, 1024), "side": 256, "blocks": 4}, 16),
}


def _case(network: str, images: int) -> Case:
    return Case(network, DATA, 1, batch_size=images)


def _answers(commands: list[list[str]]) -> list[Any]:
    """What these processes, run at the same time, say."""
    started = [
        subprocess.Popen(each, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for each in commands
    ]
    told = [process.communicate(timeout=600)[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"{[process.returncode for process in started]} from {commands}")
    return [json.loads(each) for each in told]


def _rank(what: str, case: Case) -> list[str]:
    return [sys.executable, "-m", "benchmarks.scaling_rank", what, json.dumps(case.to_dict())]


def compute(work: Path) -> dict[str, Any]:
    """Medians and spread of steps, and the line through them."""
    prepare(DATA)
    found = {}
    for network in NETWORKS:
        every = {n: [s for each in _answers([_rank("steps", _case(network, n))] * 2) for s in each] for n in IMAGES}
        medians = {n: statistics.median(seconds) for n, seconds in every.items()}
        relative = sorted(s / medians[n] for n, seconds in every.items() for s in seconds)
        jitter = (relative[round(0.84 * len(relative))] - relative[round(0.16 * len(relative))]) / 2
        fitted = fitted_compute(medians, jitter)
        off = max(abs((fitted.fixed_s + n * fitted.per_image_s) / seconds - 1) for n, seconds in medians.items())
        found[network] = {
            "seconds": {str(n): round(s, 6) for n, s in medians.items()},
            "fitted": asdict(fitted),
            "worst_error": round(off, 4),
        }
    return found


def _across(hosts: Pair, what: str, case: Case) -> list[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    named = ["env", f"GLOO_SOCKET_IFNAME={CABLE}"]
    return _answers([
        hosts.on(host, *named, *_rank(what, case), f"{hosts.addresses[0]}:{port}", str(host)) for host in (0, 1)
    ])  # fmt: skip


def links(work: Path) -> dict[str, Any]:
    """The all-reduce over each cable, and the latency and bandwidth that explain it."""
    found = {}
    for megabits in MEGABITS:
        with pair() as hosts:
            if megabits:
                hosts.slow(megabits)
            told = {int(size): seconds for size, seconds in _across(hosts, "reductions", _case("narrow", HERE))[0].items()}
        fitted = fitted_link(told)
        off = max(abs((2 * fitted.latency_s + size / fitted.bytes_per_s) / seconds - 1) for size, seconds in told.items())
        found[str(megabits)] = {
            "seconds": {str(n): round(s, 6) for n, s in told.items()},
            "fitted": asdict(fitted),
            "worst_error": round(off, 3),
        }
    return found


def two_hosts(work: Path) -> dict[str, Any]:
    """Seconds of a step across both hosts, measured and foretold."""
    prepare(DATA)
    known, found = json.loads(result("scaling").read_text()), {}
    for network in NETWORKS:
        case = _case(network, 2 * HERE)
        ready = buckets([p.numel() * 4 for p in build(case.model_config()).parameters()])
        alone = Compute(**known["compute"][network]["fitted"])
        for megabits in MEGABITS:
            with pair() as hosts:
                if megabits:
                    hosts.slow(megabits)
                speeds = [1 / seconds for seconds in _across(hosts, "train", case)]
            link = Link(**known["links"][str(megabits)]["fitted"])
            told = simulate(
                alone, ready, HERE, math.prod(case.model_config().image_shape), 2, Cluster(1, link, link, overlap=False)
            )
            seconds = 1 / statistics.mean(speeds)
            found[f"{network}, {megabits}"] = {
                "measured_s": round(seconds, 5),
                "foretold": {name: round(value, 5) for name, value in asdict(told).items()},
                "error": round(told.seconds / seconds - 1, 3),
            }
    return found


def described(what: dict[str, Any]) -> ModelConfig:
    """A model of which only names and sizes are said."""
    side = what["side"]
    return ModelConfig(
        name=what["name"], widths=what["widths"], image_shape=(side, side, 3), latent_dim=128, hidden_units=512,
        blocks=what.get("blocks", 1), stochastic_layers=2, codes=2, sigma=0.1, likelihood="logistic",
    )  # fmt: skip


def size_of(what: dict[str, Any]) -> tuple[list[int], float]:
    """Bytes of each parameter, and floating-point operations of a training step for each image (three forward passes)."""
    config = described(what)
    with torch.device("meta"):
        model = build(config)
        x_NCHW, noise_ND = torch.empty(1, 3, *config.image_shape[:2]), torch.empty(1, model.latent_dim)
    with FlopCounterMode(display=False) as counter:
        model(x_NCHW, noise_ND, None)
    return [p.numel() * 4 for p in model.parameters()], 3.0 * counter.get_total_flops()


def foretold(what: dict[str, Any], images: int, workers: int, cluster: Cluster = GPUS, **compute: float) -> Step:
    """A step on so many GPUs."""
    sizes, flops = size_of(what)
    alone = replace(Compute(FIXED_S, flops / (PEAK_FLOPS * SHARE_OF_PEAK), JITTER), **compute)
    return simulate(alone, buckets(sizes), images, math.prod(described(what).image_shape), workers, cluster)


def prediction(work: Path) -> dict[str, Any]:
    """Each model on 1 to 512 GPUs, and at 512 what each setting would move."""
    found: dict[str, Any] = {}
    for name, (what, images) in SIZES.items():
        sizes, flops = size_of(what)
        weak = {workers: foretold(what, images, workers) for workers in WORKERS}
        shares = {workers: max(1, images * 8 // workers) for workers in WORKERS if workers >= 8}
        fewer = {n: n * each / foretold(what, each, n).seconds for n, each in shares.items()}  # images/s
        slow = replace(CACHED, between=Link(GPUS.between.latency_s, GPUS.between.bytes_per_s / 2))
        moved = {
            "one storage for all": weak[512],
            "a cache on each node": foretold(what, images, 512, CACHED),
            "and half the network": foretold(what, images, 512, slow),
            "and half the launches (compile)": foretold(what, images, 512, CACHED, fixed_s=FIXED_S / 2),
            "and no spread between workers": foretold(what, images, 512, CACHED, jitter=0.0),
            "and four times the images": foretold(what, 4 * images, 512, CACHED),
        }
        best = {"and four times the images": 4 * images}
        found[name] = {
            "parameters": sum(sizes) // 4, "gflop_per_image": round(flops / 1e9, 2), "images_per_gpu": images,
            "weak": {str(n): {**asdict(s), "first": s.first, "images_per_second": n * images / s.seconds,
                              "efficiency": weak[1].seconds / s.seconds} for n, s in weak.items()},
            "strong": {str(n): {"images_per_gpu": shares[n], "images_per_second": speed,
                                "efficiency": speed / n / (fewer[8] / 8)} for n, speed in fewer.items()},
            "at_512_images_per_second": {k: 512 * best.get(k, images) / s.seconds for k, s in moved.items()},
        }  # fmt: skip
    _draw(found)
    return found


def _draw(found: dict[str, Any]) -> None:
    """Efficiency by the number of GPUs, of each model."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    counts = [2**n for n in range(10)]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for number, (name, (what, images)) in enumerate(SIZES.items()):
        one = foretold(what, images, 1).seconds
        for cluster, style, told in ((GPUS, "-o", f"{name}, {images} a GPU"), (CACHED, "--", None)):
            shares = [100 * one / foretold(what, images, n, cluster).seconds for n in counts]
            axes.plot(counts, shares, style, color=f"C{number}", label=told)
    axes.plot([], [], "--", color="grey", label="with a cache of shards on each node")
    axes.set(xscale="log", xlabel="GPUs", ylabel="efficiency, % of one GPU", ylim=(0, 105), xticks=counts)
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(RESULTS / "scaling.png", dpi=110)


if __name__ == "__main__":
    measure("scaling", {"compute": compute, "links": links, "two-hosts": two_hosts, "prediction": prediction}, str(__doc__))
    tables.write()

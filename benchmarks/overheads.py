"""What training costs beside the steps, and what it needs: rows of benchmarks/train.py.

overhead: a checkpoint, as a share of an epoch of 60,000 images; the exactness ``resume`` against ``off`` on three ranks;
a report to the spool, as a share of the 20,000 images between two reports. start: seconds from the command to the end of the
first step, also of stage train as a whole (benchmarks/stage_start.py).
memory: peak resident memory of each worker on 60,000 and on 600,000 images in shards.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.case import NETWORKS, SIDE, Case
from benchmarks.contenders import timed_fit
from benchmarks.grouped import job_of, profile_of
from benchmarks.peak import high_water_mib
from benchmarks.rows import ROOT
from benchmarks.stage_start import first_step_seconds, prepared
from pipeline.cluster import connected
from pipeline.group import run_group
from pipeline.paths import Paths
from pipeline.spool import SpoolWriter
from vae.data import ShardWriter
from vae.run import STOP_POLL_STEPS

ROUNDS = 5
EPOCH_IMAGES, REPORT_IMAGES = 60_000, 20_000
CHECKPOINT_STEPS = STOP_POLL_STEPS
MANY_IMAGES = 64_000  # seen by each training whose memory is measured: the pages of a large set come and go
FAST = {"narrow": {}, "wide": {"precision": "bfloat16"}}


def _fresh(which: str, case: Case, **rest: Any) -> subprocess.Popen[str]:
    """A process of its own for one measurement of benchmarks/grouped.py; it prints one line."""
    arguments = json.dumps({name: str(value) if isinstance(value, Path) else value for name, value in rest.items()})
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.grouped", which, json.dumps(case.to_dict()), arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"{process.args} ended with {process.wait()} and no answer")
    return line


def _checkpoints(network: str, threads: int, work: Path) -> dict[str, float]:
    """Trainings with a checkpoint at each eighth step against trainings without any."""
    case, seconds, speeds = Case(network, "cifar10", threads, **FAST[network]), [], []
    images = case.steps * case.batch_size
    every = {"checkpoint_every_images": CHECKPOINT_STEPS * case.batch_size}
    runs: dict[str, Callable[[Path], float]] = {
        "without": lambda _: timed_fit(case),
        "with": lambda place: timed_fit(case, place, **every),
    }
    timed_fit(case)  # the first one finds everything cold
    for number in range(ROUNDS):
        place = work / f"checkpoints-{network}-{threads}-{number}"
        speed = {name: runs[name](place) for name in list(runs)[:: 1 if number % 2 == 0 else -1]}
        speeds.append(speed["without"])
        seconds.append((images / speed["with"] - images / speed["without"]) / (case.steps / CHECKPOINT_STEPS))
    each, speed = statistics.median(seconds), statistics.median(speeds)
    return {
        "seconds_each": round(each, 4),
        "images_per_second": round(speed, 1),
        "share_of_epoch": round(each * speed / EPOCH_IMAGES, 5),
    }


def _spool(work: Path) -> dict[str, float]:
    """The time in ``append`` while the faster network trains and reports at each eighth step."""
    case, seconds = Case("narrow", "cifar10", 1), []
    writer = SpoolWriter(work / "spool.jsonl")

    def append(metrics: dict[str, float], _model: object) -> None:
        started = time.perf_counter()
        writer.append(metrics)
        seconds.append(time.perf_counter() - started)

    timed_fit(case, on_report=append, validate_every_images=STOP_POLL_STEPS * case.batch_size)
    speed = statistics.median(timed_fit(case) for _ in range(ROUNDS))
    each = statistics.median(seconds)
    return {"reports": len(seconds), "seconds_each": round(each, 5), "share": round(each * speed / REPORT_IMAGES, 6)}


def _exactness(network: str, world: int, work: Path) -> dict[str, Any]:
    """``resume`` against ``off`` with ranks of one thread, without Ray."""
    case = Case(network, "cifar10", 1, batch_size=126, **FAST[network])  # divides by three
    speeds: dict[str, list[float]] = {"off": [], "resume": []}
    for number in range(ROUNDS):
        for exactness in list(speeds)[:: 1 if number % 2 == 0 else -1]:
            meeting = work / f"{network}-{world}-{number}-{exactness}"
            ranks = [_fresh("rank", case, rank=i, world=world, exactness=exactness, meeting=meeting) for i in range(world)]
            speeds[exactness].append(float(_answer(ranks[0])))
            for process in ranks:
                process.wait()
    costs = [off / resume - 1 for off, resume in zip(speeds["off"], speeds["resume"], strict=True)]
    medians = {name: round(statistics.median(values), 1) for name, values in speeds.items()}
    return {"images_per_second": medians, "cost_of_resume": round(statistics.median(costs), 4)}


def overhead(work: Path) -> dict[str, Any]:
    """Checkpoints and the spool."""
    return {
        "rounds": ROUNDS,
        "checkpoint": {f"{n}, {t} threads": _checkpoints(n, t, work) for n in NETWORKS for t in (1, 2)},
        "spool": _spool(work),
    }


def exactness(work: Path) -> dict[str, Any]:
    """The level ``resume`` on three ranks, which share this machine's processors; on two it runs the code of ``off``."""
    return {f"{n}, 3 ranks": _exactness(n, 3, work) for n in NETWORKS} | {"rounds": ROUNDS}


def start(work: Path) -> dict[str, Any]:
    """Plain Python, Ray with two workers that is started for it, such workers that only meet, and stage train as a whole."""
    starts = {"plain": ("first_step", 0), "ray, 2 workers": ("first_step", 2), "ray, 2 workers that only meet": ("meeting", 2)}
    seconds: dict[str, list[float]] = {name: [] for name in (*starts, "stage train, 2 workers")}
    project = prepared(work / "stage")
    for _ in range(ROUNDS):
        for name, (which, workers) in starts.items():
            started = time.perf_counter()
            process = _fresh(which, Case("narrow", "cifar10", 1), state=work / which, workers=workers, root=ROOT)
            _answer(process)
            seconds[name].append(time.perf_counter() - started)
            process.wait()
        seconds["stage train, 2 workers"].append(first_step_seconds(project))
    bare, ours = seconds["ray, 2 workers that only meet"], seconds["stage train, 2 workers"]
    return {
        "rounds": ROUNDS,
        "seconds": {name: round(statistics.median(values), 2) for name, values in seconds.items()},
        "ours_beside_ray_seconds": round(statistics.median(a - b for a, b in zip(ours, bare, strict=True)), 2),
    }


class _Workers(threading.Thread):
    """Follows the peak memory of each Ray Train worker until ``done`` is set."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peaks: dict[int, float] = {}
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.1):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "TrainWorker" in " ".join(process.cmdline()):
                        self.peaks[process.pid] = high_water_mib(process.pid)
                except (psutil.Error, OSError, StopIteration):
                    continue


def _grouped_memory(case: Case, train: Path, state: Path) -> list[float]:
    job = job_of(case, state, total_images=MANY_IMAGES, validate_every_images=MANY_IMAGES)
    job = type(job).from_dict(job.to_dict() | {"train_directories": (str(train),)})
    watching = _Workers()
    watching.start()
    run_group(job, profile_of(2, 1), 2, 0, lambda record: None)
    watching.done.set()
    watching.join()
    return sorted(round(peak) for peak in watching.peaks.values())


def memory(work: Path) -> dict[str, Any]:
    """Plain Python, and two Ray workers, on random colour images."""
    found: dict[str, Any] = {"images_seen": MANY_IMAGES}
    rng, case = np.random.default_rng(0), Case("narrow", "cifar10", 1)
    with connected(profile_of(2, 1), Paths(ROOT), 2):
        for count in (20_000, 60_000, 600_000):  # the first is small enough to be held
            writer = ShardWriter(work / str(count), (SIDE, SIDE, 3), 8192)
            for _ in range(count // 10_000):
                writer.add_all(rng.integers(0, 256, (10_000, SIDE, SIDE, 3), np.uint8))
            writer.close()
            plain = _answer(_fresh("memory", case, train=work / str(count), images=MANY_IMAGES))
            found[str(count)] = {
                "data_mib": round(count * SIDE * SIDE * 3 / 2**20),
                "plain_mib": round(float(plain)),
                "ray_workers_mib": _grouped_memory(case, work / str(count), work / "job"),
            }
    return found


ROWS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "overhead": overhead, "exactness": exactness, "start": start, "memory": memory,
}  # fmt: skip

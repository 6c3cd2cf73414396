"""A process of benchmarks/scaling.py, one of those that run at a time: it prints one line of JSON."""

from __future__ import annotations

import json
import statistics
import sys
import time

import torch
import torch.distributed as dist

from benchmarks.case import Case
from benchmarks.contenders import timed_fit
from vae.loader import Loader
from vae.run import Run

SIZES = (2**12, 2**16, 2**20, 2**22, 2**24)
REPEATS = {2**12: 60, 2**16: 40, 2**20: 20, 2**22: 8, 2**24: 4}


def steps_s(case: Case) -> list[float]:
    """Seconds of each of a training's steps, alone."""
    torch.set_num_threads(1)
    run = Run(case.model_config(), case.fit_config(), torch.device("cpu"), None)
    loader, found = Loader(case.images(), run.config, run.device, None), []
    for step in range(case.warm_steps + 4 * case.steps):
        started = time.perf_counter()
        run.step(loader)
        if step >= case.warm_steps:
            found.append(time.perf_counter() - started)
    return found


def reductions_s() -> dict[int, float]:
    """Median seconds of an all-reduce of each of ``SIZES`` bytes."""
    found = {}
    for size in SIZES:
        values, seconds = torch.ones(size // 4), []
        for _ in range(REPEATS[size] + 2):
            dist.barrier()
            started = time.perf_counter()
            dist.all_reduce(values)
            seconds.append(time.perf_counter() - started)
        found[size] = statistics.median(seconds[2:])
    return found


def main() -> None:
    """What the command line asks for."""
    what, case = sys.argv[1], Case(**json.loads(sys.argv[2]))
    torch.set_num_threads(1)
    if what == "steps":
        print(json.dumps(steps_s(case)))
        return
    address, rank = sys.argv[3], int(sys.argv[4])
    dist.init_process_group("gloo", init_method=f"tcp://{address}", rank=rank, world_size=2)
    print(json.dumps(reductions_s() if what == "reductions" else case.batch_size / timed_fit(case)), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

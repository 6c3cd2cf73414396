"""Our training through ``pipeline.group.run_group``, and the same job in a process of its own: speed as the reports say it.

The last report's images per second: after the start and the first steps; every period begins while one checkpoint (that of the
report before, the best so far) is still being written, alike for all that are compared.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.case import SHARDS, Case
from benchmarks.contenders import timed_fit
from benchmarks.peak import high_water_mib
from benchmarks.rows import ROOT
from pipeline.cluster import Profile
from pipeline.job import Job, execute
from pipeline.spool import read
from vae.data import ImageShards
from vae.trainer import fit

REPORTS = 2  # in a training
PERIOD_STEPS = {"wide": 64, "narrow": 288}  # between two reports: some five seconds on two threads, beside one checkpoint


def profile_of(workers: int, threads: int) -> Profile:
    """So many workers of so many threads on this machine."""
    return Profile(address="local", workers=workers, cpus_per_worker=threads, gpus_per_worker=0, threads_per_worker=threads)


def job_of(case: Case, state: Path, **config: Any) -> Job:
    """A job in an empty ``state``, with ``REPORTS`` reports unless ``config`` says otherwise."""
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    period = PERIOD_STEPS[case.network] * case.batch_size
    return Job(
        model=case.model_config(),
        fit=case.fit_config(**({"validate_every_images": period, "total_images": REPORTS * period} | config)),
        train_directories=(str(SHARDS / case.data / "train"),),
        val_directory=str(SHARDS / case.data / "val"),
        state_directory=str(state),
        threads=case.threads,
        identity={},
    )


def under_ray(case: Case, workers: int, state: Path) -> float:
    """Images per second of all workers together; Ray is up already."""
    from pipeline.group import run_group

    speeds: list[float] = []
    job = job_of(case, state)
    run_group(job, profile_of(workers, case.threads), workers, 0, lambda record: speeds.append(record["images_per_second"]))
    assert len(speeds) == REPORTS, speeds
    return speeds[-1]


def in_process(case: Case) -> float:
    """Images per second of the same job without Ray, here."""
    with tempfile.TemporaryDirectory(prefix="plain-", dir=ROOT / ".work") as state:
        job = job_of(case, Path(state) / "job")
        execute(job)
        return read(job.spool)[-1]["images_per_second"]


def first_step(case: Case, state: Path, workers: int, root: Path) -> None:
    """A training of one step, in plain Python (``workers`` 0) or under a Ray of its own; prints a line when it is done."""
    one = {"total_images": case.batch_size, "validate_every_images": case.batch_size}
    job = job_of(case, state, **one)

    def done(*_: object) -> None:
        print("first step", flush=True)

    if workers == 0:
        torch.set_num_threads(case.threads)
        fit(job.model, job.fit, case.images(), ImageShards(Path(job.val_directory)), on_report=done)
        return
    from pipeline.cluster import connected
    from pipeline.group import run_group
    from pipeline.paths import Paths

    profile = profile_of(workers, case.threads)
    with connected(profile, Paths(root), workers):
        run_group(job, profile, workers, 0, done)


def meeting(_case: Case, state: Path, workers: int, root: Path) -> None:
    """What Ray Train's start costs without us: workers that import torch and add a tensor; prints a line when they have."""
    import threading

    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    state.mkdir(parents=True, exist_ok=True)
    met = state / "met"
    met.unlink(missing_ok=True)

    def worker(path: str) -> None:
        torch.distributed.all_reduce(torch.zeros(1))
        Path(path).touch()

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    trainer = TorchTrainer(
        lambda: worker(str(met)),
        scaling_config=ScalingConfig(num_workers=workers),
        run_config=RunConfig(name="meeting", storage_path=str(state)),
    )
    training = threading.Thread(target=trainer.fit)  # its end takes as long as that of ours, which nobody waits for either
    training.start()
    while not met.exists():
        if not training.is_alive():
            raise RuntimeError(f"the workers did not meet in {root}")
        time.sleep(0.01)
    print("met", flush=True)
    training.join()


def memory(case: Case, train: Path, images: int) -> None:
    """Train on the shards in ``train`` in plain Python and print this process's peak resident memory in MiB."""
    torch.set_num_threads(case.threads)
    config = case.fit_config(total_images=images)
    fit(case.model_config(), config, ImageShards(train), ImageShards(SHARDS / case.data / "val"))
    print(high_water_mib("self"), flush=True)


def rank_of_many(case: Case, rank: int, world: int, exactness: str, meeting: Path) -> None:
    """One of ``world`` ranks without Ray; rank 0 prints images per second."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    speed = timed_fit(case, exactness=exactness)
    if rank == 0:
        print(speed, flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":  # a fresh process for one measurement: which, its case, its other arguments
    which, here, rest = sys.argv[1], Case(**json.loads(sys.argv[2])), json.loads(sys.argv[3])
    rest |= {name: Path(rest[name]) for name in ("state", "root", "train", "meeting") if name in rest}
    {"first_step": first_step, "meeting": meeting, "memory": memory, "rank": rank_of_many}[which](here, **rest)

"""Processes, one for each rank: ``side_by_side`` calls a function in each; ``Group(folder).run(ranks, fault)`` is a training that a
test can hurt at any step.
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STEPS, BATCH, CHECKPOINT_STEPS = 24, 24, 5
LIMIT_SECONDS = 60.0
GROWN_BYTES = 50_000  # that a file may grow to: weights do not fit, the log does
PEER_SECONDS = 5  # until the others give a silent rank up


def side_by_side(worker: Callable[..., None], ranks: int, *arguments: Any) -> None:
    """Call ``worker(rank, ranks, *arguments)`` in so many processes at once; they come from one that has imported torch for them all."""
    import torch

    multiprocessing.set_forkserver_preload(["torch._dynamo", "vae.trainer"])
    torch.multiprocessing.start_processes(worker, (ranks, *arguments), nprocs=ranks, start_method="forkserver")


class Group:
    """The folder of a training: its data, its checkpoints, and one process after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._launches = folder, 0

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def run(self, ranks: int, fault: dict[str, Any] | None = None) -> list[int]:
        """Start the ranks, let ``fault`` happen, and return their exit codes; none is left running.

        ``fault``: step, rank and what: kill, stop (SIGSTOP), nan, bug, full (no file may grow large), eio (fsync fails once),
        slow (whatever else it computes takes long).
        """
        self._launches += 1
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "ranks", str(self.folder), str(rank), str(ranks), str(self._launches), json.dumps(fault)],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=(self.folder / f"log-{self._launches}-{rank}").open("w"),
            )
            for rank in range(ranks)
        ]
        deadline = time.monotonic() + LIMIT_SECONDS
        try:
            for process in processes:
                if fault and fault["what"] == "stop" and processes.index(process) == fault["rank"]:
                    continue
                process.wait(max(0.1, deadline - time.monotonic()))
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return [process.returncode for process in processes]

    def log(self, rank: int = 0) -> str:
        """What a rank of the last launch wrote to standard error."""
        return (self.folder / f"log-{self._launches}-{rank}").read_text()

    def result(self) -> list[str]:
        """The sha256 of the final weights, moving averages and moments."""
        last = self.checkpoints / f"step-{STEPS:08d}"
        return [hashlib.sha256((last / f"{name}.safetensors").read_bytes()).hexdigest() for name in ("model", "ema", "optimizer")]


def _hurt(what: str) -> None:
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "bug":
        raise KeyError("a planted bug")
    if what == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (GROWN_BYTES, resource.RLIM_INFINITY))
    if what == "slow":
        from vae import validation

        calm = validation._terms
        validation._terms = lambda *arguments: (time.sleep(0.2), calm(*arguments))[1]
    if what == "eio":
        real = os.fsync

        def failing(descriptor: int) -> None:
            os.fsync = real
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        os.fsync = failing


def main() -> None:
    """One rank."""
    import datetime

    import numpy as np
    import torch
    import torch.distributed as dist

    from configs import fit_config, model_config
    from vae import losses, trainer
    from vae.data import ImageShards, ShardWriter

    folder, rank, ranks, launch = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    fault = json.loads(sys.argv[5])
    torch.set_num_threads(1)
    if ranks > 1:
        wait = datetime.timedelta(seconds=PEER_SECONDS)
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting-{launch}", rank=rank, world_size=ranks, timeout=wait
        )
    if rank == 0 and not (folder / "shards").exists():
        writer = ShardWriter(folder / "shards", (8, 8, 1), 30)
        writer.add_all(np.random.default_rng(0).integers(0, 256, (100, 2, 2, 1), np.uint8).repeat(4, 1).repeat(4, 2))
        writer.close()
    if ranks > 1:
        dist.barrier()
    images, real = ImageShards(folder / "shards"), losses.Objective.draw

    def draw(self: losses.Objective, step: int, *rest: int) -> losses.Draws:
        draws = real(self, step, *rest)
        if fault and (fault["step"], fault["rank"]) == (step, rank):
            _hurt(fault["what"])
            if fault["what"] == "nan":
                return replace(draws, noise_NE=draws.noise_NE * float("nan"))
        return draws

    losses.Objective.draw = draw  # type: ignore[method-assign]
    model = model_config(widths=(48,), hidden_units=512)
    config = fit_config(
        beta=1.5,
        global_batch_size=BATCH,
        total_images=STEPS * BATCH,
        learning_rate=1e-3,
        validate_every_images=8 * BATCH,
        checkpoint_every_images=CHECKPOINT_STEPS * BATCH,
    )
    trainer.fit(model, config, images, images, checkpoints=folder / "checkpoints")
    if ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Processes that are asked for one round at a time: ``python -m benchmarks.contenders <name>``; cases in, images per second out.

Each contender lives as long as the comparison, so its imports, its data and what it compiled stay; while another one runs, it
sleeps in a read. All but ``ours`` under Ray answer here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import torch

from benchmarks.case import SHARDS, Case, Stopwatch
from benchmarks.rows import ROOT
from vae.data import ImageShards
from vae.run import STOP_POLL_STEPS
from vae.trainer import fit

OTHERS = ROOT / ".work" / "others" / "bin" / "python"  # see requirements.txt
BORROWED = ("pythae", "lightning")


def timed_fit(
    case: Case, checkpoints: Path | None = None, on_report: Callable[..., None] = lambda *_: None, **config: Any
) -> float:
    """Images per second of ``vae.trainer.fit`` as it is, taken from outside: at each eighth step it asks whether to stop."""
    torch.set_num_threads(case.threads)
    watch = Stopwatch(case)
    assert case.warm_steps % STOP_POLL_STEPS == case.steps % STOP_POLL_STEPS == 0

    def lap() -> bool:
        watch.lap(STOP_POLL_STEPS)
        return False

    # One more poll's worth of steps: at the very last step nobody is asked.
    fit_config = case.fit_config(**({"total_images": case.total_images + STOP_POLL_STEPS * case.batch_size} | config))
    val = ImageShards(SHARDS / case.data / "val")
    fit(case.model_config(), fit_config, case.images(), val, checkpoints=checkpoints, on_report=on_report, should_stop=lap)
    return watch.images_per_second()


def _find(name: str) -> Callable[[Case], float]:
    if name == "ours":
        return timed_fit
    if name == "plain":
        from benchmarks.grouped import in_process

        return in_process
    if name == "hand":
        from benchmarks.hand import hand

        return hand
    from benchmarks import others

    return getattr(others, name)


class Contender:
    """A process that trains on demand; close() ends it."""

    def __init__(self, name: str) -> None:
        python = OTHERS if name in BORROWED else Path(sys.executable)
        self.name = name
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.contenders", name],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def __call__(self, case: Case) -> float:
        """Images per second of one round; RuntimeError where the process has ended or could not do it."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(case.to_dict()) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"ended with {self._process.wait()}"}
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer["images_per_second"]

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def _serve(name: str, answers: TextIO) -> None:
    work = _find(name)
    for line in sys.stdin:
        try:
            answer = {"images_per_second": work(Case(**json.loads(line)))}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    private = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints is no answer
    _serve(sys.argv[1], private)

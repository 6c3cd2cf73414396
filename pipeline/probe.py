"""One process of a rehearsal: a few steps of the trainer itself, and what they cost in seconds and bytes.

``python -m pipeline.probe <folder> <number>``, started by ``pipeline.rehearsal``: first as a rank of the training, then as one of
the trials that run side by side.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pipeline.job import Job
from pipeline.stage import die_with_parent
from pipeline.trial_score import Scorer
from vae.augment import OnTheFly, image_keys
from vae.config import AugmentConfig, FitConfig
from vae.data import ImageShards
from vae.distributed import any_rank, default_device, rank, world_size
from vae.files import canonical_json, read_json, write_text
from vae.loader import Loader
from vae.numerics import determinism
from vae.run import Run
from vae.state import Snapshot, write_checkpoint
from vae.validation import bound

VARIANTS = tuple(itertools.product(("float32", "bfloat16"), ("channels_last", "contiguous")))
TRAIN_SHARE = 0.7  # of the time for measuring; the trials have the rest
STEPS_A_VISIT = 2  # of a variant, before it is the next one's turn
LEAST_ROUNDS = 2
TRAINED, WAIT_SECONDS = "trained", 0.05  # a file that is there once the training was rehearsed


def process_bytes(name: str) -> int:
    """A line of this process's /proc/self/status in bytes: VmRSS (now) or VmHWM (at most so far); 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def most_allocated_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """By how much tensors exceed, at the worst moment of ``work``, what they held at its beginning."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    # What was there before and goes meanwhile leaves no event: whoever asks lets it go first.
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(0, *itertools.accumulate(sizes)) if sizes else 0


def timed(work: Callable[[], Any]) -> float:
    """Seconds that ``work`` takes, an accelerator's included."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


class _Rehearsed:
    """A training at its first steps: the trainer's own state, gradients and loader, and how long each step took."""

    def __init__(self, job: Job, config: FitConfig, train: ImageShards) -> None:
        augment = None
        if job.augment:  # the keys decide what an augmented image looks like, not how long it takes
            keys = image_keys(f"{n:016x}" for n in range(len(train)))
            augment = OnTheFly(AugmentConfig(**job.augment["policy"]), keys, job.augment["mode"])
        self.config, self.run = config, Run(job.model, config, default_device(), None)
        self._loader = Loader(train, config, self.run.device, augment)
        self.seconds: list[float] = []

    def step(self) -> None:
        self.run.step(self._loader)

    def step_bytes(self) -> int:
        """What a step holds at its worst moment beside what lies there between steps, gradients included."""
        self.run.optimizer.zero_grad(set_to_none=True)
        held = sum(p.numel() * p.element_size() for p in self.run.model.parameters())
        grouped = isinstance(self.run.gradients.forward, DistributedDataParallel)  # whose gradients have a fixed place
        return max(0, most_allocated_bytes(self.step, self.run.device) - (0 if grouped else held))

    def visit(self) -> None:
        self.seconds += [timed(self.step) for _ in range(STEPS_A_VISIT)]

    def result(self) -> dict[str, Any]:
        config, median = self.config, statistics.median(self.seconds)
        names = {"precision": config.precision, "memory_format": config.memory_format, "compile": config.compile}
        return {
            **names,
            "step_seconds": median,
            "images_per_second": config.global_batch_size / median,
            "steps": len(self.seconds),
        }


def _alternate(rehearsed: list[_Rehearsed], seconds: float) -> None:
    """Steps of each in turn, so that whatever else the machine does meets all alike; all ranks stop after the same round."""
    device, ends = rehearsed[0].run.device, time.perf_counter() + seconds
    for rounds in itertools.count(1):
        for each in rehearsed:
            each.visit()
        if any_rank(rounds >= LEAST_ROUNDS and time.perf_counter() > ends, device):
            return


def _begun(job: Job, train: ImageShards, directory: Path) -> tuple[_Rehearsed, dict[str, Any]]:
    """The configured training after its first steps, validation and checkpoint, and what these cost."""
    begun = _Rehearsed(job, job.fit, train)
    run, val = begun.run, ImageShards(Path(job.val_directory))
    first_seconds = timed(begun.step)
    begun.step()

    def validate() -> None:
        bound(run.averaged, val, job.fit.global_batch_size, job.fit.seed)

    validate()
    costs = {"first_step_seconds": first_seconds, "validation_images_per_second": len(val) / timed(validate)}
    if rank() == 0:
        state = directory / f"{job.state.name}-{begun.config.seed}-{id(begun)}"
        snapshot = Snapshot.take(run.progress, run.model, run.ema, run.optimizer, run.rival)
        costs["checkpoint_seconds"] = timed(lambda: write_checkpoint(state, snapshot))
        costs["checkpoint_bytes"] = sum(path.stat().st_size for path in state.rglob("*") if path.is_file())
    begun.step()  # while the snapshot lies there, as in a training
    costs["peak_bytes"] = process_bytes("VmHWM")
    costs["step_bytes"] = begun.step_bytes()
    costs["validation_bytes"] = most_allocated_bytes(validate, run.device)
    if run.device.type == "cuda":
        costs["accelerator_peak_bytes"] = torch.cuda.max_memory_reserved(run.device)
    return begun, costs


def _training(task: dict[str, Any], directory: Path) -> dict[str, Any]:
    """What the training costs, and its variants; on every rank alike."""
    job, seconds = Job.from_dict(task["train"]), task["seconds"] * TRAIN_SHARE
    train = ImageShards(*map(Path, job.train_directories))
    with determinism(job.fit, default_device()):
        configured, costs = _begun(job, train, directory)
        rehearsed = [configured]
        every = (LEAST_ROUNDS * STEPS_A_VISIT + 1) * len(VARIANTS) * costs["first_step_seconds"]
        costs["variants_skipped"] = any_rank(not job.fit.compile and every > 4 * task["seconds"], configured.run.device)
        if not costs["variants_skipped"]:
            for precision, memory_format in VARIANTS:
                config = replace(job.fit, precision=precision, memory_format=memory_format, compile=False)
                if config != job.fit:
                    rehearsed.append(_Rehearsed(job, config, train))
                    rehearsed[-1].step()
        _alternate(rehearsed, seconds)
        if task["compile"] and not job.fit.compile:
            compiled = _Rehearsed(job, replace(_same_on_all_ranks(rehearsed).config, compile=True), train)
            costs["compile_seconds"] = timed(compiled.step)
            _alternate([compiled], seconds / len(VARIANTS))
            rehearsed.append(compiled)
    return {**costs, "variants": [each.result() for each in rehearsed]}


def _same_on_all_ranks(rehearsed: list[_Rehearsed]) -> _Rehearsed:
    """The fastest, in rank 0's opinion."""
    order = torch.tensor([statistics.median(each.seconds) for each in rehearsed], device=rehearsed[0].run.device)
    if world_size() > 1:
        dist.broadcast(order, src=0)
    return rehearsed[int(order.argmin())]


def _trial(task: dict[str, Any], directory: Path) -> dict[str, Any]:
    """What a trial costs while the others that run at the same time do the same."""
    job = Job.from_dict(task["trial"])
    train = ImageShards(*map(Path, job.train_directories))
    with determinism(job.fit, default_device()):
        begun, costs = _begun(job, train, directory)
        _alternate([begun], task["seconds"] * (1 - TRAIN_SHARE))
    if job.score and rank() == 0:
        scorer, averaged = Scorer(job.score, job.model), begun.run.averaged
        costs["score_bytes"] = most_allocated_bytes(lambda: scorer(averaged), begun.run.device)
        costs["score_seconds"] = timed(lambda: scorer(averaged))
    return {**costs, **begun.result()}


def base_bytes(job: Job) -> int:
    """Of a process that has trained something next to nothing: the libraries, and what a step needs of them."""
    side = 8  # pixels
    model = replace(job.model, image_shape=(side, side, job.model.image_shape[2]), widths=(side,), hidden_units=1, classes=0)
    config = replace(job.fit, exactness="off", micro_batch_size=0, compile=False)
    run = Run(model, config, default_device(), None)
    blank = (model.image_shape[2], side, side)
    batches = SimpleNamespace(batch=lambda step, rows: (torch.zeros(rows.stop - rows.start, *blank), None))
    for _ in range(2):
        run.step(cast(Loader, batches))
    return process_bytes("VmRSS")


@contextmanager
def _group(store: Path, number: int, size: int, backend: str) -> Iterator[None]:
    if size > 1:
        dist.init_process_group(backend, init_method=f"file://{store}", rank=number, world_size=size)
    try:
        yield
    finally:
        if size > 1:
            dist.destroy_process_group()


def _main(directory: Path, number: int) -> None:
    die_with_parent()
    task, result = read_json(directory / "task.json"), dict[str, Any]()
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    result["base_bytes"] = base_bytes(Job.from_dict(task["train"]))
    if number < task["workers"]:
        torch.set_num_threads(task["train"]["threads"])
        with _group(directory / "group", number, task["workers"], task["backend"]):
            result["train"] = _training(task, directory)
        (directory / TRAINED).touch()
    while not (directory / TRAINED).exists():  # trials are more than the training's workers, and would take its processors
        time.sleep(WAIT_SECONDS)
    group, place = divmod(number, task["trial_workers"])
    if group < task["trials"]:
        torch.set_num_threads(task["trial"]["threads"])
        with _group(directory / f"trial-{group}", place, task["trial_workers"], task["backend"]):
            result["trial"] = _trial(task, directory)
    write_text(directory / f"result-{number}.json", canonical_json(result))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))

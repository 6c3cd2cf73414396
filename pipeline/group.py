"""Runs a job as a group of Ray Train workers (DistributedDataParallel) while this process shows and forwards its reports."""

from __future__ import annotations

import logging
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.cluster import Profile
from pipeline.errors import NO_ROOM, BadConfigError, CannotWriteError, TrainingFailedError
from pipeline.failures import Failures
from pipeline.job import STOP_FILE, Job, execute, failure
from pipeline.spool import LineReader, SpoolReader
from vae.distributed import default_device, from_rank_zero, rank
from vae.errors import StepError, StoppedError

POLL_SECONDS, NOTICE_SECONDS = 0.2, 2.0
TOLD = "told.log"
LEFT = "left"  # how a group ends of which a node will be taken away: not failed, and to begin again on others
PAUSED = "paused"  # ... that was to end after a report
log = logging.getLogger("pipeline.group")


class _Notice:
    """Whether a node of this group is to be taken away (Ray's drain, before a spot machine is reclaimed); asked by all ranks alike."""

    def __init__(self, watched: bool) -> None:
        self._watched, self._asked, self.given = watched, 0.0, False

    def __call__(self) -> bool:
        import ray.train

        if not self._watched:
            return False
        # Ray's answer takes milliseconds, so that it is not asked for at every call; all ranks ask when rank 0 does.
        if from_rank_zero(int(time.monotonic() - self._asked > NOTICE_SECONDS), default_device()):
            self._asked, self.given = time.monotonic(), ray.train.get_preemption_info() is not None
        return self.given


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Within, what rank 0 of the trainer logs is appended to a file that the driver shows: nobody reads a worker's own log."""
    if rank():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler, logger = logging.FileHandler(path), logging.getLogger("vae")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def _worker(config: dict[str, Any]) -> dict[str, str]:
    """One rank of the job. What it returns is rank 0's word on how it ended."""
    import ray.train

    job, notice, paused = Job.from_dict(config["job"]), _Notice(config["joined"]), False

    def report(record: dict[str, float]) -> None:
        nonlocal paused
        paused = config["pausing"]
        ray.train.report({"step": record["step"]})

    failures = Failures(job.state)
    if verdict := failures.verdict():
        return {"outcome": "failed", "message": verdict}
    try:
        with _telling(job.state / TOLD):
            execute(job, report, lambda: notice() or paused)  # all ranks ask for a notice, whatever the other says
    except Exception as error:
        if isinstance(error, StepError):
            failures.note(rank(), error)
        if notice.given and isinstance(error, StoppedError):
            return {"outcome": LEFT, "message": str(error)}
        if paused and isinstance(error, StoppedError):
            return {"outcome": PAUSED, "message": str(error)}
        return failure(error)
    return {"outcome": "finished", "message": ""}


@contextmanager
def _graceful_stop(state: Path) -> Iterator[dict[str, int]]:
    """The first Ctrl-C or SIGTERM asks all workers to finish their step and checkpoint; a second Ctrl-C ends at once."""
    received: dict[str, int] = {}
    if threading.current_thread() is not threading.main_thread():  # a trial's driver: the search handles signals
        yield received
        return

    def ask(number: int, _frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received["signal"] = number
        (state / STOP_FILE).touch()
        log.warning("stopping after this step, with a checkpoint (Ctrl-C again: at once)")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watched(work: Callable[[], Any], tick: Callable[[], None]) -> Any:
    """What ``work`` returns or raises, run in a thread, while this thread calls ``tick`` and stays open to signals."""
    ended: dict[str, Any] = {}

    def drive() -> None:
        try:
            ended["result"] = work()
        except BaseException as error:
            ended["error"] = error

    thread = threading.Thread(target=drive, name="ray", daemon=True)
    thread.start()
    while thread.is_alive():
        tick()
        thread.join(POLL_SECONDS)
    tick()
    if "error" in ended:
        raise ended["error"]
    return ended["result"]


def on_ranks(
    worker: Callable[[dict[str, Any]], Any],
    config: dict[str, Any],
    profile: Profile,
    workers: int,
    max_failures: int,
    storage: Path,
    tick: Callable[[], None],
) -> Any:
    """Run ``worker(config)`` on so many ranks of a process group; returns what rank 0's returned.

    ``storage`` is Ray's own bookkeeping of this attempt, removed in the end. TrainingFailedError (or CannotWriteError) with the first
    cause once the workers have failed more often than ``max_failures``.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    shutil.rmtree(storage, ignore_errors=True)
    resources = {"CPU": float(profile.cpus_per_worker)} | (
        {"GPU": float(profile.gpus_per_worker)} if profile.gpus_per_worker else {}
    )
    # Ray's types are those of Train V1 until that is gone.
    trainer = TorchTrainer(
        worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if profile.gpus_per_worker else "gloo", timeout_s=profile.silent_seconds),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=profile.gpus_per_worker > 0,
            resources_per_worker=resources,
            placement_strategy=profile.placement,
        ),
        run_config=ray.train.RunConfig(
            name="group",
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=max_failures, controller_failure_limit=0),  # type: ignore[call-arg]
        ),
    )
    try:
        return watched(lambda: trainer.fit().return_value, tick)  # type: ignore[attr-defined]
    except ray.train.TrainingFailedError as error:
        cause = _first_cause(error)
        number = re.search(r"\[Errno (\d+)\]", cause)
        kind = CannotWriteError if number and int(number[1]) in NO_ROOM else TrainingFailedError
        raise kind(cause) from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def run_group(
    job: Job,
    profile: Profile,
    workers: int,
    max_failures: int,
    on_record: Callable[[dict[str, float]], None],
    pausing: bool = False,
) -> dict[str, str]:
    """Train ``job`` with ``workers`` ranks; ``on_record`` gets every report once, in this process.

    With ``pausing`` there is no group while ``on_record`` has its say: it ends after each report, and another goes on. So whoever ends
    this process there leaves nothing that would hold places: of a group whose driver is killed, Ray 2.60 frees them only where its
    dashboard runs.

    Returns outcome ``finished`` or raises: TrainingFailedError with the first cause, KeyboardInterrupt or the stage's Terminated
    after a checkpoint where it was asked to stop.
    """
    (job.state / STOP_FILE).unlink(missing_ok=True)
    (job.state / TOLD).unlink(missing_ok=True)
    Failures(job.state).clear()
    reader, told = SpoolReader(job.spool), LineReader(job.state / TOLD)

    def forward() -> None:
        if not pausing:
            hand_over()
        for line in told.new():
            log.info("%s", line.decode(errors="replace"))

    def hand_over() -> None:
        for record in reader.records():
            on_record(record)

    config = {"job": job.to_dict(), "joined": profile.joined, "pausing": pausing}
    with _graceful_stop(job.state) as received:
        while True:
            outcome = on_ranks(_worker, config, profile, workers, max_failures, job.state / "ray", forward)
            hand_over()
            if outcome["outcome"] == LEFT:
                log.warning("a node will be taken away: %s, to go on without it", outcome["message"])
            elif outcome["outcome"] != PAUSED:
                break
    if outcome["outcome"] == "stopped":
        (job.state / STOP_FILE).unlink(missing_ok=True)
        if received.get("signal") == signal.SIGTERM:
            from pipeline.stage import Terminated

            raise Terminated
        raise KeyboardInterrupt
    if outcome["outcome"] == "refused":
        raise BadConfigError(outcome["message"])
    if outcome["outcome"] == "failed":
        raise TrainingFailedError(outcome["message"])
    return outcome


def _first_cause(error: BaseException) -> str:
    """The last line of the first failed worker's traceback, with its rank; the whole story is in Ray's logs."""
    failures = getattr(error, "worker_failures", None) or {}
    for worker_rank, cause in sorted(failures.items()):
        lines = [line for line in str(cause).strip().splitlines() if line.strip()]
        return f"worker {worker_rank} of the group: {lines[-1].strip()}" if lines else f"worker {worker_rank}: {cause!r}"
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else 'no message'}"

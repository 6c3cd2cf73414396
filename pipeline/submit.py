"""Runs a command of the pipeline as a job of a Ray cluster: its log here, its exit code ours, its results back in this workspace.

``python -m pipeline.submit --address http://head:8265 --workspace PATH [--storage URL] -- python -m pipeline.run``

PATH is where the workspace lies on the cluster, under the same path on every node. Where this machine sees it too, nothing else is
needed: say no ``--storage``, and the command runs right there. With ``--storage`` (a folder or s3://, gs://, az:// that both sides
see) the code is shipped, and what DVC keeps travels through the storage, there and back.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import graph
from pipeline.cluster import ADDRESS_VARIABLE, PROFILE_VARIABLE
from pipeline.commit import as_environment
from pipeline.console import set_up_logging
from pipeline.errors import BadConfigError, TrainingFailedError, UnavailableError
from pipeline.paths import Paths
from pipeline.shipped import SHIPPED, bring_lock
from pipeline.stage import EXIT_INTERRUPTED, guarded

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
SECRET = ("TOKEN", "SECRET", "PASSWORD", "KEY", "CREDENTIAL", "WEBHOOK", "TRACKING_URI")
NO_AGENT, AGENT_SECONDS, AGAIN_SECONDS = "No available agent", 120.0, 1.0  # Ray's own words, after ten seconds of its own
log = logging.getLogger("pipeline.submit")


def _client(address: str) -> JobSubmissionClient:
    """UnavailableError where no dashboard answers or takes the token; BadConfigError where it is of another version of Ray."""
    import ray
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
    except Exception as error:  # those of requests, of Ray, and RuntimeError alike
        told = " ".join(str(error).split())[:200]
        raise UnavailableError(
            f"no Ray cluster takes jobs at {address} ({told}): check --address and the token of RAY_AUTH_TOKEN"
        ) from None
    theirs = getattr(client, "_server_ray_version", None)
    if theirs and theirs != ray.__version__:
        raise BadConfigError(f"the cluster runs Ray {theirs}, this machine {ray.__version__}: install the same version on both")
    return client


def _environment(paths: Paths) -> dict[str, str]:
    """What the job's processes are told; never a secret, for everybody who sees the cluster can read it."""
    names = [PROFILE_VARIABLE, "VAELINE_FRESH", "VAELINE_DEBUG"]
    told = {name: os.environ[name] for name in names if name in os.environ}
    told.setdefault(ADDRESS_VARIABLE, "auto")
    return told | as_environment(paths)


def _take(client: JobSubmissionClient, **job: Any) -> None:
    """Hand a job over, to a cluster that may just have begun and has no agent for jobs yet; UnavailableError where none comes."""
    until = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            client.submit_job(**job)
            return
        except RuntimeError as error:
            if NO_AGENT not in str(error):
                raise
            if time.monotonic() >= until:
                raise UnavailableError(
                    f"the cluster takes no jobs ({NO_AGENT.lower()} for {AGENT_SECONDS:.0f} s): see whether its nodes are up (ray status), "
                    "and whether another Ray on its head's machine has the agent's port (ray start --dashboard-agent-listen-port 0)"
                ) from None
        log.info("the cluster has no agent for jobs yet: asking again")
        time.sleep(AGAIN_SECONDS)


def _submitted(client: JobSubmissionClient, arguments: argparse.Namespace, paths: Paths) -> str:
    command, job = shlex.join(arguments.command), f"vaeline-{uuid.uuid4().hex[:12]}"
    workspace = arguments.workspace or str(paths.root)
    runtime: dict[str, Any] = {"env_vars": _environment(paths)}
    if arguments.storage:
        graph.push(paths, arguments.storage)
        runtime["working_dir"] = str(paths.root)
        told = ["--workspace", workspace, "--storage", arguments.storage, "--job", job, "--", *arguments.command]
        entrypoint = shlex.join(["python", "-m", SHIPPED, *told])
    else:
        entrypoint = f"cd {shlex.quote(workspace)} && PYTHONPATH={shlex.quote(workspace)} exec {command}"
    _take(client, entrypoint=entrypoint, submission_id=job, runtime_env=runtime, metadata={"command": command})
    log.info("job %s: %s", job, command)
    return job


@contextmanager
def _interrupts(wanted: str) -> Iterator[threading.Event]:
    """Set at the first Ctrl-C or SIGTERM; a second one ends this process."""
    asked = threading.Event()

    def ask(_number: int, _frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        log.warning("%s (Ctrl-C again: at once)", "ending the job" if wanted == "cancel" else "leaving; the job goes on")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _followed(client: JobSubmissionClient, job: str, asked: threading.Event) -> bool:
    """Show the job's log until it ends; False where a person interrupted."""

    async def follow() -> None:
        lines = client.tail_job_logs(job)
        reading = asyncio.ensure_future(anext(lines, None))
        while not asked.is_set():
            done, _ = await asyncio.wait([reading], timeout=0.2)
            if not done:
                continue
            text = reading.result()
            if text is None:
                return
            sys.stderr.write(text)
            sys.stderr.flush()
            reading = asyncio.ensure_future(anext(lines, None))
        reading.cancel()

    asyncio.run(follow())
    return not asked.is_set()


def _ended(client: JobSubmissionClient, job: str) -> int:
    """The exit code of the job's own command."""
    from ray.job_submission import JobStatus

    told: JobDetails = client.get_job_info(job)
    if told.status == JobStatus.SUCCEEDED:
        return 0
    if told.status == JobStatus.STOPPED:
        raise TrainingFailedError(f"job {job} was stopped")
    if told.driver_exit_code is None:
        raise UnavailableError(f"job {job} never ran, or its node was lost: {' '.join(str(told.message).split())[:300]}")
    return int(told.driver_exit_code) % 256


def submit(arguments: argparse.Namespace, paths: Paths) -> int:
    """Submit or attach, follow, and bring the results; returns the job's exit code."""
    if arguments.storage and "://" not in arguments.storage:  # DVC and the job would each begin elsewhere
        arguments.storage = str(Path(arguments.storage).expanduser().resolve())
    client = _client(arguments.address)
    job = arguments.attach or _submitted(client, arguments, paths)
    hint = f"python -m pipeline.submit --address {arguments.address} --attach {job}"
    hint += f" --storage {arguments.storage}" if arguments.storage else ""
    if arguments.detach:
        print(f"job {job} runs; to see it and to bring its results: {hint}")
        return 0
    with _interrupts(arguments.on_interrupt) as asked:
        if not _followed(client, job, asked):
            if arguments.on_interrupt == "cancel":
                client.stop_job(job)
                print(f"job {job} was ended")
            else:
                print(f"job {job} goes on; to see it and to bring its results: {hint}")
            return EXIT_INTERRUPTED
    code = _ended(client, job)
    if code == 0 and arguments.storage:
        _brought(paths, arguments.storage, job)
    return code


def _brought(paths: Paths, storage: str, job: str) -> None:
    """dvc.lock and what it names, as the job left them."""
    bring_lock(paths, storage, job)
    graph.pull(paths, storage)
    log.info("the results of job %s are here: dvc.lock, data, models, reports", job)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.submit", description=__doc__)
    parser.add_argument(
        "--address", default=os.environ.get("RAY_API_SERVER_ADDRESS", DEFAULT_ADDRESS), help="of the cluster's dashboard"
    )
    parser.add_argument("--workspace", default="", help="where it lies on the cluster; as here where nothing is said")
    parser.add_argument("--storage", default="", help="a folder or address that this machine and the cluster both see")
    parser.add_argument("--on-interrupt", choices=("detach", "cancel"), default="detach", help="what Ctrl-C does to the job")
    parser.add_argument("--detach", action="store_true", help="submit and leave")
    parser.add_argument("--attach", default="", metavar="JOB", help="follow a job that was submitted before")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument(
        "command", nargs="*", default=["python", "-m", "pipeline.run"], help="after --; the whole pipeline by default"
    )
    arguments = parser.parse_args()
    set_up_logging("submit", arguments.debug)
    logging.getLogger("ray").setLevel(logging.DEBUG if arguments.debug else logging.WARNING)
    codes: list[int] = []
    code = guarded("submit", lambda: codes.append(submit(arguments, Paths.here())), arguments.debug)
    sys.exit(code or codes[0])


if __name__ == "__main__":
    main()

"""What every stage does around its work: parameters, one log, one lock, errors as one line, and the exit code."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

from pipeline import params
from pipeline.console import set_up_logging
from pipeline.errors import NO_ROOM, PipelineError, TemporaryError
from pipeline.paths import Paths
from vae.files import DamagedError, canonical_json, read_json, write_text

log = logging.getLogger("pipeline.stage")
PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)  # now: a child between fork and exec must not load anything
FAILURE_FILE = "failure.json"
SECONDS_FILE = "seconds.json"
EXIT_BAD_DATA, EXIT_SOFTWARE, EXIT_CANNOT_WRITE, EXIT_INTERRUPTED, EXIT_TERMINATED = 65, 70, 73, 130, 143

StageFunction = Callable[[SimpleNamespace, Paths], None]


class Terminated(BaseException):
    """SIGTERM, as an exception that unwinds like Ctrl-C does."""


def _on_sigterm(_signal: int, _frame: object) -> NoReturn:
    raise Terminated


def die_with_parent() -> None:
    """End this process when its parent ends, however that happens (Linux): a killed `dvc repro` leaves no stage behind."""
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def lock(name: str, paths: Paths) -> object:
    """Hold ``.work/<name>.lock`` until this process ends; TemporaryError if another process has it."""
    paths.work.mkdir(parents=True, exist_ok=True)
    stream = (paths.work / f"{name}.lock").open("a")
    os.chmod(stream.name, 0o600)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TemporaryError(f"stage {name} is already running in {paths.root}: wait for it to end, or end it") from None
    return stream


def note_seconds(name: str, seconds: float, paths: Paths) -> None:
    """Keep how long each stage took last, for whoever asks (benchmarks/showcase.py)."""
    path = paths.work / SECONDS_FILE
    times = read_json(path) if path.exists() else {}
    write_text(path, canonical_json(times | {name: round(seconds, 1)}))


def explain(error: BaseException) -> tuple[str, int]:
    """One line for a person and the exit code (DESIGN.md, contract 12) of a failure."""
    if isinstance(error, PipelineError):
        return str(error), error.exit_code
    if isinstance(error, DamagedError):
        return str(error), EXIT_BAD_DATA
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C; the same command goes on from here", EXIT_INTERRUPTED
    if isinstance(error, Terminated):
        return "stopped by SIGTERM; the same command goes on from here", EXIT_TERMINATED
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        where = f" {error.filename}" if error.filename else ""
        return f"cannot write{where}: {error.strerror}; free some space or fix the permissions", EXIT_CANNOT_WRITE
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text} (run with --debug for the traceback)", EXIT_SOFTWARE


def guarded(name: str, work: Callable[[], None], debug: bool, record: Path | None = None) -> int:
    """Run ``work``; any failure becomes its line on standard error and its exit code (and, as JSON, the file ``record``)."""
    try:
        work()
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        if debug:
            logging.getLogger("pipeline").exception("traceback of the failure below")
        message, code = explain(error)
        for line in message.splitlines():
            print(f"{name}: error: {line}", file=sys.stderr)
        if record is not None:  # DVC has an exit code of its own: whoever called it finds the stage's here
            with contextlib.suppress(OSError):
                write_text(record, canonical_json({"stage": name, "message": message, "exit_code": code}))
        return code
    return 0


def command(name: str, work: Callable[[], None], description: str) -> NoReturn:
    """Entry point of a command beside the stages, ``python -m pipeline.<name>``, that takes nothing but --debug."""
    parser = argparse.ArgumentParser(prog=f"python -m pipeline.{name}", description=description)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    sys.exit(guarded(name, work, parser.parse_args().debug))


def main(name: str, keys: tuple[str, ...], function: StageFunction, description: str, resumable: bool = False) -> NoReturn:
    """Entry point of ``python -m pipeline.<name>``: no hyperparameter comes in here but through params.yaml.

    A ``resumable`` stage keeps what it has done in ``.work/<name>``, and forgets it with ``--fresh`` or VAELINE_FRESH=1.
    """
    parser = argparse.ArgumentParser(prog=f"python -m pipeline.{name}", description=description)
    parser.add_argument("--debug", action="store_true", help="show tracebacks and the libraries' own messages")
    if resumable:
        parser.add_argument("--fresh", action="store_true", help="forget an unfinished run and start anew")
    arguments = parser.parse_args()
    debug = arguments.debug or os.environ.get("VAELINE_DEBUG") == "1"
    fresh = resumable and (arguments.fresh or os.environ.get("VAELINE_FRESH") == "1")
    set_up_logging(name, debug)
    signal.signal(signal.SIGTERM, _on_sigterm)
    die_with_parent()
    paths = Paths.here()

    def work() -> None:
        started = time.monotonic()
        values = params.load(paths.params, keys, paths.work)
        held = lock(name, paths)
        if fresh:
            shutil.rmtree(paths.work / name, ignore_errors=True)
        function(values, paths)
        del held
        seconds = time.monotonic() - started
        note_seconds(name, seconds, paths)
        log.info("done in %.1f s", seconds)

    sys.exit(guarded(name, work, debug, paths.work / FAILURE_FILE))

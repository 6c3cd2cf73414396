"""DVC's graph of stages, by its own command line: which there are, what of them is out of date, and bringing them up to date."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.errors import BadConfigError, UnavailableError
from pipeline.paths import Paths
from pipeline.stage import FAILURE_FILE, die_with_parent

SHIPPED_VARIABLE = "VAELINE_SHIPPED"
STORAGE = "vaeline-storage"


def _environment(paths: Paths) -> dict[str, str]:
    cache = paths.work / "dvc"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return os.environ | {"PATH": path, "DVC_SITE_CACHE_DIR": str(cache)}  # DVC's default place can be written by everybody


def _asked(paths: Paths, *arguments: str) -> str:
    """What ``dvc …`` prints; BadConfigError with its last line where it fails."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=paths.root, env=_environment(paths), capture_output=True, text=True, check=False)
    if done.returncode:
        told = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
        raise BadConfigError(f"`dvc {' '.join(arguments)}` in {paths.root} fails: {told.removeprefix('ERROR: ')}")
    return done.stdout


def stages(paths: Paths) -> list[str]:
    """The names of all stages, as they follow each other in dvc.yaml."""
    return _asked(paths, "stage", "list", "--name-only").split()


def outdated(paths: Paths) -> dict[str, list[Any]]:
    """What DVC says of each stage that is not up to date."""
    told: dict[str, list[Any]] = json.loads(_asked(paths, "status", "--json"))
    return told


def _moved(paths: Paths, verb: str, storage: str, *arguments: str) -> None:
    """``dvc push`` or ``dvc pull`` with a remote that is set for this once, in DVC's own local configuration.

    UnavailableError where the storage cannot be used.
    """
    _asked(paths, "remote", "add", "--local", "--force", STORAGE, storage)
    try:
        _asked(paths, verb, "--remote", STORAGE, *arguments)
    except BadConfigError as error:
        raise UnavailableError(f"{storage} cannot be used: {error}") from None
    finally:
        _asked(paths, "remote", "remove", "--local", STORAGE)


def push(paths: Paths, storage: str) -> None:
    """Send what the stages have made to ``storage``: a folder, or an address of an object store."""
    if paths.dvc_lock.exists():
        _moved(paths, "push", storage)


def pull(paths: Paths, storage: str, missing: bool = False) -> None:
    """Bring what dvc.lock names from ``storage``; with ``missing`` what is not there is left out."""
    if paths.dvc_lock.exists():
        _moved(paths, "pull", storage, "--force", *(["--allow-missing"] if missing else []))


def without_git(paths: Paths) -> None:
    """Let DVC work in a folder that is no repository."""
    if not (paths.root / ".git").exists():
        _asked(paths, "config", "--local", "core.no_scm", "true")


def repro(paths: Paths, *arguments: str) -> int:
    """Run ``dvc repro`` in this process group; returns the failed stage's exit code, or DVC's own."""
    failure = paths.work / FAILURE_FILE
    failure.unlink(missing_ok=True)
    if os.environ.get(SHIPPED_VARIABLE):  # the images themselves stayed where they were
        arguments = ("--allow-missing", *arguments)
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", *arguments], cwd=paths.root, env=_environment(paths), preexec_fn=die_with_parent
    )
    # The terminal sends Ctrl-C to the whole group: DVC and the stage end by themselves, this process waits for them.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    handler = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, handler)
    if code and failure.exists():
        told = json.loads(failure.read_text(encoding="utf-8"))
        print(f"\nstage {told['stage']} failed: {told['message']}", file=sys.stderr)
        return int(told["exit_code"])
    return code if code >= 0 else 128 - code  # a signal ended DVC itself, perhaps before it could handle one: as a shell says it

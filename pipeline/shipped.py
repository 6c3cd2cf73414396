"""On the cluster: lays shipped code into the workspace there, runs a command in it, and sends back what DVC keeps. Not called by hand.

The current folder is the code as ``pipeline.submit`` shipped it. The workspace keeps its data, cache and checkpoints from job to job.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec

from pipeline import graph
from pipeline.console import set_up_logging
from pipeline.errors import CannotWriteError, UnavailableError
from pipeline.paths import Paths
from pipeline.stage import guarded
from vae.files import write_text

SHIPPED = "pipeline.shipped"
CODE = ("pipeline", "vae", "infra")  # replaced as a whole: a file that is gone must not stay
JOBS = "jobs"  # below the storage: a folder for each job


def bring_lock(paths: Paths, storage: str, job: str) -> None:
    """Take over the dvc.lock that a job left beside DVC's objects; UnavailableError where there is none."""
    try:
        store, root = fsspec.core.url_to_fs(storage)
        text = store.cat_file(f"{root}/{JOBS}/{job}/{paths.dvc_lock.name}").decode()
    except Exception as error:  # each store has errors of its own
        told = " ".join(str(error).split())[:200]
        raise UnavailableError(f"{storage} has no results of job {job} ({told}): look at its log") from None
    write_text(paths.dvc_lock, text)


def _keep_lock(paths: Paths, storage: str, job: str) -> None:
    if not paths.dvc_lock.exists():
        return
    try:
        store, root = fsspec.core.url_to_fs(storage)
        store.makedirs(f"{root}/{JOBS}/{job}", exist_ok=True)
        store.put_file(str(paths.dvc_lock), f"{root}/{JOBS}/{job}/{paths.dvc_lock.name}")
    except Exception as error:  # likewise
        raise CannotWriteError(f"{storage} cannot be written to: {' '.join(str(error).split())[:200]}") from None


def lay(code: Path, workspace: Path) -> None:
    """Copy the code into the workspace; what is there besides stays."""
    workspace.mkdir(parents=True, exist_ok=True)
    for name in CODE:
        shutil.rmtree(workspace / name, ignore_errors=True)
    shutil.copytree(code, workspace, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog=f"python -m {SHIPPED}", description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--job", required=True)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    set_up_logging("shipped")
    paths, codes = Paths(arguments.workspace), []

    def work() -> None:
        lay(Path.cwd(), paths.root)
        graph.without_git(paths)
        graph.pull(paths, arguments.storage, missing=True)
        environment = os.environ | {"PYTHONPATH": str(paths.root), graph.SHIPPED_VARIABLE: "1"}
        codes.append(subprocess.run(arguments.command, cwd=paths.root, env=environment, check=False).returncode)
        if codes[0] == 0:
            graph.push(paths, arguments.storage)
            _keep_lock(paths, arguments.storage, arguments.job)

    code = guarded("shipped", work, debug=False)
    sys.exit(code or codes[0])


if __name__ == "__main__":
    main()

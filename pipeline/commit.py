"""Which code runs here: the commit of the workspace, as git says, or whoever shipped the code without its repository."""

from __future__ import annotations

import os
import subprocess

from pipeline.paths import Paths

COMMIT_VARIABLE, DIRTY_VARIABLE = "VAELINE_GIT_COMMIT", "VAELINE_GIT_DIRTY"


def _git(paths: Paths, *arguments: str) -> str:
    """What git answers, or '' outside a repository."""
    done = subprocess.run(["git", "-C", str(paths.root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def commit(paths: Paths) -> tuple[str, bool]:
    """The commit, '' where it is not known, and whether anything but dvc.lock differs from it."""
    if shipped := os.environ.get(COMMIT_VARIABLE):  # it knows better than a repository into which code was laid
        return shipped, os.environ.get(DIRTY_VARIABLE) == "true"
    return _git(paths, "rev-parse", "HEAD"), any(
        not line.endswith(paths.dvc_lock.name) for line in _git(paths, "status", "--porcelain").splitlines()
    )


def as_environment(paths: Paths) -> dict[str, str]:
    """The same, for code that goes where its repository is not."""
    found, dirty = commit(paths)
    return {COMMIT_VARIABLE: found, DIRTY_VARIABLE: str(dirty).lower()} if found else {}

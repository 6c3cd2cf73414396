"""`python -m pipeline.reproduce VERSION`: make a registered version again from its commit, parameters and data, and compare.

In a clone of this repository in .work/reproduce, with an MLflow store of its own: nothing here is touched. Exit code 0: data, extractor
and model are the same to the byte. 70: they are not, and each difference is told. 65: the version does not say enough of itself.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.console import set_up_logging
from pipeline.errors import BadDataError, InputMissingError, TrainingFailedError
from pipeline.paths import METRICS, Paths
from pipeline.register import TAG, lineage
from pipeline.registry import Registry
from pipeline.stage import guarded
from pipeline.tracking import URI_VARIABLE
from vae.files import read_json, write_text

HASHES = ("data_manifest_sha256", "extractor_manifest_sha256", "model_manifest_sha256")
TOLD = ("elbo_nats", "nll_nats", "fcd", "coverage", "psnr_db")
log = logging.getLogger("pipeline.reproduce")


def _checked(registry: Registry, version: str) -> dict[str, str]:
    """The version's tags; BadDataError where it cannot be made again from them."""
    tags = registry.tags(version)
    commit = tags.get(f"{TAG}git_commit", "unknown")
    if commit == "unknown":
        raise BadDataError(f"models:/{registry.name}/{version} does not name a commit: it was made outside a git repository")
    if tags.get(f"{TAG}git_dirty") != "false":
        raise BadDataError(
            f"models:/{registry.name}/{version} was made with changes to commit {commit[:12]} that no commit has: commit before a run, "
            "and a version can be made again"
        )
    return tags


def _cloned(root: Path, commit: str, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    clone = ["clone", "--quiet", "--no-checkout", str(root), str(directory)]
    for command in (clone, ["-C", str(directory), "checkout", "--quiet", commit]):
        done = subprocess.run(["git", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputMissingError(f"commit {commit} cannot be checked out of {root}: {' '.join(done.stderr.split())[:200]}")


def _run(directory: Path) -> None:
    """The whole pipeline there; its output is shown as it comes."""
    environment = {k: v for k, v in os.environ.items() if k != URI_VARIABLE} | {"PYTHONPATH": str(directory)}
    done = subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=directory, env=environment, check=False)
    if done.returncode:
        raise TrainingFailedError(f"the run in {directory} failed with exit code {done.returncode}; its output is above")


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Which of data, extractor and model are not the same."""
    return [name.removesuffix("_manifest_sha256") for name in HASHES if before.get(TAG + name) != after.get(TAG + name)]


def table(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Scores of both, a line each."""
    rows = [
        (name, before.get(name), after.get(name)) for name in TOLD if before.get(name) is not None or after.get(name) is not None
    ]
    return "\n".join(f"  {name:<12} {old!s:>22} {new!s:>22}" for name, old, new in rows)


def reproduce(which: str, paths: Paths) -> str:
    """Make the version again; returns what is to be said. TrainingFailedError where it is not the same."""
    registry = Registry.here(paths)
    version = registry.version(which)
    tags, parameters = _checked(registry, version), registry.text(version, paths.params.name)
    there = Paths(paths.work / "reproduce" / f"{registry.name}-{version}")
    log.info("commit %s into %s", tags[f"{TAG}git_commit"][:12], there.root)
    _cloned(paths.root, tags[f"{TAG}git_commit"], there.root)
    write_text(there.params, parameters)
    _run(there.root)
    different = differences(tags, lineage(there))
    scores = table(registry.told(version, METRICS), read_json(there.evaluate_report / METRICS))
    told = f"models:/{registry.name}/{version} (left) and what was made of it again (right)\n{scores}"
    if different:
        raise TrainingFailedError(
            f"{told}\nnot the same to the byte: {', '.join(different)}; torch then {tags.get(f'{TAG}torch')}"
        )
    return f"{told}\ndata, extractor and model are the same to the byte"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.reproduce", description=__doc__)
    parser.add_argument("version", help="a version, or an alias")
    arguments = parser.parse_args()
    set_up_logging("reproduce")
    sys.exit(guarded("reproduce", lambda: print(reproduce(arguments.version, Paths.here())), debug=False))


if __name__ == "__main__":
    main()

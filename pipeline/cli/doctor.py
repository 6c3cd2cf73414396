"""``vae doctor``: is this machine fit for the pipeline, and if not, what to do."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from pipeline import params
from pipeline.cli.app import Json, ended
from pipeline.errors import BadConfigError, PipelineError
from pipeline.machine import memory_bytes, processors
from pipeline.paths import Paths

PACKAGES = ("torch", "ray", "dvc", "mlflow", "numpy", "pandas", "pillow", "safetensors", "optuna")
OLDEST_PYTHON = (3, 11)
LEAST_GIB = {"free disk": 5.0, "memory": 4.0}
GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was found, and what to do where it is not well."""

    name: str
    well: bool
    found: str
    remedy: str = ""


def _python() -> Check:
    wanted = ".".join(map(str, OLDEST_PYTHON))
    return Check(
        "Python", sys.version_info >= OLDEST_PYTHON, sys.version.split()[0], f"set PYTHON to {wanted} or newer and `make setup`"
    )


def _packages() -> Check:
    """Against constraints.txt, where this is a checkout."""
    pinned = {}
    file = Path(__file__).resolve().parents[2] / "constraints.txt"
    if file.exists():
        pinned = dict(line.split("==", 1) for line in file.read_text(encoding="utf-8").splitlines() if "==" in line)
    found, wrong = [], []
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        found.append(f"{name} {version}")
        if name in pinned and version.split("+")[0] != pinned[name].split("+")[0]:
            wrong.append(f"{name} is {version}, pinned is {pinned[name]}")
    told = "; ".join([", ".join(found), *wrong])
    return Check("packages", not wrong, told, "`make setup` installs what is pinned")


def _accelerator() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check("accelerator", True, f"none: {processors()} processors are used (infra/ray/laptop.yaml)")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Check("accelerator", True, f"{', '.join(names)}: VAELINE_CLUSTER=infra/ray/gpus.yaml uses them")


def _disk(paths: Paths) -> Check:
    free = shutil.disk_usage(paths.root).free / GIB
    well = free >= LEAST_GIB["free disk"]
    return Check(
        "free disk", well, f"{free:.1f} GiB at {paths.root}", "free some space, or `dvc gc --workspace` and `vae registry gc`"
    )


def _memory() -> Check:
    total = memory_bytes() / GIB
    return Check(
        "memory", total >= LEAST_GIB["memory"], f"{total:.1f} GiB", "use a machine with more: two workers and Ray need 4 GiB"
    )


def _shared_memory() -> Check:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Check("shared memory", True, "no /dev/shm: Ray uses /tmp")
    free = shutil.disk_usage(path).free / GIB
    return Check(
        "shared memory", free >= 1, f"{free:.1f} GiB free in /dev/shm", "start the container with --shm-size=2g, or Ray is slow"
    )


def _parameters(paths: Paths) -> Check:
    if not paths.params.exists():
        return Check("params.yaml", True, "none here: no workspace")
    try:
        params.check(params.read_text(paths.params), paths.params.name)
    except BadConfigError as error:
        return Check("params.yaml", False, str(error), "correct these lines")
    return Check("params.yaml", True, "no fault found")


def _profile(paths: Paths) -> Check:
    from pipeline.cluster import check_local, load_profile

    if not paths.params.exists():
        return Check("cluster profile", True, "none here: no workspace")
    try:
        profile = load_profile(paths)
        check_local(profile, profile.workers)
    except PipelineError as error:
        return Check("cluster profile", False, str(error), "set VAELINE_CLUSTER to a profile that fits")
    return Check("cluster profile", True, f"{profile.workers} workers at {profile.address}")


def _store(paths: Paths) -> Check:
    from pipeline.tracking import Tracker, uri

    if not paths.params.exists() and "MLFLOW_TRACKING_URI" not in os.environ:
        return Check("MLflow", True, "no store: no workspace, and MLFLOW_TRACKING_URI is not set")
    try:
        Tracker(paths)
    except PipelineError as error:
        return Check("MLflow", False, str(error), "start it, or unset MLFLOW_TRACKING_URI to use a file here")
    return Check("MLflow", True, uri(paths))


def _ports() -> Check:
    """Told, and no fault: what holds a port may be this project's own service."""
    from pipeline.serve import PORT, taken
    from pipeline.ui import PORT as UI_PORT

    ways = {int(UI_PORT): "PORT=5001 make ui", PORT: f"vae serve --port {PORT + 1}"}
    held = [f"{port} is in use: `{other}` takes another" for port, other in ways.items() if taken("127.0.0.1", port)]
    return Check("ports", True, "; ".join(held) or f"{' and '.join(map(str, ways))} are free")


def checks(paths: Paths) -> list[Check]:
    """All of them; one that fails by itself is not well."""
    every: list[Callable[[], Check]] = [
        _python, _packages, _accelerator, _memory, _shared_memory, lambda: _disk(paths), lambda: _parameters(paths),
        lambda: _profile(paths), lambda: _store(paths), _ports,
    ]  # fmt: skip
    found = []
    for look in every:
        try:
            found.append(look())
        except Exception as error:
            found.append(
                Check(getattr(look, "__name__", "check").strip("_"), False, f"{type(error).__name__}: {error}", "`make setup`")
            )
    return found


def doctor(as_json: Json = False) -> None:
    """Look at Python, packages, accelerator, memory, disk, params.yaml, the cluster profile and MLflow; say what to do.

    Exit code 0 where all is well, 69 where something is not.
    """

    def work() -> None:
        found = checks(Paths.here())
        if as_json:
            print(json.dumps([asdict(check) for check in found]))
        for check in () if as_json else found:
            print(f"{'well ' if check.well else 'WRONG'}  {check.name:<16} {check.found}")
            if not check.well:
                print(f"       {'':<16} {check.remedy}")
        if not all(check.well for check in found):
            sys.exit(69)

    ended("doctor", work)


def add_to(app: typer.Typer) -> None:
    """Make it a command."""
    app.command()(doctor)

"""Which model a command means: a folder, models:/name@alias, models:/name/version, or an alias or version of this workspace's name."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from pipeline import params
from pipeline.errors import BadConfigError, InputMissingError
from pipeline.paths import Paths
from pipeline.registry import CHAMPION, Registry
from pipeline.tracking import Tracker
from vae.artefact import Generator, load_artefact
from vae.files import DamagedError

FULL = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
SHORT = re.compile(r"[A-Za-z0-9_-]+")


def registry_of(paths: Paths, name: str = "") -> Registry:
    """The registry of ``name``, or of the name in this workspace's params.yaml."""
    if not name:
        if not paths.params.exists():
            raise InputMissingError(f"{paths.params} does not exist: name the model in full, as models:/cats@{CHAMPION}")
        name = params.load(paths.params, ("register",)).register.name
    return Registry(Tracker(paths), name)


def load(reference: str, paths: Paths) -> tuple[str, Generator]:
    """The model and what to call it; a version is copied once into .work/models, where it is checked by its hashes.

    InputMissingError where there is none, BadConfigError for a reference that is none, DamagedError for files that are not whole.
    """
    if Path(reference).is_dir():
        return reference, load_artefact(Path(reference))
    found = FULL.fullmatch(reference)
    if not found and not SHORT.fullmatch(reference):
        raise BadConfigError(
            f"--model {reference!r} names no model: use a folder, models:/name@alias, models:/name/version, an alias or a version"
        )
    registry = registry_of(paths, found["name"] if found else "")
    version = registry.version((found["alias"] or found["version"]) if found else reference)
    called = f"models:/{registry.name}/{version}"
    if not paths.params.exists():  # no workspace: nothing is left behind
        with tempfile.TemporaryDirectory() as folder:
            return called, load_artefact(registry.fetch(version, Path(folder) / "model"))
    kept = paths.work / "models" / f"{registry.name}-{version}"
    for place in kept.rglob("config.json"):
        try:
            return called, load_artefact(place.parent)
        except DamagedError:
            break
    return called, load_artefact(registry.fetch(version, kept))

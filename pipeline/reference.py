"""Which model a person means: a folder, models:/name@alias, models:/name/version, or an alias or version of this workspace's name."""

from __future__ import annotations

import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BadConfigError
from pipeline.paths import Paths
from pipeline.registry import Registry
from vae.artefact import Generator, load_artefact
from vae.files import DamagedError, read_manifest

FULL = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
SHORT = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Reference:
    """Of a registered model: the version or alias ``which``, whatever version that is at the moment."""

    registry: Registry
    which: str

    @property
    def moves(self) -> bool:
        """Whether it may mean another version later."""
        return not self.which.isdecimal()

    def called(self, version: str) -> str:
        """What to call a version."""
        return f"models:/{self.registry.name}/{version}"

    def version(self) -> str:
        """The version that is meant now; InputMissingError where there is none."""
        return self.registry.version(self.which)

    def load(self, version: str) -> Generator:
        """That version, checked by its hashes; nothing is left on the disk."""
        with tempfile.TemporaryDirectory() as folder:
            return load_artefact(self.registry.fetch(version, Path(folder) / "model"))


def parse(reference: str, paths: Paths) -> Path | Reference:
    """The folder, or what is registered; BadConfigError for a text that is neither, InputMissingError where no name can be known."""
    if Path(reference).is_dir():
        return Path(reference)
    found = FULL.fullmatch(reference)
    if not found and not SHORT.fullmatch(reference):
        raise BadConfigError(
            f"--model {reference!r} names no model: use a folder, models:/name@alias, models:/name/version, an alias or a version"
        )
    registry = Registry.here(paths, found["name"] if found else "")
    return Reference(registry, (found["alias"] or found["version"]) if found else reference)


def kept(reference: str, paths: Paths) -> Path:
    """The folder of a registered version, copied once into .work/models and checked by its hashes."""
    meant = parse(reference, paths)
    assert isinstance(meant, Reference)
    version = meant.version()
    folder = paths.work / "models" / f"{meant.registry.name}-{version}"
    for place in folder.rglob("config.json"):
        with suppress(DamagedError):
            read_manifest(place.parent)
            return place.parent
    found = meant.registry.fetch(version, folder)
    read_manifest(found)
    return found


def load(reference: str, paths: Paths) -> tuple[str, Generator]:
    """The model and what to call it; a version is copied once into .work/models, where it is checked by its hashes.

    InputMissingError where there is none, BadConfigError for a reference that is none, DamagedError for files that are not whole.
    """
    meant = parse(reference, paths)
    if isinstance(meant, Path):
        return reference, load_artefact(meant)
    version = meant.version()
    called = meant.called(version)
    if not paths.params.exists():  # no workspace: nothing is left behind
        return called, meant.load(version)
    return called, load_artefact(kept(called, paths))

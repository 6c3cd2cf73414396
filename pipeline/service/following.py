"""The model that a replica answers with: it follows the alias, and a version that is broken does not replace one that works."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.reference import Reference
from pipeline.service import counters
from vae.artefact import Generator, load_artefact
from vae.files import DamagedError

log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Held:
    """A model that works, and what to call it."""

    called: str
    version: str
    generator: Generator


def checked(called: str, version: str, generator: Generator) -> Held:
    """The model, once it has drawn something; DamagedError where that is no image."""
    rows, dim = 8, generator.model.latent_dim
    label_N = torch.zeros(rows, dtype=torch.long) if generator.config.classes else None
    with torch.no_grad():
        drawn = generator.model.sample(
            torch.zeros(rows, dim, device=generator.device), None if label_N is None else label_N.to(generator.device)
        )
    if not drawn.isfinite().all():
        raise DamagedError(f"{called} draws numbers that are not finite: train it anew")
    return Held(called, version, generator)


class Following:
    """The model that ``meant`` stands for, looked after in a thread; ``held`` may be another object at any time."""

    def __init__(self, meant: Path | Reference, poll_seconds: float, device: str = "cpu") -> None:
        self._poll_seconds, self._device = poll_seconds, device
        self.refused: dict[str, str] = {}  # version: why
        self.away = ""  # why the registry does not answer
        if isinstance(meant, Path):
            self.held = checked(str(meant), "", load_artefact(meant).to(device))
            return
        version = meant.version()
        self.held = checked(meant.called(version), version, meant.load(version).to(device))
        if meant.moves:
            threading.Thread(target=self._follow, args=(meant,), daemon=True).start()

    def _follow(self, meant: Reference) -> None:
        while True:
            threading.Event().wait(self._poll_seconds)
            self.look(meant)

    def look(self, meant: Reference) -> None:
        """Take the version that is meant now, if it is another one and works."""
        try:
            version = meant.version()
            if version != self.held.version and version not in self.refused:
                self._take(meant, version)
            self.away = ""
        except (
            Exception
        ) as error:  # whatever a registry that is away throws: there is a model, and the next look may find another
            self.away = " ".join(str(error).split())[:500]

    def _take(self, meant: Reference, version: str) -> None:
        called = meant.called(version)
        try:
            self.held = checked(called, version, meant.load(version).to(self._device))
        except (DamagedError, ValueError, RuntimeError) as error:  # of its files: they will not get better
            self.refused[version] = " ".join(str(error).split())[:500]
            counters.refused()
            log.error("%s is refused, %s goes on: %s", called, self.held.called, self.refused[version])
            return
        log.info("%s serves from now on", called)
        counters.serves(version)

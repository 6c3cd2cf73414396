"""What is to be told to MLflow about ended runs, on disk until MLflow has taken it: nothing is lost, nothing comes twice.

A message is a folder ``.work/outbox/<number>-<name>``: message.json and artifacts/<place>/. They are delivered in order.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.paths import Paths
from pipeline.tracking import Tracker, patient
from vae.files import canonical_json, read_json, replaced_directory, write_text

MESSAGE, ARTIFACTS = "message.json", "artifacts"
log = logging.getLogger("pipeline.outbox")


@dataclass(frozen=True, kw_only=True)
class Message:
    """An ended run: ``run_id`` where it exists already, else ``key`` names it (and ``parent_key`` its parent) once and for all."""

    name: str
    run_id: str = ""
    key: str = ""
    parent_key: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    records: list[dict[str, float]] = field(default_factory=list)  # metrics with ``step`` and ``time_ms``
    status: str = "FINISHED"


class Outbox:
    """The messages of one workspace."""

    def __init__(self, paths: Paths) -> None:
        self._root = paths.work / "outbox"

    def waiting(self) -> list[Path]:
        """The folders of the messages, the oldest first."""
        return sorted(path for path in self._root.glob("[0-9]*") if path.is_dir())

    def put(self, uri: str, message: Message, artifacts: dict[str, Path] | None = None) -> None:
        """Keep a message for the store ``uri``, with copies of folders under their places, before anything is sent."""
        last = int(self.waiting()[-1].name.partition("-")[0]) if self.waiting() else 0
        with replaced_directory(self._root / f"{last + 1:06d}-{message.name}") as directory:
            for place, folder in (artifacts or {}).items():
                shutil.copytree(folder, directory / ARTIFACTS / place)
            write_text(directory / MESSAGE, canonical_json({"uri": uri, "message": asdict(message)}))

    def deliver(self, tracker: Tracker) -> int:
        """Send what waits for this tracker's store, each message gone once it is there; returns how many others wait.

        Raises whatever the store raises; what was sent twice because an answer was lost is there once.
        """
        others = 0
        for directory in self.waiting():
            content = read_json(directory / MESSAGE)
            if content["uri"] != tracker.uri:
                others += 1
                continue
            _send(tracker, Message(**content["message"]), directory / ARTIFACTS)
            shutil.rmtree(directory)
        return others

    def try_to_deliver(self, tracker: Tracker) -> None:
        """The same, where a store that is away is no failure: what waits is sent by ``pipeline.sync`` or the next stage."""
        try:
            self.deliver(tracker)
        except Exception as error:
            reason = " ".join(str(error).split())[:120]
            log.warning("MLflow does not take results now (%s); they wait: `python -m pipeline.sync` sends them", reason)


def connect(paths: Paths) -> Tracker:
    """The store in force, told first what earlier stages could not tell it; UnavailableError where it does not answer."""
    with patient(paths):
        tracker = Tracker(paths)
        Outbox(paths).try_to_deliver(tracker)
    return tracker


def _send(tracker: Tracker, message: Message, artifacts: Path) -> None:
    run_id = message.run_id or tracker.run_of(message.key)
    if not run_id:
        parent = tracker.run_of(message.parent_key) if message.parent_key else ""
        run_id = tracker.run(message.name, key=message.key, parent=parent, tags=message.tags)
    tracker.params(run_id, message.params)
    tracker.records(run_id, message.records)
    if artifacts.exists():
        for place in sorted(artifacts.iterdir()):
            tracker.artifacts(run_id, place, place.name)
    tracker.end(run_id, message.status)

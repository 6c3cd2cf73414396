"""Who holds the alias ``champion``, and everything that ever happened to it: one lock, and a record of each attempt.

An MLflow alias goes to whoever writes last, so whoever reads it, decides and writes it holds the lock meanwhile, and reads again
what it wrote. Records are tags of the registered model, numbered: no record is ever changed.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import InputMissingError, TemporaryError, UnavailableError
from pipeline.lease import lease
from pipeline.paths import Paths
from pipeline.registry import CHAMPION, Registry
from pipeline.tracking import is_server

RECORD_TAG = "vaeline.history."  # and a number of six digits
WAIT_SECONDS, POLL_SECONDS = 900.0, 0.05
PROMOTED, KEPT, ROLLED_BACK, INTERRUPTED = "promoted", "kept", "rolled back", "interrupted"
LOCAL = "sqlite:///"
log = logging.getLogger("pipeline.ledger")


def _lock_file(registry: Registry, paths: Paths) -> Path:
    """Beside a store that is a file, so that workspaces which share it exclude each other; else in the workspace."""
    where = registry.tracker.uri
    if where.startswith(LOCAL):
        return Path(f"{where.removeprefix(LOCAL)}.{registry.name}.lock")
    return paths.work / f"{registry.name}.registry.lock"


@contextmanager
def locked(registry: Registry, paths: Paths, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Alone with the registry's model; TemporaryError where another process does not end within ``wait_seconds``.

    Processes of a machine exclude each other by a file; where the store is a server, machines do by a lease there.
    """
    path, name = _lock_file(registry, paths), registry.name
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline, told = time.monotonic() + wait_seconds, False
    with path.open("a") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TemporaryError(f"another process works on models:/{name} (lock {path}): wait for it to end") from None
                if not told:
                    log.info("waiting for another process that works on models:/%s", name)
                    told = True
                time.sleep(POLL_SECONDS)
        with lease(registry.tracker, name, deadline) if is_server(registry.tracker.uri) else nullcontext():
            yield


def history(registry: Registry) -> list[dict[str, Any]]:
    """All records, the first one first."""
    tags = registry.model_tags()
    return [json.loads(tags[key]) for key in sorted(tags) if key.startswith(RECORD_TAG)]


def record(registry: Registry, event: str, version: str, before: str | None, after: str | None, **more: Any) -> dict[str, Any]:
    """Add what happened; within ``locked``. ``before`` and ``after``: who was champion."""
    entry = {
        "number": len(history(registry)), "event": event, "version": int(version), "champion_before": before and int(before),
        "champion_after": after and int(after), "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": f"{getpass.getuser()}@{socket.gethostname()}", **more,
    }  # fmt: skip
    registry.tag_model(f"{RECORD_TAG}{entry['number']:06d}", json.dumps(entry, sort_keys=True))
    return entry


def crown(registry: Registry, version: str) -> None:
    """Give the alias to ``version`` and see that it has it; within ``locked``."""
    registry.promote(version)
    holder = registry.champion()
    if holder != version:
        raise UnavailableError(
            f"models:/{registry.name}@{CHAMPION} was given to version {version}, and is version {holder}: somebody else writes to "
            "this registry without the lock; look at `vae registry history` and repeat"
        )


def mend(registry: Registry) -> list[str]:
    """Close what a killed process left: versions that were made and never decided about; within ``locked``. Returns them."""
    left = registry.undecided()
    for version in left:
        champion = registry.champion()
        registry.tag(version, {"vaeline.promoted": "false", "vaeline.decision": "its registration was interrupted"})
        record(registry, INTERRUPTED, version, champion, champion, reason="its registration was interrupted")
        log.warning("version %s was never decided about, its registration was interrupted: it stays as it is", version)
    return left


def _before(records: list[dict[str, Any]], holder: str | None) -> str | None:
    """Who was champion when ``holder`` became it."""
    crowned = [entry for entry in records if entry["event"] == PROMOTED and str(entry["champion_after"]) == holder]
    before = crowned[-1]["champion_before"] if crowned else None
    return None if before is None else str(before)


def rollback(registry: Registry, paths: Paths) -> dict[str, Any]:
    """Give the alias back to the champion before this one; twice is once. Returns the record that says so.

    InputMissingError where there was none before.
    """
    with locked(registry, paths):
        holder, records = registry.champion(), history(registry)
        if records and records[-1]["event"] == ROLLED_BACK and str(records[-1]["champion_after"]) == holder:
            return records[-1]
        previous = _before(records, holder)
        if holder is None or previous is None:
            known = f"version {holder} is the first champion" if holder else "it has no champion"
            raise InputMissingError(f"models:/{registry.name} cannot be rolled back: {known}")
        registry.version(previous)  # it may have been deleted since
        crown(registry, previous)
        return record(registry, ROLLED_BACK, previous, holder, previous, reason=f"version {holder} was withdrawn")


def promote_by_hand(registry: Registry, paths: Paths, which: str, reason: str) -> dict[str, Any]:
    """Give the alias to a version because a person says so."""
    with locked(registry, paths):
        version, holder = registry.version(which), registry.champion()
        crown(registry, version)
        reason = reason or "by hand"
        registry.tag(version, {"vaeline.promoted": "true", "vaeline.decision": reason})
        return record(registry, PROMOTED, version, holder, version, reason=reason)


def collect(registry: Registry, paths: Paths, keep: int, really: bool) -> list[str]:
    """Delete all versions but the newest ``keep``, those with an alias, and the champion before this one; returns the deleted."""
    with locked(registry, paths):
        spared = registry.aliased() | {_before(history(registry), registry.champion())}
        doomed = [version for version in registry.versions()[:-keep] if version not in spared]
        for version in doomed if really else ():
            registry.delete(version)
        return doomed

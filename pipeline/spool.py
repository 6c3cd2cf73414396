"""Metrics on their way from a training to whoever shows or tracks them: a file of JSON lines that only ever grows.

Training appends and never waits. A follower reads; each line is known by its step, so a resumed training that reports a step
again changes nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class SpoolWriter:
    """Appends records in one write each; records whose step is already there are dropped."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self.last_step = max((record["step"] for record in read(path)), default=-1)
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            _drop_torn_line(path)

    def append(self, record: dict[str, Any]) -> bool:
        """Write one record; False where its step was written before."""
        if record["step"] <= self.last_step:
            return False
        line = (json.dumps(record, sort_keys=True) + "\n").encode()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.last_step = record["step"]
        return True


def _drop_torn_line(path: Path) -> None:
    data = path.read_bytes()
    with path.open("r+b") as stream:
        stream.truncate(data.rfind(b"\n") + 1)


def read(path: Path) -> list[dict[str, Any]]:
    """All whole records; a line that a crash cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


class LineReader:
    """Gives each whole line of a file that grows once, as it comes."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def new(self) -> list[bytes]:
        """The lines that came since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.splitlines()


class SpoolReader(LineReader):
    """Gives each record once, as it comes."""

    def records(self) -> list[dict[str, Any]]:
        """The records that came since the last call."""
        return [json.loads(line) for line in self.new()]

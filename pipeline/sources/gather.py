"""Many files from many hosts at once, written in the order in which they are listed."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from pipeline.console import progress
from pipeline.raw import RawWriter, Unreadable
from pipeline.sources.cloud import Cloud, is_cloud
from pipeline.sources.content import checksum_problem
from pipeline.sources.fetch import Fetcher, Settings, host_of
from pipeline.sources.folder import open_regular

THREADS = 32
WINDOW = 512  # rows that are looked ahead: what bounds memory, and how far a slow link holds up the writing
MOST_LINK_BYTES = 2**28  # no picture is larger


@dataclass(frozen=True)
class Row:
    """One file to be brought: ``place`` is a URL or a path, ``name`` its path in data/raw; ``number`` counts from 1."""

    number: int
    place: str
    name: str
    is_url: bool
    label: str = ""
    split: str = ""
    sha256: str = ""


class Gatherer:
    """Brings rows to local files, some hosts' many at a time but never more than a few of one; results in the rows' order."""

    def __init__(self, folder: Path, fetcher: Fetcher, cloud: Cloud, per_host: int) -> None:
        self._folder, self._fetcher, self._cloud, self._per_host = folder, fetcher, cloud, per_host
        self._pool = ThreadPoolExecutor(THREADS, "fetch")
        self._lock = threading.Lock()
        self._busy: dict[str, int] = {}
        self._waiting: dict[str, deque[tuple[Row, Future]]] = {}

    def __enter__(self) -> Gatherer:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._waiting.clear()
        self._fetcher.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def results(self, rows: Iterator[Row]) -> Iterator[tuple[Row, Path | Unreadable]]:
        """(row, its file or why there is none), in the order of ``rows``."""
        ahead: deque[tuple[Row, Future]] = deque()
        names: set[str] = set()
        for row in rows:
            future: Future = Future()
            if row.name in names:
                future.set_result(Unreadable("duplicate_name", f"row {row.number}: the same link or path stands in a row before"))
            else:
                names.add(row.name)
                self._submit(row, future)
            ahead.append((row, future))
            if len(ahead) == WINDOW:
                first, result = ahead.popleft()
                yield first, result.result()
        while ahead:
            first, result = ahead.popleft()
            yield first, result.result()

    def _submit(self, row: Row, future: Future) -> None:
        host = host_of(row.place) if row.is_url else ""
        with self._lock:
            if self._busy.get(host, 0) >= self._per_host:
                self._waiting.setdefault(host, deque()).append((row, future))
                return
            self._busy[host] = self._busy.get(host, 0) + 1
        self._pool.submit(self._run, host, row, future)

    def _run(self, host: str, row: Row, future: Future) -> None:
        try:
            future.set_result(self._bring(row))
        except BaseException as error:  # ours, or no room: the stage stops at this row
            future.set_exception(error)
        with self._lock:
            queue = self._waiting.get(host)
            following = queue.popleft() if queue else None
            if following is None:
                self._busy[host] -= 1
        if following is not None:
            self._pool.submit(self._run, host, *following)

    def _bring(self, row: Row) -> Path | Unreadable:
        checksum = f"sha256:{row.sha256}" if row.sha256 else ""
        try:
            if not row.place:
                raise Unreadable("no_link", "the field is empty")
            if row.sha256 and not re.fullmatch(r"[0-9a-f]{64}", row.sha256):
                raise Unreadable("bad_checksum", f"sha256 {row.sha256[:80]!r} is no 64 hexadecimal digits")
            if not row.is_url:
                return self._local(row, checksum)
            if is_cloud(row.place):
                return self._cloud.fetch(row.place, checksum, MOST_LINK_BYTES)
            return self._fetcher.fetch(row.place, checksum, MOST_LINK_BYTES)
        except Unreadable as error:
            return Unreadable(error.reason, f"row {row.number}: {error.detail}")
        except ValueError as error:  # what one of the parsers of addresses does not take
            return Unreadable("bad_url", f"row {row.number}: {error}")

    def _local(self, row: Row, checksum: str) -> Path:
        path = self._folder / row.place
        with open_regular(path):
            pass
        if checksum and (problem := checksum_problem(path, checksum)):
            raise Unreadable("wrong_checksum", problem)
        return path


def settings_of(values: SimpleNamespace) -> Settings:
    """The fetcher's settings from the parameters."""
    return Settings(values.download.connections_per_host, values.download.attempts, values.download.deadline_seconds)


def pack_rows(values: SimpleNamespace, rows: Iterator[Row], total: int, folder: Path, writer: RawWriter) -> None:
    """Bring every row, in order; what cannot be brought is a failure. Relative paths are below ``folder``."""
    keep = values.work / "fetch"
    per_host = values.download.connections_per_host
    with (
        Fetcher(keep, settings_of(values)) as fetcher,
        Gatherer(folder, fetcher, Cloud(keep), per_host) as gatherer,
    ):
        for row, found in progress(gatherer.results(rows), total, "links", "fetching"):
            if isinstance(found, Unreadable):
                writer.fail(row.name, found.reason, found.detail)
                continue
            try:
                with open_regular(found) as stream:
                    writer.add(row.name, stream, label=row.label, split=row.split)
            except Unreadable as error:
                writer.fail(row.name, error.reason, f"row {row.number}: {error.detail}")

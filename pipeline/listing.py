"""What the input holds now, beside what stage download brought last: read and hashed, never stored, and no link is fetched.

A folder, archive or array file is known by its files' content; a list of links and a folder of an object store by names alone, so
that content which changed under an old name is not seen. Sources that are made here or pinned by a checksum never change.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from pipeline.paths import Paths
from pipeline.raw import BLOCK_BYTES, Content, RawWriter, Unreadable, opened, read_failures, read_files, safe_name
from pipeline.sources import manifest, remote
from pipeline.sources import path as own

KEPT_BYTES = 2**26  # of one new file: what is larger is no picture that one would look at
Keep = Callable[[str, bytes], None]


@dataclass(frozen=True)
class Changes:
    """How many files were known, the names of new ones, how many have gone, and what names the whole input as it is now."""

    known: int
    new: list[str]
    gone: int
    sha256: str

    @property
    def share(self) -> float:
        """New and gone files as a share of the known ones."""
        return (len(self.new) + self.gone) / max(1, self.known)


class _Hasher(RawWriter):
    """Takes what a source hands over as a RawWriter does, and keeps names and hashes; ``keep`` gets the content of new files."""

    def __init__(self, known: frozenset[str], keep: Keep) -> None:
        self.hashes: dict[str, str] = {}
        self._known, self._keep = known, keep

    def add(self, path: str, content: Content, *, label: str = "", split: str = "", **factors: float) -> bool:
        digest, length, blocks = hashlib.sha256(), 0, []
        try:
            with opened(content) as readable:
                while block := readable.read(BLOCK_BYTES):
                    digest.update(block)
                    length += len(block)
                    if length <= KEPT_BYTES:
                        blocks.append(block)
        except Unreadable:
            return False
        sha256 = digest.hexdigest()
        if sha256 not in self._known and length <= KEPT_BYTES:
            self._keep(sha256, b"".join(blocks))
        return self.hashes.setdefault(safe_name(path), sha256) == sha256

    def fail(self, path: str, reason: str, detail: str) -> None:
        pass

    def close(self) -> None:
        pass


class Sample:
    """At most ``most`` files of all that ``keep`` is given, by hash and not by place: any order gives the same ones."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most
        self._heap: list[tuple[int, str]] = []  # the largest hash first
        self._kept: set[str] = set()

    def keep(self, sha256: str, content: bytes) -> None:
        """Keep this file, perhaps in place of another."""
        entry = (-int(sha256, 16), sha256)
        if sha256 in self._kept:
            return
        if len(self._heap) == self._most:
            if entry < self._heap[0]:
                return
            _, gone = heapq.heapreplace(self._heap, entry)
            self._kept.remove(gone)
            (self._folder / gone).unlink()
        else:
            heapq.heappush(self._heap, entry)
        self._kept.add(sha256)
        (self._folder / sha256).write_bytes(content)

    def contents(self) -> Iterator[bytes]:
        """Those that were kept, in the order of their hashes."""
        for _, sha256 in sorted(self._heap, reverse=True):
            yield (self._folder / sha256).read_bytes()


def _nothing(_sha256: str, _content: bytes) -> None:
    pass


def _named(sha256s: dict[str, str]) -> str:
    return hashlib.sha256("".join(f"{name}\0{sha256}\n" for name, sha256 in sorted(sha256s.items())).encode()).hexdigest()


def _by_name(names: list[str], old: frozenset[str]) -> Changes:
    now = frozenset(names)
    return Changes(len(old), sorted(now - old), len(old - now), _named(dict.fromkeys(now, "")))


def changes(values: SimpleNamespace, paths: Paths, keep: Keep = _nothing) -> Changes | None:
    """What is new and what has gone since data/raw was filled; None where the source cannot change.

    Raises what the source raises where the input is not there or cannot be read.
    """
    download, raw = values.download, read_files(paths.raw)
    failed = {path for path, _, _ in read_failures(paths.raw)}
    if download.source == "path":
        known = frozenset(raw["sha256"].to_pylist())
        hasher = _Hasher(known, keep)
        own.pack(values, hasher)
        new = sorted(name for name, sha256 in hasher.hashes.items() if sha256 not in known)
        return Changes(raw.num_rows, new, len(known - set(hasher.hashes.values())), _named(hasher.hashes))
    old = frozenset(raw["path"].to_pylist()) | failed
    if download.source == "manifest":
        rows = manifest.read(Path(download.path).expanduser(), download)
        return _by_name([safe_name(row.name) for row in rows], old)
    if download.source == "remote" and not remote.is_file(download.url):
        return _by_name([safe_name(name) for name, _ in remote.objects(download.url)], old)
    return None

"""Shards of shared storage as verified copies on this machine's own disk, of which no more are kept than there is room for.

Processes of one machine share the folder: one copies while the others wait, and what was not used for the longest time goes first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vae.files import DamagedError, manifest_hashes

BLOCK_BYTES = 2**20


class ShardCache:
    """A folder of copies named by their sha256, of ``limit_bytes`` in all."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid() or stat.S_IMODE(folder.stat().st_mode) & 0o022:
            raise PermissionError(f"{folder} can be written by others: remove it, or name another cache_folder")
        self._folder, self._limit_bytes = folder, limit_bytes
        self._hashes: dict[Path, str] = {}

    def know(self, directory: Path) -> None:
        """Take the hashes of a data set from its manifest; DamagedError where it is none."""
        self._hashes |= {directory / name: sha256 for name, sha256 in manifest_hashes(directory).items()}

    def open(self, source: Path) -> int:
        """The descriptor of a verified copy of a file of a known data set; DamagedError where the file is not what it was."""
        sha256 = self._hashes[source]
        copy = self._folder / sha256
        with suppress(FileNotFoundError):
            os.utime(copy)
            return os.open(copy, os.O_RDONLY)
        with self._alone():
            if not copy.exists():
                self._make_room(source.stat().st_size)
                self._bring(source, sha256, copy)
            return os.open(copy, os.O_RDONLY)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_room(self, size_bytes: int) -> None:
        for left in self._folder.glob("*.part"):  # by whoever was killed
            left.unlink()
        found = sorted(((entry.stat(), entry) for entry in self._folder.glob("?" * 64)), key=lambda pair: pair[0].st_mtime_ns)
        total = sum(told.st_size for told, _ in found)
        for told, entry in found:
            if total + size_bytes <= self._limit_bytes:
                return
            entry.unlink()
            total -= told.st_size

    def _bring(self, source: Path, sha256: str, copy: Path) -> None:
        digest, part = hashlib.sha256(), copy.with_suffix(".part")
        with source.open("rb") as origin, part.open("wb") as stream:
            while block := origin.read(BLOCK_BYTES):
                digest.update(block)
                stream.write(block)
        if digest.hexdigest() != sha256:
            part.unlink()
            raise DamagedError(f"{source} differs from the sha256 in its manifest: run `dvc repro` again")
        part.rename(copy)

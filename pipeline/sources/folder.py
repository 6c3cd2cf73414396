"""Walks a folder of strangers' files: every entry is a regular file to be read, or named with the reason why not."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from pipeline.raw import Unreadable

log = logging.getLogger("pipeline.download")
KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
SETTLED_NS = 2 * 10**9  # longer than any file system's clock ticks


class Entry(NamedTuple):
    """One thing in a folder: ``path`` below it (with /), its length, and a reason code where it is no file to be read.

    ``stamp`` is another one once the file may have been written to, wherever the folder is moved; '' tells nothing.
    """

    path: str
    length_bytes: int = 0
    reason: str = ""
    detail: str = ""
    stamp: str = ""


def _stamp(known: os.stat_result, settled_ns: int) -> str:
    """What is another text once a file has been written to; '' where it was written to so lately that this may not show.

    Two changes within a tick of the clock have one time (git calls such files racily clean).
    """
    written_ns, changed_ns = known.st_mtime_ns, known.st_ctime_ns
    if written_ns > settled_ns or changed_ns > settled_ns:
        return ""
    return f"{known.st_dev}:{known.st_ino}:{known.st_size}:{written_ns}:{changed_ns}"


def _listed(folder: str) -> list[os.DirEntry[str]]:
    """What a folder holds, in byte order of the names."""
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name.encode("utf-8", "surrogateescape"))


def walk(root: Path) -> Iterator[Entry]:
    """All entries below ``root`` but its folders, in byte order of their parts; links are named, never followed.

    Reasons: ``link``, ``not_a_file``, ``unreadable`` (a folder that cannot be listed). An empty folder is no file: it is a line of the log.
    """
    settled_ns = time.time_ns() - SETTLED_NS
    waiting: list[tuple[str, os.DirEntry[str] | None]] = [("", None)]  # deepest last, so that the order is that of the parts
    while waiting:
        path, entry = waiting.pop()
        try:
            if entry is None or entry.is_dir(follow_symlinks=False):
                entries = _listed(f"{root}/{path}" if path else str(root))
                if not entries:
                    log.warning("the folder %s is empty: if it names a class, the class has no images", root / path)
                waiting += [(f"{path}/{each.name}" if path else each.name, each) for each in reversed(entries)]
                continue
            known = entry.stat(follow_symlinks=False)
        except OSError as error:
            yield Entry(path or ".", reason="unreadable", detail=error.strerror or str(error))
            continue
        if stat.S_ISREG(known.st_mode):
            yield Entry(path, known.st_size, "", "", _stamp(known, settled_ns))
        elif stat.S_ISLNK(known.st_mode):
            yield Entry(path, reason="link", detail="a symbolic link: copy the file it points to")
        else:
            yield Entry(path, reason="not_a_file", detail=KINDS.get(stat.S_IFMT(known.st_mode), "no regular file"))


def _all(root: Path) -> Iterator[os.DirEntry[str]]:
    """The same but in any order and without a word of what cannot be listed."""
    waiting = [str(root)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    yield entry


def count(root: Path) -> int:
    """About how many entries ``walk`` gives: all that can be listed."""
    return sum(1 for _ in _all(root))


def length_bytes(root: Path) -> int:
    """The length of all regular files below ``root`` that can be listed."""
    total = 0
    for entry in _all(root):
        with contextlib.suppress(OSError):
            total += entry.stat(follow_symlinks=False).st_size if entry.is_file(follow_symlinks=False) else 0
    return total


class _Stream:
    """A file whose errors while it is read are reasons."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            raise Unreadable("unreadable", error.strerror or str(error)) from None

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def open_regular(path: Path | str) -> _Stream:
    """Open a regular file without following a link and without ever waiting; Unreadable says why it cannot be done."""
    try:
        # It may have been exchanged since it was listed: a FIFO would block, a link would lead elsewhere.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # a name with NUL in it, from a list, is a ValueError
        reason = "link" if getattr(error, "errno", 0) == errno.ELOOP else "unreadable"
        raise Unreadable(reason, getattr(error, "strerror", None) or str(error)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unreadable("not_a_file", "no regular file")
    return _Stream(os.fdopen(descriptor, "rb"))

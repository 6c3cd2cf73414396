"""Walks a folder of strangers' files: every entry is a regular file to be read, or named with the reason why not."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.raw import Unreadable

log = logging.getLogger("pipeline.download")
KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@dataclass(frozen=True)
class Entry:
    """One thing in a folder: ``path`` below it (with /), its length, and a reason code where it is no file to be read."""

    path: str
    length_bytes: int = 0
    reason: str = ""
    detail: str = ""


def walk(root: Path) -> Iterator[Entry]:
    """All entries below ``root`` but its folders, in byte order of their parts; links are named, never followed.

    Reasons: ``link``, ``not_a_file``, ``unreadable`` (a folder that cannot be listed). An empty folder is no file: it is a line of the log.
    """
    waiting = [""]  # deepest last, so that the order is that of the parts
    while waiting:
        path = waiting.pop()
        full = root / path if path else root
        try:
            mode = os.lstat(full) if path else os.stat(full)
            if stat.S_ISDIR(mode.st_mode):
                names = sorted(os.listdir(full), key=os.fsencode)
                if not names:
                    log.warning("the folder %s is empty: if it names a class, the class has no images", full)
                waiting += [f"{path}/{name}" if path else name for name in reversed(names)]
                continue
        except OSError as error:
            yield Entry(path or ".", reason="unreadable", detail=error.strerror or str(error))
            continue
        if stat.S_ISREG(mode.st_mode):
            yield Entry(path, mode.st_size)
        elif stat.S_ISLNK(mode.st_mode):
            yield Entry(path, reason="link", detail="a symbolic link: copy the file it points to")
        else:
            yield Entry(path, reason="not_a_file", detail=KINDS.get(stat.S_IFMT(mode.st_mode), "no regular file"))


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


def open_regular(path: Path) -> _Stream:
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

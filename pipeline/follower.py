"""Writes data/raw beside what is kept of the last run: an archive is taken over, as a link, where the same files come in the same order.

Where they do not, those that were only compared are read after all, and written to the same bytes as ever.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.kept import Archive, Kept, Told
from pipeline.raw import ARCHIVE_NAME, COLUMNS, Content, RawWriter, Unopened, begins_archive, safe_name


class Follower(RawWriter):
    """A RawWriter that leaves unopened what is as in the last run: it writes the same folder, byte for byte, and names what it linked.

    A file that is not opened counts as one that can be read, so ``add`` is true of it even where that turns out otherwise.
    """

    def __init__(self, directory: Path, last: Kept | None) -> None:
        super().__init__(directory)
        self._last = last
        self._followed: Archive | None = None  # whose first files have come again, and nothing else
        self._pending: list[tuple[str, Unopened, str, str] | tuple[str, str, str]] = []  # these files, and failures among them
        self._matched = 0  # of these files
        self.known: dict[str, str] = {}  # the sha256 of archives that were taken over
        self.taken_over = 0  # files

    def add(self, path: str, content: Content, *, label: str = "", split: str = "", **factors: float) -> bool:
        """Store one file, or put it off: it may be the next one of an archive that is there already."""
        if isinstance(content, Unopened) and not factors and self._follows((safe_name(path), content.stamp, label, split)):
            self._pending.append((path, content, label, split))
            return True
        if self._followed is not None and safe_name(path) in self._seen:
            self._write_pending()  # of two files with one name the first that can be read counts
        return super().add(path, content, label=label, split=split, **factors)

    def fail(self, path: str, reason: str, detail: str) -> None:
        """Note a file that could not be brought here, in its turn."""
        if self._followed is not None:
            self._pending.append((path, reason, detail))
        else:
            super().fail(path, reason, detail)

    def _follows(self, told: Told) -> bool:
        if self._last is None or not told[1] or told[0] in self._seen:
            return False
        followed = self._followed
        if followed is None or self._matched == len(followed.told) or followed.told[self._matched] != told:
            begun = self._last.beginning_with(told)
            if begun is None:
                return False
            length_bytes = begun.rows["bytes"][0].as_py()
            self._decide(told[0], length_bytes)
            if not self._begins(told[0], length_bytes):
                return False
            self._followed, self._matched = begun, 0
        self._seen.add(told[0])
        self._matched += 1
        return True

    def _archive_for(self, name: str, length_bytes: int) -> Any:
        self._decide(name, length_bytes)
        return super()._archive_for(name, length_bytes)

    def _decide(self, name: str, length_bytes: int) -> None:
        """Take the followed archive over if it has come to its end and this file, the next, begins another; else write it anew."""
        followed = self._followed
        if followed is None:
            return
        whole = self._matched == len(followed.told)
        if whole and begins_archive(name, length_bytes, self._matched, pc.sum(followed.rows["bytes"]).as_py()):
            self._take_over()
        else:
            self._write_pending()

    def _take_over(self) -> None:
        followed, pending = self._followed, self._pending
        assert followed is not None
        name = ARCHIVE_NAME.format(self._archive + 1)
        try:
            os.link(followed.file, self._directory / name)
        except OSError:  # another disk, or too many links
            self._write_pending()
            return
        self._end_archive()
        self._archive += 1
        numbers = pa.array(np.full(len(followed.told), self._archive, np.int32))
        self._note(followed.rows.set_column(list(COLUMNS).index("archive"), "archive", numbers), followed.stamps)
        self.known[name] = followed.sha256
        self.files += len(followed.told)
        self.taken_over += len(followed.told)
        self._followed, self._pending = None, []
        for failure in pending:
            if not isinstance(failure[1], Unopened):
                self.fail(*failure)

    def _write_pending(self) -> None:
        pending, self._followed, self._pending = self._pending, None, []
        for item in pending:
            if isinstance(item[1], Unopened):
                path, content, label, split = item
                self._seen.discard(safe_name(path))
                super().add(path, content, label=label, split=split)
            else:
                super().fail(*item)

    def __exit__(self, *raised: object) -> None:
        if any(raised):  # the folder goes: nothing has to be read for it any more
            self._followed, self._pending = None, []
        super().__exit__(*raised)

    def close(self) -> None:
        """Write what is left; the folder is whole afterwards. Once."""
        if self._followed is not None and self._matched == len(self._followed.told):
            self._take_over()
        self._write_pending()
        super().close()

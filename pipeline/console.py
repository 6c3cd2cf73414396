"""What a person sees: readable log lines, and progress as a bar on a terminal or as plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
LINE_SECONDS = 5.0  # between two progress lines where there is no terminal


def set_up_logging(stage: str, debug: bool = False) -> None:
    """Log to standard error as ``HH:MM:SS stage | text``; warnings of libraries only unless ``debug``."""
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format=f"%(asctime)s {stage} | %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=True,
    )
    for name in ("vae", "pipeline"):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)


class Progress:
    """A count towards ``total`` with a free text behind it; ``to`` sets the count."""

    def __init__(self, total: int, unit: str, label: str) -> None:
        self._bar = tqdm(total=total, unit=unit, desc=label, leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self._total, self._unit, self._label = total, unit, label
        self._next, self._count = time.monotonic() + LINE_SECONDS, 0

    def to(self, count: int, text: str = "") -> None:
        """Show that ``count`` are done."""
        if not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(count - self._count)
            self._count = count
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            share = 100 * count // max(1, self._total)
            told = f"{self._label} {count}/{self._total} {self._unit} ({share} %) {text}"
            logging.getLogger("pipeline").info("%s", told.rstrip())

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


def progress(items: Iterable[Item], total: int, unit: str, label: str) -> Iterator[Item]:
    """Yield ``items`` while showing how many are done."""
    shown = Progress(total, unit, label)
    try:
        for done, item in enumerate(items, start=1):
            yield item
            shown.to(done)
    finally:
        shown.close()

"""What became of the files that are no accepted images: rejected for a reason of their own, or skipped by policy."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np

from pipeline.paths import REJECTED, SKIPPED

LABEL_MISSING = "label_missing"
SHOWN_PER_REASON = 16  # pictures of rejected files that are kept for the report


class Fates:
    """Collects (path, reason, detail, sha256 of the file) while the stage runs; written sorted, so in one order always."""

    def __init__(self) -> None:
        self.rejected: list[tuple[str, str, str, str]] = []
        self.skipped: list[tuple[str, str, str]] = []
        self.pictures: list[tuple[str, np.ndarray | None]] = []  # (reason, pixels where they could be decoded), of some
        self._shown: Counter[str] = Counter()

    def reject(self, path: str, reason: str, detail: str, source_sha256: str = "", picture: np.ndarray | None = None) -> None:
        """This file is no usable image, for a reason of its own."""
        self.rejected.append((path, reason, detail, source_sha256))
        if self._shown[reason] < SHOWN_PER_REASON:
            self._shown[reason] += 1
            self.pictures.append((reason, picture))

    def skip(self, path: str, reason: str, detail: str = "") -> None:
        """This file is left out by policy."""
        self.skipped.append((path, reason, detail))

    def reasons(self) -> dict[str, int]:
        """How many were rejected for each reason, the most frequent first."""
        counts = Counter(reason for _, reason, _, _ in self.rejected)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def write(self, directory: Path) -> None:
        """rejected.csv and skipped.csv."""
        for name, head, rows in (
            (REJECTED, ("path", "reason", "detail", "source_sha256"), self.rejected),
            (SKIPPED, ("path", "reason", "detail"), self.skipped),
        ):
            with (directory / name).open("w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerow(head)
                writer.writerows(sorted(rows))

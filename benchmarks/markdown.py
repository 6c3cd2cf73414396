"""Tables as Markdown, and the results that they are of."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.rows import RESULTS


def read(name: str) -> dict[str, Any]:
    """A benchmark's results, nothing where it has none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def measured_on(*found: dict[str, Any]) -> str:
    """The machines of results, as a sentence."""
    return f"Measured on: {', '.join(sorted({each['machine'] for each in found}))}."


def lines(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table of texts under its head."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows))

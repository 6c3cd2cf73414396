"""A benchmark's rows, each measured by a function that gets an empty folder: its command line, and the file of its results."""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from vae.files import canonical_json, write_text

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "data"
RESULTS = ROOT / "docs" / "results"
Row = Callable[..., dict[str, Any]]


def result(benchmark: str) -> Path:
    """Where a benchmark's results lie."""
    return RESULTS / f"{benchmark}.json"


def measure(
    benchmark: str, rows: Mapping[str, Row], description: str, extra: Mapping[str, Row] | None = None, **options: float
) -> None:
    """Measure the rows that the command line names, of ``extra`` too, or all of ``rows``; each replaces its own part of the result.

    Every row gets an empty folder, and by name each of ``options``, which the command line can set.
    """
    known = {**rows, **(extra or {})}
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *known], default=[])
    for option, default in options.items():
        parser.add_argument(f"--{option}", type=float, default=default, help="default: %(default)g")
    chosen = vars(parser.parse_args())
    named = chosen.pop("rows")
    logging.disable(logging.INFO)
    work, path = ROOT / ".work", result(benchmark)
    work.mkdir(exist_ok=True)
    for row in named or rows:
        with tempfile.TemporaryDirectory(prefix=f"{benchmark}-", dir=work) as name:
            measured = known[row](Path(name), **chosen)
        results = json.loads(path.read_text()) if path.exists() else {}
        write_text(path, canonical_json(results | {row: measured | {"machine": machine()}}))
        print(row, json.dumps(measured, indent=1), flush=True)

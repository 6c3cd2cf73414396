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
Row = Callable[[Path], dict[str, Any]]


def result(benchmark: str) -> Path:
    """Where a benchmark's results lie."""
    return RESULTS / f"{benchmark}.json"


def measure(benchmark: str, rows: Mapping[str, Row], description: str) -> None:
    """Measure the rows that the command line names, or all; each replaces its own part of the result."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *rows], default=[])
    logging.disable(logging.INFO)
    work, path = ROOT / ".work", result(benchmark)
    work.mkdir(exist_ok=True)
    for row in parser.parse_args().rows or rows:
        with tempfile.TemporaryDirectory(prefix=f"{benchmark}-", dir=work) as name:
            measured = rows[row](Path(name))
        results = json.loads(path.read_text()) if path.exists() else {}
        write_text(path, canonical_json(results | {row: measured | {"machine": machine()}}))
        print(row, json.dumps(measured, indent=1), flush=True)

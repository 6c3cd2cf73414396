"""Keeps what the last run measured: docs/results/<name>.json and pictures, and the README's table from all of them.

``python -m benchmarks.showcase "title"`` after ``make run``. Times are of the last run of each stage, on the machine named.
"""

from __future__ import annotations

import shutil
import sys

from benchmarks import tables
from benchmarks.machine import machine
from pipeline import params
from pipeline.paths import METRICS, Paths
from pipeline.stage import SECONDS_FILE
from vae.files import canonical_json, read_json, read_manifest, write_text

PICTURES = ("samples", "reconstructions", "interpolations", "traversals")


def main() -> None:
    """Write the result of the last run, then the table of all."""
    paths = Paths.here()
    name = params.load(paths.params, ("register",)).register.name
    folder = paths.root / "docs" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    seconds = read_json(paths.work / SECONDS_FILE)
    stages = {stage: value for stage, value in seconds.items() if stage != "run"}
    result = {
        "title": sys.argv[1] if len(sys.argv) > 1 else name,
        "images": sum(read_manifest(paths.processed, hashes=False)["counts"].values()),
        "minutes": round(seconds["run"] / 60, 1),
        "stage_seconds": stages,
        "metrics": read_json(paths.evaluate_report / METRICS),
        "protocol": read_json(paths.evaluate_report / "protocol.json"),
        "search": read_json(paths.tune_report / METRICS),
        "best": read_json(paths.tune_report / "best.json"),
        "machine": machine(),
    }
    write_text(folder / f"{name}.json", canonical_json(result))
    for picture in PICTURES:
        shutil.copyfile(paths.evaluate_report / f"{picture}.png", folder / f"{name}-{picture}.png")
    tables.write()


if __name__ == "__main__":
    main()

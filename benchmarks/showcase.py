"""Keeps what the last run measured: docs/results/<name>.json and pictures, and the README's table from all of them.

``python -m benchmarks.showcase "title"`` after ``make run``. Times are of the last run of each stage, on the machine named.
"""

from __future__ import annotations

import json
import shutil
import sys

from benchmarks.machine import machine
from pipeline import params
from pipeline.paths import METRICS, Paths
from pipeline.stage import SECONDS_FILE
from vae.files import canonical_json, read_json, read_manifest, write_text

PICTURES = ("samples", "reconstructions", "interpolations", "traversals")
COLUMNS = (
    "images",
    "minutes",
    "elbo_nats",
    "nll_nats",
    "bits_per_dim",
    "fcd",
    "fcd_real_floor",
    "coverage",
    "psnr_db",
    "active_units",
    "mig",
    "factor_vae_score",
)
BEGIN, END = "<!-- results: benchmarks/showcase.py writes this -->", "<!-- end of results -->"


def _row(result: dict) -> str:
    cells = []
    for column in COLUMNS:
        value = result["metrics"].get(column, result.get(column))
        cells.append("" if value is None else f"{value:.4g}" if isinstance(value, float) else f"{value:,}")
    return f"| {result['title']} | " + " | ".join(cells) + " |"


def _table(results: list[dict]) -> str:
    head = "| data | " + " | ".join(name.replace("_", " ") for name in COLUMNS) + " |"
    rows = [head, "|" + "---|" * (len(COLUMNS) + 1), *(_row(result) for result in results)]
    machines = ", ".join(sorted({result["machine"] for result in results}))
    return "\n".join([BEGIN, *rows, "", f"Measured on: {machines}.", END])


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
    every = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    results = [result for result in every if "title" in result]  # other benchmarks keep theirs here too
    readme = paths.root / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    write_text(readme, before + _table(results) + rest.split(END)[1])


if __name__ == "__main__":
    main()

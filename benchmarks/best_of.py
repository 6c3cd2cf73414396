"""What the best of n is worth: ``python -m benchmarks.best_of`` after ``make run`` writes docs/results/best-of-n.json and a picture.

The model of this folder's last run draws as many images as its test split has; precision, coverage and FCD are of the stage evaluate's
own networks and images, medians over three seeds of drawing. Beside the best of each group of near candidates the best of all, which is
what one would do first; and images drawn at a lower temperature, which is the usual way to more precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from benchmarks import tables
from benchmarks.machine import machine
from benchmarks.rows import RESULTS, result
from pipeline import params
from pipeline.best_of import SCORES
from pipeline.best_of_curve import of_score
from pipeline.paths import SECOND, Paths
from pipeline.plots import ACCENT, INK, save, subplots
from vae.artefact import Generator, load_artefact
from vae.best import scored
from vae.data import ImageShards
from vae.extractor import Extractor, load_extractor
from vae.files import canonical_json, read_json, write_text
from vae.metrics.frechet import frechet_distance, moments
from vae.metrics.manifold import density_and_coverage

NAME, MOST, SEEDS, TEMPERATURES = "best-of-n", 16, (1, 2, 3), (1.0, 0.9, 0.8, 0.7)
STYLES = {"density": ACCENT, "consistency": "#2c7fb8"}


def _colder(generator: Generator, networks: list[Extractor], real: list[Any], seed: int) -> list[dict[str, Any]]:
    rows = []
    for temperature in TEMPERATURES:
        images = generator.sample(len(real[0]), seed, temperature)
        features = [network.features(images) for network in networks]
        found = density_and_coverage(real[0], features[0])
        rows.append(
            {
                "temperature": temperature, "precision": found.precision, "coverage": found.coverage, "density": found.density,
                "fcd": frechet_distance(moments(real[0]), moments(features[0])),
                "fcd_second": frechet_distance(moments(real[1]), moments(features[1])),
            }
        )  # fmt: skip
    return rows


def measured(paths: Paths) -> list[dict[str, Any]]:
    """A row for each way to choose and number of candidates, medians over the seeds."""
    generator = load_artefact(paths.model)
    networks = [load_extractor(folder)[0] for folder in (paths.extractor, paths.extractor / SECOND)]
    test = ImageShards(paths.processed / "test")
    samples = params.load(paths.params, ("evaluate",)).evaluate.samples
    real = [network.features(test.spread(min(len(test), samples))) for network in networks]
    parts = []
    for seed in SEEDS:
        for by, score in SCORES.items():
            drawn = scored(generator, len(real[0]), seed, MOST, score)
            for diverse in (True, False):
                first, second = (
                    pd.DataFrame(of_score(drawn, MOST, generator, network, known, diverse=diverse))
                    for network, known in zip(networks, real, strict=True)
                )
                parts.append(first.assign(fcd_second=second["fcd"], way=by if diverse else f"{by}, of all"))
        parts.append(pd.DataFrame(_colder(generator, networks, real, seed)).assign(way="temperature"))
    table = pd.concat(parts).fillna({"candidates": 1, "temperature": 1.0})
    middle = table.groupby(["way", "candidates", "temperature"], sort=False).median().round(4).reset_index()
    return [
        {key: value for key, value in row.items() if not isinstance(value, float) or np.isfinite(value)}
        for row in middle.to_dict("records")
    ]


def draw(rows: list[dict[str, Any]], name: str) -> None:
    """Coverage over precision: a line for each way, from one candidate (or temperature 1) on; up and to the right is better."""
    figure, axes = subplots(6, 4)
    for way, of_way in pd.DataFrame(rows).groupby("way", sort=False):
        by, _, of_all = str(way).partition(", ")
        colour, style = STYLES.get(by, INK), ":" if of_all or by == "temperature" else "-"
        axes.plot(of_way["precision"], of_way["coverage"], color=colour, linestyle=style, marker="o", markersize=4, label=way)
        last = of_way.iloc[-1]
        told = f"{last['temperature']:g}" if by == "temperature" else f"{last['candidates']:.0f}"
        axes.annotate(
            told, (last["precision"], last["coverage"]), fontsize=8, xytext=(4, 4), textcoords="offset points", color=colour
        )
    axes.set_xlabel("precision: share of samples that lie among real images")
    axes.set_ylabel("coverage: share of real images that are reached")
    axes.set_title(f"{name}: the best of 1 to {MOST} candidates, by score; temperature 1 to {TEMPERATURES[-1]:g}", fontsize=10)
    axes.legend(fontsize=8)
    save(figure, RESULTS / f"{NAME}-{name}.png")


def main() -> None:
    """Measure the last run's model."""
    paths, path = Paths.here(), result(NAME)
    name = params.load(paths.params, ("register",)).register.name
    rows = measured(paths)
    found = {"rows": rows, "seeds": list(SEEDS), "machine": machine()}
    write_text(path, canonical_json((read_json(path) if path.exists() else {}) | {name: found}))
    draw(rows, name)
    tables.write()
    print(pd.DataFrame(rows).to_string())


if __name__ == "__main__":
    main()

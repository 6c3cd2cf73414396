"""What drawing more candidates buys and costs: precision and coverage of the best of 1, 2, 4, ... by each score of the model's own.

``evaluate.best_of_coverage`` states the bound: so much of the coverage of images drawn one by one must be left.
"""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
from torch import Tensor

from pipeline.best_of import SCORES
from pipeline.plots import ACCENT, INK, save, subplots
from pipeline.scores import Scores, spread
from vae.artefact import Generator
from vae.best import Scored, scored
from vae.extractor import Extractor
from vae.metrics.frechet import TooFewSamplesError, frechet_distance, moments
from vae.metrics.manifold import density_and_coverage

BEST_OF, PICTURE = "best_of.csv", "best_of.png"
log = logging.getLogger("pipeline.best_of_curve")


def doublings(most: int) -> list[int]:
    """1, 2, 4, ... and ``most``."""
    return sorted({*(2**i for i in range(most.bit_length())), most})


def of_score(
    drawn: Scored, most: int, generator: Generator, network: Extractor, real_ND: Tensor, *, diverse: bool = True
) -> list[Any]:
    """A row for each number of candidates: their precision, coverage, density and FCD to as many real images."""
    rows, of_real = [], moments(real_ND)
    for candidates in doublings(most):
        features_ND = network.features(generator.decode(*drawn.best(candidates, diverse=diverse)))
        found = density_and_coverage(real_ND, features_ND)
        rows.append(
            {
                "candidates": candidates, "precision": found.precision, "coverage": found.coverage, "density": found.density,
                "fcd": frechet_distance(of_real, moments(features_ND)),
            }
        )  # fmt: skip
    return rows


def curve(values: SimpleNamespace, generator: Generator, network: Extractor, real_ND: Tensor) -> pd.DataFrame:
    """The rows of every score that the model has; ``held``: whether the stated share of coverage is left."""
    most, parts = values.evaluate.best_of, []
    for by, score in SCORES.items():
        try:
            drawn = scored(generator, len(real_ND), values.base.seed, most, score)
        except ValueError as error:
            log.warning("no best of %d by %s: %s", most, by, error)
            continue
        parts.append(pd.DataFrame(of_score(drawn, most, generator, network, real_ND)).assign(by=by))
    table = pd.concat(parts, ignore_index=True)
    table["held"] = table["coverage"] >= values.evaluate.best_of_coverage * table["coverage"][0]
    return table[["by", *(column for column in table if column != "by")]]


def draw(table: pd.DataFrame, bound: float, path: Path) -> None:
    """Precision and coverage over the number of candidates, a line for each score; the bound is dotted."""
    figure, all_axes = subplots(9, 3.2, columns=2)
    for axes, name in zip(all_axes, ("precision", "coverage"), strict=True):
        for (by, rows), colour in zip(table.groupby("by", sort=False), (ACCENT, "#2c7fb8"), strict=False):
            axes.plot(rows["candidates"], rows[name], marker="o", markersize=4, color=colour, label=by)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(set(table["candidates"])), [str(each) for each in sorted(set(table["candidates"]))])
        axes.set_xlabel("candidates for each image")
        axes.set_title(name, fontsize=10)
    all_axes[1].axhline(bound * table["coverage"][0], color=INK, linestyle=":", label="bound")
    all_axes[1].legend(fontsize=8)
    save(figure, path)


def write(values: SimpleNamespace, generator: Generator, network: Extractor, test_ND: Tensor, report: Path) -> Scores:
    """The table, the picture, and as scores what the most precise choice within the bound reaches; nothing where it is not asked."""
    section = values.evaluate
    if section.best_of == 1:
        return {}
    real_ND = spread(test_ND, section.samples)
    log.info("precision and coverage of the best of up to %d candidates", section.best_of)
    try:
        table = curve(values, generator, network, real_ND)
    except TooFewSamplesError as error:
        log.warning("no best of %d: %s", section.best_of, error)
        return dict.fromkeys(f"best_of_{name}" for name in ("candidates", "precision", "coverage", "fcd"))
    table.to_csv(report / BEST_OF, index=False)
    draw(table, section.best_of_coverage, report / PICTURE)
    best = table[table["held"]].sort_values(["precision", "candidates"], ascending=[False, True]).iloc[0]
    log.info(
        "precision %.3f, coverage %.3f: `vae sample --best-of %d --by %s` (one by one: %.3f, %.3f)",
        best["precision"], best["coverage"], best["candidates"], best["by"], table["precision"][0], table["coverage"][0],
    )  # fmt: skip
    return {f"best_of_{name}": float(best[name]) for name in ("candidates", "precision", "coverage", "fcd")}

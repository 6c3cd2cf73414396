"""Pictures of a search: its trials, its fronts, and Optuna's view of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.choice import COMPLETED
from pipeline.plots import ACCENT, INK, save, subplots, words
from pipeline.trial import Point

LEAST_FOR_CONTOUR = 4
SHADES = "viridis_r"
SIDES = (1, 1), (1, -1), (-1, 1), (-1, -1)  # of a point: right and above, and so on


def _contour(axes: Any, done: pd.DataFrame, low: float, high: float) -> None:
    """The score between the trials that had the whole budget, where these span an area."""
    from matplotlib.tri import Triangulation

    places_N2 = np.stack([np.log(done["beta"].astype(float)), done["latent_dim"].astype(float)], 1)
    extent = np.ptp(places_N2, axis=0) if len(done) else np.zeros(2)
    if (
        len(done) < LEAST_FOR_CONTOUR
        or not extent.all()
        or np.linalg.matrix_rank((places_N2 - places_N2.mean(0)) / extent, 1e-6) < 2
    ):
        return
    mesh = Triangulation(*places_N2.T)  # of the logarithm, as the axis is
    mesh = Triangulation(done["beta"], done["latent_dim"], mesh.triangles)
    axes.tricontourf(mesh, done["score"].astype(float), np.linspace(low, high, 12), cmap=SHADES, alpha=0.35)


def _write_scores(figure: Any, axes: Any, scored: pd.DataFrame) -> None:
    """The score beside its point, on a side where no other one is written; the last of ``scored`` first, while there is room."""
    figure.draw_without_rendering()  # from now on everything has its place
    taken: list[Any] = []
    for row in scored[::-1].itertuples():
        for sideways, upwards in SIDES:
            text = axes.annotate(
                f"{row.score:.3g}",
                (row.beta, row.latent_dim),
                (6 * sideways, 6 * upwards),
                textcoords="offset points",
                ha="left" if sideways > 0 else "right",
                va="bottom" if upwards > 0 else "top",
                fontsize=8,
                color=INK,
            )
            extent = text.get_window_extent().padded(3)  # two numbers side by side are not to be read as one
            if not any(extent.overlaps(other) for other in taken):
                taken.append(extent)
                break
            text.remove()


def draw_trials(table: pd.DataFrame, best: dict[str, Any], metric: str, path: Path) -> None:
    """Every trial as a point of (beta, latent dimension), its colour the score, its size how far it was trained; contours between.

    Colours span the scores of trials that had the whole budget: those of less training are not comparable.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    figure, axes = subplots(7, 4.5)
    axes.use_sticky_edges = False  # points on the rim are not cut
    axes.margins(0.08)
    scored = table[table["score"].notna()]
    gaps = (scored["score"].astype(float) - best["score"]).abs()
    scored = scored.loc[gaps.sort_values(ascending=False, kind="stable").index]  # the choice above all that lie near it
    done = scored[scored["state"] == COMPLETED]
    known = (done if len(done) else scored)["score"].astype(float)
    low, high = float(known.min()), float(known.max())
    if low < high:
        _contour(axes, done, low, high)
    size = 40 + 160 * scored["images"] / max(1, scored["images"].max())
    points = axes.scatter(
        scored["beta"],
        scored["latent_dim"],
        c=scored["score"].astype(float),
        s=size,
        cmap=SHADES,
        edgecolor=INK,
        vmin=low,
        vmax=high,
    )
    axes.scatter([best["beta"]], [best["latent_dim"]], s=420, facecolor="none", edgecolor=ACCENT, linewidth=2)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("beta")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("latent dimensions")
    small = "; small points were stopped early" if len(done) < len(scored) else ""
    axes.set_title(f"{len(table)} trials{small}; ringed: the choice", fontsize=10)
    figure.colorbar(points, label=metric)
    _write_scores(figure, axes, scored)
    save(figure, path)


def draw_fronts(table: pd.DataFrame, best: dict[str, Any], metric: str, path: Path) -> None:
    """Rate against distortion, and latent dimension against the score: every trial, those that no other beats joined, the choice ringed."""
    from matplotlib.ticker import MaxNLocator

    panels = (
        ("rate_nats", "distortion_nats", "front_rate_distortion", "rate (nats)", "distortion (nats)"),
        ("latent_dim", "score", "front_latent_dim_score", "latent dimensions", metric),
    )
    figure, both = subplots(7, 4.5, columns=2)
    for axes, (x, y, front, x_label, y_label) in zip(both, panels, strict=True):
        scored = table[table[x].notna() & table[y].notna()]
        early = scored["state"] != "completed"
        if early.any():
            axes.scatter(scored.loc[early, x], scored.loc[early, y], s=20, color="#bbbbbb", label="stopped early")
        axes.scatter(scored.loc[~early, x], scored.loc[~early, y], s=50, color="#2c7fb8", label="whole budget")
        joined = scored[scored[front]].sort_values(x)
        axes.plot(joined[x], joined[y], color="#2c7fb8", label="front")
        ringed = scored[(scored["beta"] == best["beta"]) & (scored["latent_dim"] == best["latent_dim"])]
        axes.scatter(ringed[x], ringed[y], s=260, facecolor="none", edgecolor=ACCENT, linewidth=2, label="chosen")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
    both[0].legend(fontsize=8)
    both[1].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    figure.suptitle(best["rule"], fontsize=10)
    save(figure, path)


def draw_lineages(points: Sequence[Point], images: Sequence[float], best: dict[str, Any], path: Path) -> None:
    """Beta on the way to each trial's last weights: a line per trial, a step where it went on from another; the choice's thick."""
    figure, axes = subplots(7, 4)
    for point, seen in zip(points, images, strict=True):
        ends = [each["until_images"] for each in point.history]
        betas = [*(each["beta"] for each in point.history), point.beta]
        taken = point.number == best["trial"]
        axes.stairs(
            betas, [0, *ends, max(seen, *ends, 1)], baseline=None, color=ACCENT if taken else "#2c7fb8",
            linewidth=3 if taken else 1.2, zorder=3 if taken else 2,
        )  # fmt: skip
        axes.annotate(str(point.number), (seen, point.beta), (4, -3), textcoords="offset points", fontsize=8, color=INK)
    axes.set_yscale("log")
    axes.set_xlabel("images seen by the weights")
    axes.set_ylabel("beta")
    axes.set_title("a step: the trial went on from another one's weights; thick: the choice", fontsize=10)
    save(figure, path)


def draw_study(study: Any, shares: dict[str, float], parallel: Path, importance: Path) -> None:
    """Parallel coordinates of the trials, and the importance of each parameter; None: too few trials, and the pictures say so."""
    if study is None:
        for path in (parallel, importance):
            words("too few trials had the whole budget", path)
        return
    figure, axes = subplots(6, 1 + 0.4 * len(shares))
    names = list(shares)[::-1]
    axes.barh(names, [shares[name] for name in names], color="#2c7fb8")
    axes.set_xlabel("share of the score's variance")
    save(figure, importance)
    from optuna.visualization import matplotlib as of_optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn: Any = of_optuna.plot_parallel_coordinate(study, target_name=study.study_name)
    drawn.set_title("")
    drawn.figure.set_size_inches(8, 4)
    save(drawn.figure, parallel, bbox_inches="tight")

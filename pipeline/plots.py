"""Pictures of numbers; the only place that imports matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

INK, ACCENT = "#333333", "#c0392b"


def _figure(width: float, height: float) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    """A PNG without a time stamp or version, so that equal numbers give equal bytes."""
    from matplotlib import pyplot

    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def draw_trials(table: pd.DataFrame, best: dict[str, Any], metric: str, path: Path) -> None:
    """Every trial as a point of (beta, latent dimension), its colour the score, its size how far it was trained."""
    figure, axes = _figure(7, 4.5)
    scored = table[table["score"].notna()]
    size = 40 + 160 * scored["images"] / max(1, scored["images"].max())
    points = axes.scatter(scored["beta"], scored["latent_dim"], c=scored["score"], s=size, cmap="viridis_r", edgecolor=INK)
    for row in scored.itertuples():
        axes.annotate(f"{row.score:.3g}", (row.beta, row.latent_dim), (6, 6), textcoords="offset points", fontsize=8, color=INK)
    axes.scatter([best["beta"]], [best["latent_dim"]], s=420, facecolor="none", edgecolor=ACCENT, linewidth=2)
    axes.set_xscale("log")
    axes.set_xlabel("beta")
    axes.set_ylabel("latent dimensions")
    axes.set_title(f"{len(table)} trials; small points were stopped early; ringed: the choice", fontsize=10)
    figure.colorbar(points, label=metric)
    _save(figure, path)


def draw_rates(rates: list[float], path: Path) -> None:
    """The rate of each latent dimension, largest first: which of them the model uses."""
    figure, axes = _figure(6, 3)
    axes.bar(range(len(rates)), sorted(rates, reverse=True), color="#2c7fb8")
    axes.set_xlabel("latent dimension, by rate")
    axes.set_ylabel("rate (nats)")
    _save(figure, path)


def draw_curves(curves: pd.DataFrame, path: Path) -> None:
    """Bound, distortion and rate on training and validation images over the images seen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, all_axes = pyplot.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for axes, name in zip(all_axes, ("elbo_nats", "distortion_nats", "rate_nats"), strict=True):
        axes.plot(curves["images"], curves[name], color="#2c7fb8", label="training")
        axes.plot(curves["images"], curves[f"val_{name}"], color=ACCENT, label="validation (averaged weights)")
        axes.set_xlabel("images seen")
        axes.set_title(name, fontsize=10)
        low = curves[[name, f"val_{name}"]].iloc[len(curves) // 4 :]
        axes.set_ylim(low.min().min() - 0.02 * abs(low.min().min()), low.max().max() + 0.02 * abs(low.max().max()))
    all_axes[0].legend(fontsize=8)
    _save(figure, path)

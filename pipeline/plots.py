"""Pictures of numbers; the only place that imports matplotlib."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from vae.pictures import shown

INK, ACCENT = "#333333", "#c0392b"
MOST_LATENTS = 24  # columns that one can read
TOLD = 0.1  # of a factor's entropy: what is less may be chance


def _figure(width: float, height: float) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path, **how: Any) -> None:
    """A PNG without a time stamp or version, so that equal numbers give equal bytes."""
    from matplotlib import pyplot

    figure.savefig(path, dpi=110, metadata={"Software": None}, **how)
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


def draw_fronts(table: pd.DataFrame, best: dict[str, Any], metric: str, path: Path) -> None:
    """Rate against distortion, and latent dimension against the score: every trial, those that no other beats joined, the choice ringed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = (
        ("rate_nats", "distortion_nats", "front_rate_distortion", "rate (nats)", "distortion (nats)"),
        ("latent_dim", "score", "front_latent_dim_score", "latent dimensions", metric),
    )
    figure, both = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axes, (x, y, front, x_label, y_label) in zip(both, panels, strict=True):
        scored = table[table[x].notna() & table[y].notna()]
        early = scored["state"] != "completed"
        axes.scatter(scored.loc[early, x], scored.loc[early, y], s=20, color="#bbbbbb", label="stopped early")
        axes.scatter(scored.loc[~early, x], scored.loc[~early, y], s=50, color="#2c7fb8", label="whole budget")
        joined = scored[scored[front]].sort_values(x)
        axes.plot(joined[x], joined[y], color="#2c7fb8", label="front")
        ringed = scored[(scored["beta"] == best["beta"]) & (scored["latent_dim"] == best["latent_dim"])]
        axes.scatter(ringed[x], ringed[y], s=260, facecolor="none", edgecolor=ACCENT, linewidth=2, label="chosen")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
    both[0].legend(fontsize=8)
    figure.suptitle(best["rule"], fontsize=10)
    _save(figure, path)


def draw_study(study: Any, shares: dict[str, float], parallel: Path, importance: Path) -> None:
    """Parallel coordinates of the trials, and the importance of each parameter; None: too few trials, and the pictures say so."""
    if study is None:
        for path in (parallel, importance):
            figure, axes = _figure(6, 2)
            axes.axis("off")
            axes.text(0.5, 0.5, "too few trials had the whole budget", ha="center", va="center", fontsize=12, color=INK)
            _save(figure, path)
        return
    figure, axes = _figure(6, 1 + 0.4 * len(shares))
    names = list(shares)[::-1]
    axes.barh(names, [shares[name] for name in names], color="#2c7fb8")
    axes.set_xlabel("share of the score's variance")
    _save(figure, importance)
    from optuna.visualization import matplotlib as of_optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn: Any = of_optuna.plot_parallel_coordinate(study, target_name=study.study_name)
    drawn.set_title("")
    drawn.figure.set_size_inches(8, 4)
    _save(drawn.figure, parallel, bbox_inches="tight")


def draw_rates(rates: list[float], kind: str, path: Path) -> None:
    """The rate of each latent dimension, largest first, or of each layer, from the top: which of them the model uses."""
    figure, axes = _figure(6, 3)
    ordered = sorted(rates, reverse=True) if kind == "dimension" else rates
    axes.bar(range(len(rates)), ordered, color="#2c7fb8")
    axes.set_xlabel("latent dimension, by rate" if kind == "dimension" else "layer of latents, from the top")
    axes.set_ylabel("rate (nats)")
    _save(figure, path)


def draw_information(known: pd.DataFrame | None, path: Path) -> None:
    """What each latent (column) tells of each factor (row), in units of the factor's entropy; a row's best latent is framed.

    Columns are ordered by the factor that they tell most of, so that a disentangled model shows a staircase; at most the 24 best.
    NaN is a factor that never varies. None: there is nothing to draw, and the picture says why.
    """
    if known is None:
        figure, axes = _figure(6, 1.5)
        axes.axis("off")
        axes.text(0.5, 0.5, "the images come without known factors, or are too few", ha="center", fontsize=12, color=INK)
        return _save(figure, path)
    from matplotlib.patches import Rectangle

    best, framed = known.max().fillna(0), set(known.dropna().idxmax(axis=1))
    latents = sorted(known, key=lambda latent: (latent not in framed, -best[latent]))[:MOST_LATENTS]
    place = dict(zip(known, known.fillna(0).to_numpy().argmax(0), strict=True))
    latents.sort(key=lambda latent: (place[latent] if best[latent] >= TOLD else len(known), -best[latent]))
    table = known[latents].to_numpy()
    figure, axes = _figure(max(6, 0.5 * table.shape[1] + 1.8), 0.5 * table.shape[0] + 1)
    axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    gaps = []
    for y, values in enumerate(table):
        if values[0] != values[0]:
            gaps.append("never varies")
            continue
        for x, value in enumerate(values):
            shade = "white" if value > 0.55 else INK if value >= TOLD else "#9a9a9a"
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8, color=shade)
        axes.add_patch(Rectangle((values.argmax() - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor=ACCENT, linewidth=1.5))
        ranked = [*sorted(known.iloc[y], reverse=True), 0.0]
        gaps.append(f"{ranked[0] - ranked[1]:.2f}")
    axes.set_xticks(range(table.shape[1]), latents)
    axes.set_yticks(range(table.shape[0]), known.index)
    axes.set_xlabel("latent dimension" + (f" (best {MOST_LATENTS} of {known.shape[1]})" if known.shape[1] > MOST_LATENTS else ""))
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(gaps)), gaps)
    right.set_ylabel("gap to the second")
    for side in (axes, right):
        side.tick_params(length=0)
        for spine in side.spines.values():
            spine.set_visible(False)
    axes.set_title("what a latent tells of a factor, as a share of its entropy", fontsize=10)
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


def draw_histograms(values: dict[str, tuple[Any, list[float]]], path: Path) -> None:
    """A histogram of the accepted images for each measure, with the limits of its filter that lie in sight."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, all_axes = pyplot.subplots(1, len(values), figsize=(3 * len(values), 2.6), layout="constrained")
    for axes, (name, (numbers, limits)) in zip(all_axes, values.items(), strict=True):
        axes.hist(numbers, bins=40, color="#2c7fb8")
        low, high = axes.get_xlim()
        for limit in limits:
            if low <= limit <= high:
                axes.axvline(limit, color=ACCENT, linewidth=1.5)
        axes.set_title(name, fontsize=10)
        axes.tick_params(labelsize=8)
    all_axes[0].set_ylabel("accepted images")
    _save(figure, path)


def draw_classes(classes: pd.DataFrame, path: Path, most: int = 40) -> None:
    """Images per label, stacked by split; the ``most`` frequent labels."""
    table = classes.pivot_table(index="label", columns="split", values="images", aggfunc="sum", fill_value=0)
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index[:most]]
    figure, axes = _figure(max(5, 0.3 * len(table) + 2), 3)
    bottom = [0] * len(table)
    names = [str(label) or "(no label)" for label in table.index]
    for split, colour in (("train", "#2c7fb8"), ("val", "#7fcdbb"), ("test", "#edb458")):
        if split in table:
            axes.bar(names, table[split], bottom=bottom, label=split, color=colour)
            bottom = [a + b for a, b in zip(bottom, table[split], strict=True)]
    axes.set_ylabel("images")
    axes.tick_params(axis="x", labelrotation=90 if len(table) > 6 else 0, labelsize=8)
    figure.legend(fontsize=8, loc="outside right upper")
    _save(figure, path)


def draw_labelled(tiles: list[tuple[str, Any]], mode: str, path: Path, nothing: str) -> None:
    """Pictures under their captions, a grey field where there is no picture; the text ``nothing`` where there are none."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = 8
    rows = max(1, -(-len(tiles) // columns))
    figure, all_axes = pyplot.subplots(rows, columns, figsize=(1.5 * columns, 1.6 * rows), layout="constrained", squeeze=False)
    for axes in all_axes.flat:
        axes.axis("off")
    for axes, (caption, pixels) in zip(all_axes.flat, sorted(tiles, key=lambda tile: tile[0]), strict=False):
        if pixels is None:
            axes.imshow([[0.8]], cmap="gray", vmin=0, vmax=1)
            axes.text(0, 0, "no\npicture", ha="center", va="center", fontsize=8, color=INK)
        else:
            picture = shown(pixels[None], mode)[0]
            axes.imshow(picture[..., 0] if picture.shape[2] == 1 else picture, cmap="gray", vmin=0, vmax=255)
        axes.set_title(caption, fontsize=7)
    if not tiles:
        figure.text(0.5, 0.5, nothing, ha="center", fontsize=12, color=INK)
    _save(figure, path)

"""Pictures of numbers; with search_plots.py the only place that imports matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from vae.pictures import shown

INK, ACCENT = "#333333", "#c0392b"
MOST_LATENTS = 24  # columns that one can read
TOLD = 0.1  # of a factor's entropy: what is less may be chance


def load() -> Any:
    """pyplot, without a screen: the first time takes a third of a second."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def subplots(width: float, height: float, columns: int = 1, rows: int = 1, **how: Any) -> Any:
    """A figure of so many inches, and its axes, as pyplot gives them."""
    return load().subplots(rows, columns, figsize=(width, height), layout="constrained", **how)


def save(figure: Any, path: Path, **how: Any) -> None:
    """A PNG without a time stamp or version, so that equal numbers give equal bytes."""
    figure.savefig(path, dpi=110, metadata={"Software": None}, **how)
    load().close(figure)


def words(text: str, path: Path) -> None:
    """A picture that says why there is none."""
    figure, axes = subplots(6, 2)
    axes.axis("off")
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=12, color=INK)
    save(figure, path)


def draw_shares(shares: pd.DataFrame | None, path: Path, most: int = 40) -> None:
    """Of samples and of test images, the share that the extractor takes for each label (rows, columns ``samples``, ``test``)."""
    if shares is None:
        return words("no extractor that was taught labels: the images have none", path)
    table = shares.sort_values("test", ascending=False, kind="stable")[:most]
    figure, axes = subplots(max(5, 0.45 * len(table) + 2), 3)
    for offset, (name, colour) in zip((-0.2, 0.2), (("test", "#2c7fb8"), ("samples", ACCENT)), strict=True):
        axes.bar([place + offset for place in range(len(table))], table[name], width=0.4, color=colour, label=name)
    axes.set_xticks(range(len(table)), table.index, rotation=90 if len(table) > 6 else 0, fontsize=8)
    axes.set_ylabel("share of the images")
    axes.legend(fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)  # above: bars reach everywhere
    save(figure, path)


def draw_rates(rates: list[float], kind: str, path: Path) -> None:
    """The rate of each latent dimension, largest first, or of each layer, from the top: which of them the model uses."""
    figure, axes = subplots(6, 3)
    ordered = sorted(rates, reverse=True) if kind == "dimension" else rates
    axes.bar(range(len(rates)), ordered, color="#2c7fb8")
    axes.set_xlabel("latent dimension, by rate" if kind == "dimension" else "layer of latents, from the top")
    axes.set_ylabel("rate (nats)")
    save(figure, path)


def draw_information(known: pd.DataFrame | None, path: Path) -> None:
    """What each latent (column) tells of each factor (row), in units of the factor's entropy; a row's best latent is framed.

    Columns are ordered by the factor that they tell most of, so that a disentangled model shows a staircase; at most the 24 best.
    NaN is a factor that never varies. None: there is nothing to draw, and the picture says why.
    """
    if known is None:
        return words("the images come without known factors, or are too few", path)
    from matplotlib.patches import Rectangle

    best, framed = known.max().fillna(0), set(known.dropna().idxmax(axis=1))
    latents = sorted(known, key=lambda latent: (latent not in framed, -best[latent]))[:MOST_LATENTS]
    place = dict(zip(known, known.fillna(0).to_numpy().argmax(0), strict=True))
    latents.sort(key=lambda latent: (place[latent] if best[latent] >= TOLD else len(known), -best[latent]))
    table = known[latents].to_numpy()
    figure, axes = subplots(max(6, 0.5 * table.shape[1] + 1.8), 0.5 * table.shape[0] + 1)
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
    save(figure, path)


def draw_curves(curves: pd.DataFrame, path: Path) -> None:
    """Bound, distortion and rate on training and validation images over the images seen."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure, all_axes = subplots(12, 3.4, columns=3)
    for axes, name in zip(all_axes, ("elbo_nats", "distortion_nats", "rate_nats"), strict=True):
        known = [each for each in (name, f"val_{name}") if each in curves]  # a private training does not tell its images' own
        if name in known:
            axes.plot(curves["images"], curves[name], color="#2c7fb8", label="training")
        axes.plot(curves["images"], curves[f"val_{name}"], color=ACCENT, label="validation (averaged weights)")
        axes.set_xlabel("images seen")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k: whole numbers would touch each other
        axes.set_title(name, fontsize=10)
        low = curves[known].iloc[len(curves) // 4 :]
        axes.set_ylim(low.min().min() - 0.02 * abs(low.min().min()), low.max().max() + 0.02 * abs(low.max().max()))
    all_axes[0].legend(fontsize=8)
    save(figure, path)


def draw_histograms(values: dict[str, tuple[Any, Any, list[float]]], path: Path) -> None:
    """The histogram (counts and edges) of the accepted images for each measure, with the limits of its filter that lie in sight."""
    figure, all_axes = subplots(3 * len(values), 2.6, columns=len(values))
    for axes, (name, (counts, edges, limits)) in zip(all_axes, values.items(), strict=True):
        axes.stairs(counts, edges, fill=True, color="#2c7fb8")
        low, high = axes.get_xlim()
        for limit in limits:
            if low <= limit <= high:
                axes.axvline(limit, color=ACCENT, linewidth=1.5)
        axes.set_title(name, fontsize=10)
        axes.tick_params(labelsize=8)
    all_axes[0].set_ylabel("accepted images")
    save(figure, path)


def draw_classes(classes: pd.DataFrame, path: Path, most: int = 40) -> None:
    """Images per label, stacked by split; the ``most`` frequent labels."""
    table = classes.pivot_table(index="label", columns="split", values="images", aggfunc="sum", fill_value=0)
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index[:most]]
    figure, axes = subplots(max(5, 0.3 * len(table) + 2), 3)
    bottom = [0] * len(table)
    names = [str(label) or "(no label)" for label in table.index]
    for split, colour in (("train", "#2c7fb8"), ("val", "#7fcdbb"), ("test", "#edb458")):
        if split in table:
            axes.bar(names, table[split], bottom=bottom, label=split, color=colour)
            bottom = [a + b for a, b in zip(bottom, table[split], strict=True)]
    axes.set_ylabel("images")
    axes.tick_params(axis="x", labelrotation=90 if len(table) > 6 else 0, labelsize=8)
    figure.legend(fontsize=8, loc="outside right upper")
    save(figure, path)


def draw_labelled(tiles: list[tuple[str, Any]], mode: str, path: Path, nothing: str) -> None:
    """Pictures under their captions, a grey field where there is no picture; the text ``nothing`` where there are none."""
    if not tiles:
        return words(nothing, path)
    columns = 8
    rows = -(-len(tiles) // columns)
    figure, all_axes = subplots(1.5 * columns, 1.6 * rows, columns, rows, squeeze=False)
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
    save(figure, path)


def draw_rate_distortion(curves: dict[str, list[Any]], path: Path) -> None:
    """PSNR over the bytes of a picture's payload, a line for each coder, the first one in colour."""
    figure, axes = subplots(6, 4)
    for (name, points), style in zip(curves.items(), ("o-", "s--", "^:", "d-."), strict=False):
        colour = ACCENT if style == "o-" else INK
        axes.plot([p.payload_bytes for p in points], [p.psnr_db for p in points], style, color=colour, markersize=4, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("bytes of a picture, without headers and tables")
    axes.set_ylabel("PSNR, dB")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, path)

"""What evaluate draws of a model: samples, also class by class, reconstructions, interpolations, traversals, rates. D latents."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline.plots import draw_labelled, draw_rates
from vae.artefact import Generator
from vae.data import ImageShards
from vae.pictures import grid, save_png
from vae.use import between, traversal

SAMPLES, PAIRS, STEPS = 64, 8, 9
MOST_CLASSES, SAMPLES_OF_CLASS = 32, 16
MOST_TRAVERSED = 16  # dimensions on the picture
SEEN_IMAGES = 2000  # tell which dimensions are busy, and where
TRAVERSED_QUANTILES = (0.02, 0.98)


def _classes(generator: Generator, seed: int, mode: str, path: Path) -> None:
    """Samples of each class, of the first classes in their order; where the model is told no classes a picture that says so."""
    tiles = []
    for number, name in enumerate(generator.contract["labels"][:MOST_CLASSES] if generator.config.classes else ()):
        drawn_NHWC = generator.sample(SAMPLES_OF_CLASS, seed, label_N=torch.full((SAMPLES_OF_CLASS,), number))
        picture = np.asarray(grid(drawn_NHWC, columns=4, zoom=1, mode=mode))
        tiles.append((str(name), picture[..., None] if picture.ndim == 2 else picture))
    draw_labelled(tiles, "", path, "the model is told no labels (fit.class_conditional)")


def _traversed(generator: Generator, test: ImageShards, directory: Path) -> np.ndarray:
    """Traversals of the busiest latents, row by row; and the rates of all, as a table and a picture."""
    seen, label_N = test.labelled(SEEN_IMAGES)
    rates_D, (seen_ND, _) = generator.rate_per_dim(seen, label_N), generator.encode(seen, label_N)
    groups = [float(part.sum()) for part in rates_D.split(generator.model.rate_groups)]
    kind = "dimension" if len(groups) == len(rates_D) else "layer"
    draw_rates(groups, kind, directory / "latents.png")
    pd.DataFrame({kind: range(len(groups)), "rate_nats": groups}).to_csv(directory / "latents.csv", index=False)
    busiest = torch.argsort(rates_D, descending=True)[:MOST_TRAVERSED]
    # Each dimension over the range that the data fill, from the image nearest to the middle: beyond that range the decoder
    # has seen nothing, and from a corner every step leaves it.
    low_D, high_D = (torch.quantile(seen_ND, q, dim=0) for q in TRAVERSED_QUANTILES)
    start = int(torch.argmin((seen_ND - seen_ND.median(0).values).square().sum(1)))
    moved = traversal(seen_ND[start], busiest.tolist(), low_D, high_D, STEPS)
    return generator.decode(moved, None if label_N is None else label_N[start].expand(len(moved)))


def write(directory: Path, generator: Generator, test: ImageShards, seed: int) -> None:
    """The pictures and latents.csv; of a class-conditional model an interpolation keeps the class that it begins with."""
    mode = generator.contract["mode"]
    tiled = partial(grid, mode=mode)
    save_png(tiled(generator.sample(SAMPLES, seed), columns=16), directory / "samples.png")
    _classes(generator, seed, mode, directory / "classes.png")
    originals, label_N = test.labelled(32)
    copies = generator.reconstruct(originals, label_N)
    pairs = [part[i : i + 16] for i in range(0, len(originals), 16) for part in (originals, copies)]
    save_png(tiled(np.concatenate(pairs), columns=16), directory / "reconstructions.png")
    mean_ND, _ = generator.encode(originals[: 2 * PAIRS], None if label_N is None else label_N[: 2 * PAIRS])
    starts = range(0, len(mean_ND) - 1, 2)
    paths_ND = torch.cat([between(mean_ND[i], mean_ND[i + 1], STEPS) for i in starts])
    begun_N = None if label_N is None else label_N[list(starts)].repeat_interleave(STEPS)
    save_png(tiled(generator.decode(paths_ND, begun_N), columns=STEPS), directory / "interpolations.png")
    save_png(tiled(_traversed(generator, test, directory), columns=STEPS), directory / "traversals.png")

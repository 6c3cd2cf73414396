"""Whether recent images are unlike those of the training: a kernel distance of features, and what chance alone makes of it.

Recent images are compared with the test split, which is of the training's kind and was not trained on, by the features of stage
extractor's frozen network. N images, D features.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.paths import Paths
from vae.data import ImageShards
from vae.decode import RejectedError, Rules, pixels
from vae.extractor import load_extractor
from vae.files import read_manifest
from vae.metrics.kernel import two_samples
from vae.metrics.neighbours import nearest
from vae.pictures import grid, save_png

LEAST_IMAGES, MOST_IMAGES = 100, 1000  # of either set: fewer tell little, more would tell little more
SHOWN, COLUMNS = 32, 8


@dataclass(frozen=True)
class Drift:
    """Kernel distance of recent images to held-out ones, also in standard deviations of what chance alone makes."""

    images: int
    held_out_images: int
    distance: float
    deviations: float


def images_of(contents: Iterable[bytes], rules: Rules) -> np.ndarray:
    """The images of files (N, H, W, C), without those that stage preprocess would reject."""
    found = [np.zeros((0, *rules.shape), np.uint8)]
    for content in contents:
        try:
            found.append(pixels(content, rules)[None])
        except RejectedError:
            continue
    return np.concatenate(found)


def measure(recent_NHWC: np.ndarray, paths: Paths, seed: int) -> tuple[Drift, np.ndarray] | None:
    """How far recent images are from held-out ones, and they in order, those farthest from any of these first.

    None where there are fewer than ``LEAST_IMAGES`` of either.
    """
    test = ImageShards(paths.processed / "test")
    if min(len(recent_NHWC), len(test)) < LEAST_IMAGES:
        return None
    torch.set_num_threads(1)
    network, _ = load_extractor(paths.extractor)
    recent_ND, held_ND = network.features(recent_NHWC), network.features(test.spread(MOST_IMAGES))
    compared = two_samples(recent_ND, held_ND, seed)
    order = nearest(recent_ND, held_ND).distance_M.argsort(descending=True, stable=True)
    found = Drift(len(recent_NHWC), len(held_ND), compared.value, compared.deviations)
    return found, recent_NHWC[order.numpy()]


def draw(farthest_NHWC: np.ndarray, paths: Paths, path: Path) -> None:
    """A picture: training images above, below them the recent ones that are the least like them."""
    known = ImageShards(paths.processed / "train").spread(SHOWN)
    white = np.full((-len(known) % COLUMNS + COLUMNS, *known.shape[1:]), 255, np.uint8)
    mode = read_manifest(paths.processed, hashes=False)["mode"]
    save_png(grid(np.concatenate([known, white, farthest_NHWC[:SHOWN]]), COLUMNS, mode=mode), path)

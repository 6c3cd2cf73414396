"""What evaluate says beyond single scores: intervals, slices by label and folder, worst and typical images, and whether samples are copies.

N images, M samples, D features.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.scores import Featured, Scores
from vae.data import ImageShards
from vae.extractor import Extractor
from vae.metrics.frechet import TooFewSamplesError
from vae.metrics.intervals import frechet_interval, mean_interval
from vae.metrics.neighbours import near_share, nearest
from vae.pictures import grid, save_png

MOST_TRAINING_IMAGES = 100_000  # that samples are compared with, spread over all
MOST_SLICES = 100  # of each kind
SHOWN = 16  # images in a row of a picture
log = logging.getLogger("pipeline.judgement")


def _paired(rows: list[np.ndarray], path: Path, mode: str) -> None:
    save_png(grid(np.concatenate(rows), columns=len(rows[0]), mode=mode), path)


def remembered(drawn: Featured, unseen: Featured, network: Extractor, train: ImageShards, mode: str, picture: Path) -> Scores:
    """The share of samples near to a training image; the picture has those nearest of all, and below each the training image.

    Then the same for ``unseen`` images, of the test: how near an image may be that is no copy.
    """
    places = train.places(MOST_TRAINING_IMAGES)
    # Chunks: a million training images are not held at once, their features are.
    training_ND = torch.cat([network.features(train.gather(rows)) for rows in np.array_split(places, -(-len(places) // 8192))])
    neighbours = [nearest(each.features_ND, training_ND) for each in (drawn, unseen)]
    count = min(SHOWN, len(drawn.images_NHWC), len(unseen.images_NHWC))
    rows = []
    for found, each in zip(neighbours, (drawn, unseen), strict=True):
        first = torch.argsort(found.distance_M)[:count].numpy()
        rows += [each.images_NHWC[first], train.gather(places[found.index_M[first].numpy()])]
    _paired(rows, picture, mode)
    try:
        return {"near_share": near_share(*neighbours)}
    except TooFewSamplesError as error:
        log.warning("no near_share: %s", error)
        return {"near_share": None}


def intervals(
    scores: Scores, terms_N2: Tensor, psnr_N: Tensor, nll_N: Tensor, features: tuple[Tensor, Tensor], seed: int
) -> dict[str, list[float]]:
    """95 % intervals of the bound, the likelihood, PSNR and FCD (features of test images and samples), by resampling images."""
    found = {
        "elbo_nats": mean_interval(-terms_N2.sum(1), seed),
        "nll_nats": mean_interval(nll_N, seed),
        "psnr_db": mean_interval(psnr_N, seed),
    }
    fcd = scores["fcd"]
    if fcd is not None:
        found["fcd"] = frechet_interval(*features, fcd, seed)
    return {name: list(bounds) for name, bounds in found.items()}


def slices(test: pd.DataFrame, terms_N2: Tensor, psnr_N: Tensor) -> pd.DataFrame:
    """Scores of the test images of each label, then of each folder that they came from, the worst bound first.

    ``test`` is their rows of the index. Labels that are missing are '' here. Folders are left out where they are the labels, and all
    but the largest where they are many.
    """
    each = pd.DataFrame(
        {
            "elbo_nats": -terms_N2.sum(1).numpy(),
            "distortion_nats": terms_N2[:, 0].numpy(),
            "rate_nats": terms_N2[:, 1].numpy(),
            "psnr_db": psnr_N.numpy(),
        }
    )
    kinds = {"label": test["label"].to_numpy(), "folder": np.array([path.rpartition("/")[0] for path in test["path"]], object)}
    if len({*zip(*kinds.values(), strict=True)}) == len({*kinds["label"]}) == len({*kinds["folder"]}):
        del kinds["folder"]
    tables = []
    for by, names in kinds.items():
        groups = each.groupby(names, sort=True)
        table = groups.mean()
        table.insert(0, "images", groups.size())
        largest = table.nlargest(MOST_SLICES, "images").sort_values("elbo_nats", kind="stable")
        tables.append(largest.rename_axis("name").reset_index().assign(by=by))
    return pd.concat(tables)[["by", "name", "images", *each]]


def extremes(
    images_NHWC: np.ndarray, copies_NHWC: np.ndarray, psnr_N: Tensor, terms_N2: Tensor, mode: str, directory: Path
) -> None:
    """worst.png: the test images of the lowest PSNR above their reconstructions; typical.png: those of the highest bound."""
    for name, order_N in (("worst", psnr_N), ("typical", terms_N2.sum(1))):
        first = torch.argsort(order_N, stable=True)[:SHOWN].numpy()
        _paired([images_NHWC[first], copies_NHWC[first]], directory / f"{name}.png", mode)

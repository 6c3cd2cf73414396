"""Stage augment: more training images from those that there are; the training split only.

In: data/processed. Out: data/augmented/train/shard-*.npy, index.parquet, MANIFEST.json; reports/augment (a contact sheet).
A copy depends only on (seed, hash of its original, number of the copy): neither on order nor on the other images.
"""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageOps

from pipeline import stage
from pipeline.console import progress
from pipeline.paths import INDEX, METRICS, Paths
from vae.data import ImageShards, ShardWriter
from vae.files import canonical_json, read_manifest, replaced_directory, write_manifest, write_text
from vae.images import grid, save_png

PARAMS = ("base.seed", "augment")
SHARD_IMAGES = 8192
SHEET_ORIGINALS, SHEET_COPIES = 8, 7
log = logging.getLogger("pipeline.augment")


def generator(seed: int, sha256: str, copy: int) -> np.random.Generator:
    """The randomness of one copy of one image, and of nothing else."""
    return np.random.default_rng(np.random.SeedSequence([seed, int(sha256[:16], 16), copy]))


def augmented(image_HWC: np.ndarray, policy: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """One random variation of a uint8 (H, W, C) image under the policy: flip, rotation and shift, brightness, contrast.

    What moves in from outside repeats nothing: it takes the colour of the corner pixels' median.
    """
    grey = image_HWC.shape[2] == 1
    picture = Image.fromarray(image_HWC[..., 0] if grey else image_HWC)
    # Every number is drawn whether it is used or not, so that switching one operation off leaves the others as they were.
    flip, angle, shift_x, shift_y, brightness, contrast = rng.uniform(-1, 1, 6)
    if abs(flip) < policy.flip_probability:
        picture = ImageOps.mirror(picture)
    if policy.rotate_degrees or policy.shift_pixels:
        corners = image_HWC[[0, 0, -1, -1], [0, -1, 0, -1]]
        fill = tuple(int(v) for v in np.median(corners, axis=0))
        shift = tuple(round(s * policy.shift_pixels) for s in (shift_x, shift_y))
        picture = picture.rotate(
            angle * policy.rotate_degrees, Image.Resampling.BICUBIC, translate=shift, fillcolor=fill[0] if grey else fill
        )
    if policy.brightness:
        picture = ImageEnhance.Brightness(picture).enhance(1 + brightness * policy.brightness)
    if policy.contrast:
        picture = ImageEnhance.Contrast(picture).enhance(1 + contrast * policy.contrast)
    return np.asarray(picture, np.uint8).reshape(image_HWC.shape)


def _sheet(images: ImageShards, hashes: np.ndarray, policy: SimpleNamespace, seed: int) -> np.ndarray:
    """A row for each of a few originals: the original, then copies under the policy."""
    rows = np.linspace(0, len(images) - 1, min(SHEET_ORIGINALS, len(images))).astype(np.int64)
    tiles = []
    for row, original in zip(rows, images.gather(rows), strict=True):
        copies = [augmented(original, policy, generator(seed, hashes[row], copy)) for copy in range(SHEET_COPIES)]
        tiles += [original, *copies]
    return np.stack(tiles)


def augment(values: SimpleNamespace, paths: Paths) -> None:
    """Write ``augment.copies`` variations of every training image, and a sheet that shows them."""
    read_manifest(paths.processed)
    policy, seed = values.augment, values.base.seed
    index = pd.read_parquet(paths.processed / INDEX)
    index = index[index["split"] == "train"].reset_index(drop=True)
    images = ImageShards(paths.processed / "train")
    hashes = index["sha256"].to_numpy()
    rows = []
    with replaced_directory(paths.augmented) as directory:
        writer = ShardWriter(directory / "train", images.image_shape, SHARD_IMAGES)
        for row in progress(range(len(images)) if policy.copies else (), len(images), "images", "augmenting"):
            original = images.slice(row, row + 1)[0]
            for copy in range(policy.copies):
                shard, place = writer.add(augmented(original, policy, generator(seed, hashes[row], copy)))
                rows.append((shard, place, hashes[row], copy))
        writer.close()
        pd.DataFrame(rows, columns=["shard", "row", "sha256", "copy"]).to_parquet(directory / INDEX, index=False)
        write_manifest(directory, copies=policy.copies, images=writer.count)
    with replaced_directory(paths.augment_report) as report:
        write_text(report / METRICS, canonical_json({"originals": len(images), "augmented": writer.count}))
        save_png(grid(_sheet(images, hashes, policy, seed), columns=SHEET_COPIES + 1), report / "augment.png")
    log.info("%d copies of %d training images", writer.count, len(images))


if __name__ == "__main__":
    stage.main("augment", PARAMS, augment, __doc__)

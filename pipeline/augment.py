"""Stage augment: more training images from those that there are; the training split only.

In: data/processed. Out: data/augmented/train/shard-*.npy, index.parquet, MANIFEST.json; reports/augment (a sheet that shows each
operation alone and the whole policy). A copy depends only on (seed, hash of its original, number of the copy): neither on order
nor on the other images. With augment.on_the_fly there are no copies here: the trainer makes them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw, ImageFont

from pipeline import stage
from pipeline.console import Progress
from pipeline.paths import INDEX, METRICS, Paths
from pipeline.sections import Augment
from vae.augment import COLOUR_ONLY, OPERATIONS, alone, augmented, image_keys, probability
from vae.config import AugmentConfig
from vae.data import ImageShards, ShardWriter, save_labels
from vae.files import canonical_json, read_manifest, replaced_directory, write_manifest, write_text
from vae.pictures import save_png

PARAMS = ("base.seed", "preprocess.shard_images", "augment")
BATCH_IMAGES, BATCH_VALUES = 256, 2**22  # copies made at a time: at most so many images, and so many values in them
SHEET_IMAGES, SHEET_POLICY_ROWS = 8, 3
SHEET_SIDE, SHEET_GAP, SHEET_LABEL, SHEET_TEXT = 72, 4, 190, 13  # pixels: a picture's longer side, between two, labels, letters
log = logging.getLogger("pipeline.augment")


def variations(
    images_NHWC: np.ndarray, keys_N: np.ndarray, copies_N: np.ndarray, policy: AugmentConfig, seed: int, mode: str
) -> np.ndarray:
    """uint8 (N, H, W, C) under the policy, each as the copy of its number."""
    x_NCHW = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2)
    changed = augmented(x_NCHW, keys_N, copies_N, config=policy, seed=seed, mode=mode)
    return changed.permute(0, 2, 3, 1).contiguous().numpy()


def _copies(images: ImageShards, keys_N: np.ndarray, section: Augment, seed: int, mode: str) -> Iterator[tuple]:
    """(rows, numbers of the copies, their pixels), batch by batch; all copies of an image follow each other."""
    total = 0 if section.on_the_fly else len(images) * section.copies
    size = max(1, min(BATCH_IMAGES, BATCH_VALUES // int(np.prod(images.image_shape))))
    shown = Progress(total, "images", "augmenting")
    try:
        for start in range(0, total, size):
            rows, numbers = np.divmod(np.arange(start, min(start + size, total)), section.copies)
            yield rows, numbers, variations(images.gather(rows), keys_N[rows], numbers, section.policy, seed, mode)
            shown.to(start + len(rows))
    finally:
        shown.close()


def strength(config: AugmentConfig, operation: str) -> str:
    """How far an operation goes, for a person: ``±15°``."""
    return {
        "rotate": f"±{config.rotate_degrees:g}°",
        "translate": f"±{config.translate_share:.0%}",
        "scale": f"{config.scale_low:g} to {config.scale_high:g}",
        "crop": f"area from {config.crop_area_low:.0%}",
        "shear": f"±{config.shear_degrees:g}°",
        "brightness": f"±{config.brightness:.0%}",
        "contrast": f"±{config.contrast:.0%}",
        "saturation": f"±{config.saturation:.0%}",
        "hue": f"±{config.hue_degrees:g}°",
        "gamma": f"{1 / config.gamma_high:.2g} to {config.gamma_high:g}",
        "blur": f"to {config.blur_sigma_pixels:g} pixels",
        "noise": f"to {config.noise_levels:g} levels",
        "jpeg": f"quality {config.jpeg_quality_low} to {config.jpeg_quality_high}",
        "cutout": f"area to {config.cutout_share:.0%}",
    }.get(operation, "")


def sheet_rows(policy: AugmentConfig, mode: str) -> list[tuple[str, str, AugmentConfig, int]]:
    """The rows of the sheet: title, note, the policy that is shown, the number of the copy.

    An operation is shown in its range as if it fell on every image, however often the policy applies it.
    """
    shown = [name for name in OPERATIONS if mode != "L" or name not in COLOUR_ONLY]
    rows = [("original", "", alone(policy, None), 0)]
    for name in shown:
        often = f"{probability(policy, name):.0%} of images" if probability(policy, name) else "off"
        note = ", ".join(part for part in (strength(policy, name), often) if part)
        rows.append((name.replace("_", " "), note, alone(policy, name), 0))
    return rows + [("the whole policy", f"copy {copy}", policy, copy) for copy in range(SHEET_POLICY_ROWS)]


def _tile(image_HWC: np.ndarray, mode: str) -> Image.Image:
    """A picture of the sheet's size, as a screen shows it: pixels stay sharp where they are enlarged, alpha lies on white."""
    picture = Image.fromarray(image_HWC[..., 0] if mode == "L" else image_HWC, mode=mode)
    if mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    height, width = image_HWC.shape[:2]
    zoom = SHEET_SIDE / max(height, width)
    zoom = max(1, round(zoom)) if zoom > 0.7 else zoom
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST if zoom >= 1 else Image.Resampling.LANCZOS)


def draw_sheet(images_NHWC: np.ndarray, keys_N: np.ndarray, policy: AugmentConfig, seed: int, mode: str) -> Image.Image:
    """One column per image; one row for each operation alone, then some for the whole policy."""
    rows = sheet_rows(policy, mode)
    width, height = (side + SHEET_GAP for side in _tile(images_NHWC[0], mode).size)
    height = max(height, 2 * SHEET_TEXT + 2 * SHEET_GAP)
    sheet = Image.new("RGB", (SHEET_LABEL + len(images_NHWC) * width, len(rows) * height + SHEET_GAP), "white")
    pen, bold = ImageDraw.Draw(sheet), ImageFont.load_default(SHEET_TEXT + 1)
    small = ImageFont.load_default(SHEET_TEXT - 2)
    for number, (title, note, shown, copy) in enumerate(rows):
        top = number * height + SHEET_GAP
        middle = top + (height - SHEET_GAP) // 2
        pen.text((2 * SHEET_GAP, middle - 2 if note else middle), title, "black", bold, anchor="ls" if note else "lm")
        pen.text((2 * SHEET_GAP, middle + 3), note, (110, 110, 110), small, anchor="lt")
        changed = variations(images_NHWC, keys_N, np.full(len(keys_N), copy), shown, seed, mode)
        for column, image in enumerate(changed):
            sheet.paste(_tile(image, mode), (SHEET_LABEL + column * width, top))
    return sheet


def augment(values: SimpleNamespace, paths: Paths) -> None:
    """Write ``augment.copies`` variations of every training image, and a sheet that shows them."""
    mode = read_manifest(paths.processed)["mode"]
    section, seed = values.augment, values.base.seed
    useless = [f"augment.{name}_probability" for name in COLOUR_ONLY if probability(section, name)]
    if mode == "L" and useless:
        log.warning("without effect on greyscale images (base.mode L): %s", ", ".join(useless))
    index = pd.read_parquet(paths.processed / INDEX)
    index = index[index["split"] == "train"].reset_index(drop=True)
    images = ImageShards(paths.processed / "train")
    hashes = index["sha256"].to_numpy()
    keys = image_keys(hashes)
    rows: list[tuple[str, int, str, int]] = []
    copied: list[int] = []  # the row of each copy's original
    with replaced_directory(paths.augmented) as directory:
        writer = ShardWriter(directory / "train", images.image_shape, values.preprocess.shard_images)
        for originals, numbers, pixels in _copies(images, keys, section, seed, mode):
            copied += originals.tolist()
            for original, number, image in zip(originals, numbers, pixels, strict=True):
                rows.append((*writer.add(image), hashes[original], number))
        writer.close()
        if images.labels_N is not None and rows:
            save_labels(directory / "train", images.labels_N[np.array(copied)])
        pd.DataFrame(rows, columns=["shard", "row", "sha256", "copy"]).to_parquet(directory / INDEX, index=False)
        write_manifest(directory, copies=0 if section.on_the_fly else section.copies, images=writer.count)
    shown = np.linspace(0, len(images) - 1, min(SHEET_IMAGES, len(images))).astype(np.int64)
    with replaced_directory(paths.augment_report) as report:
        write_text(report / METRICS, canonical_json({"originals": len(images), "augmented": writer.count}))
        save_png(draw_sheet(images.gather(shown), keys[shown], section.policy, seed, mode), report / "augment.png")
    log.info("%d copies of %d training images", writer.count, len(images))
    if section.on_the_fly:
        log.info("the policy is applied on the fly: training images are varied anew in every epoch")


if __name__ == "__main__":
    stage.main("augment", PARAMS, augment, __doc__)

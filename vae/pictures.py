"""Images to be looked at: as a screen shows them, in grids, as PNG. No torch here: stages that only look start at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

ZOOM, GAP_PIXELS = 2, 2  # of a grid: how wide a pixel is, and how far two images are apart (in pixels before the zoom)


def shown(images_NHWC: np.ndarray, mode: str) -> np.ndarray:
    """uint8 images as a screen shows them: HSV as RGB, RGBA on white; the others as they are."""
    if mode not in ("HSV", "RGBA"):
        return images_NHWC
    n, h, w, c = images_NHWC.shape
    tall = images_NHWC.reshape(n * h, w, c)
    if mode == "HSV":
        picture = Image.frombytes("HSV", (w, n * h), tall.tobytes()).convert("RGB")
    else:
        picture = Image.alpha_composite(Image.new("RGBA", (w, n * h), "white"), Image.fromarray(tall)).convert("RGB")
    return np.asarray(picture).reshape(n, h, w, 3)


def pictures(images_NHWC: np.ndarray, mode: str = "") -> list[Image.Image]:
    """Each uint8 image as a picture that a screen shows; HSV and RGBA need their ``mode``."""
    return [_picture(each) for each in shown(images_NHWC, mode)]


def _picture(pixels_HWC: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels_HWC[..., 0] if pixels_HWC.shape[2] == 1 else pixels_HWC)


def grid(images_NHWC: np.ndarray, columns: int, zoom: int = ZOOM, gap_pixels: int = GAP_PIXELS, mode: str = "") -> Image.Image:
    """uint8 (N, H, W, C) tiled row by row into one picture, each pixel ``zoom`` wide, on white; HSV and RGBA need their ``mode``."""
    images_NHWC = shown(images_NHWC, mode)
    n, h, w, c = images_NHWC.shape
    rows = -(-n // columns)
    canvas = np.full((rows * (h + gap_pixels) + gap_pixels, columns * (w + gap_pixels) + gap_pixels, c), 255, np.uint8)
    for i, image in enumerate(images_NHWC):
        top, left = (i // columns) * (h + gap_pixels) + gap_pixels, (i % columns) * (w + gap_pixels) + gap_pixels
        canvas[top : top + h, left : left + w] = image
    picture = _picture(canvas)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def sheet(images_NHWC: np.ndarray, columns: int, mode: str) -> Image.Image:
    """One picture for whoever asked for images: one alone as it is, several as a grid of their own pixels, no wider than they are."""
    if len(images_NHWC) == 1:
        return pictures(images_NHWC, mode)[0]
    return grid(images_NHWC, min(columns, len(images_NHWC)), zoom=1, mode=mode)


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG without time stamps: the same pixels give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, format="PNG", optimize=False)

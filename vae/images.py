"""Images as bytes and as model input: the one conversion pair, and picture grids. N batch, H height, W width, C channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LEVELS = 256


def to_model_range(x_NHWC: Tensor) -> Tensor:
    """uint8 (N, H, W, C) in [0, 255] -> float32 (N, C, H, W) in [-1, 1]; channels_last in memory, no copy but the cast."""
    if x_NHWC.dtype != torch.uint8 or x_NHWC.ndim != 4:
        raise ValueError(f"expected uint8 images (N, H, W, C), got {x_NHWC.dtype} {tuple(x_NHWC.shape)}")
    return x_NHWC.permute(0, 3, 1, 2).float().mul_(2 / (LEVELS - 1)).sub_(1)


def to_uint8(x_NCHW: Tensor) -> Tensor:
    """float (N, C, H, W) in [-1, 1] (clamped) -> uint8 (N, H, W, C), the nearest of the 256 levels."""
    scaled = x_NCHW.float().add(1).mul((LEVELS - 1) / 2).round().clamp(0, LEVELS - 1)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


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


def grid(images_NHWC: np.ndarray, columns: int, zoom: int = 2, gap_pixels: int = 2, mode: str = "") -> Image.Image:
    """uint8 (N, H, W, C) tiled row by row into one picture, each pixel ``zoom`` wide, on white; HSV and RGBA need their ``mode``."""
    images_NHWC = shown(images_NHWC, mode)
    n, h, w, c = images_NHWC.shape
    rows = -(-n // columns)
    canvas = np.full((rows * (h + gap_pixels) + gap_pixels, columns * (w + gap_pixels) + gap_pixels, c), 255, np.uint8)
    for i, image in enumerate(images_NHWC):
        top, left = (i // columns) * (h + gap_pixels) + gap_pixels, (i % columns) * (w + gap_pixels) + gap_pixels
        canvas[top : top + h, left : left + w] = image
    picture = Image.fromarray(canvas[..., 0] if c == 1 else canvas)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG without time stamps: the same pixels give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, format="PNG", optimize=False)

"""What a picture is like, in numbers: brightness, deviation and sharpness of many images at once, and the filters on them.

Measured on the pixels that training will see: a photograph out of focus at twelve megapixels may be sharp at 64 pixels.
N images, H height, W width, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Filters:
    """Images outside these limits are rejected; the defaults of params.yaml let everything pass."""

    min_deviation_levels: float
    min_sharpness_levels: float
    min_brightness_levels: float
    max_brightness_levels: float


def luminance(pixels_NHWC: np.ndarray, mode: str) -> np.ndarray:
    """float32 (N, H, W) in levels [0, 255], of colour as Pillow's mode L (ITU-R BT.601), of HSV its value."""
    if mode == "L":
        return pixels_NHWC[..., 0].astype(np.float32)
    if mode == "HSV":
        return pixels_NHWC[..., 2].astype(np.float32)
    count, height, width, _ = pixels_NHWC.shape
    if not count:
        return np.zeros((0, height, width), np.float32)
    tall = Image.fromarray(np.ascontiguousarray(pixels_NHWC).reshape(count * height, width, -1))
    return np.asarray(tall.convert("L"), np.float32).reshape(count, height, width)


def measure(light_NHW: np.ndarray) -> dict[str, np.ndarray]:
    """brightness (mean), deviation (standard deviation) and sharpness (that of the Laplacian), each float32 (N,) in levels.

    The Laplacian's spread as a measure of focus: Pech-Pacheco et al. 2000. Images under 3 pixels a side have sharpness 0.
    """
    inner = light_NHW[:, 1:-1, 1:-1]
    laplacian = light_NHW[:, :-2, 1:-1] + light_NHW[:, 2:, 1:-1] + light_NHW[:, 1:-1, :-2] + light_NHW[:, 1:-1, 2:] - 4 * inner
    sharpness = laplacian.std((1, 2)) if inner.size else np.zeros(len(light_NHW), np.float32)
    return {"brightness": light_NHW.mean((1, 2)), "deviation": light_NHW.std((1, 2)), "sharpness": sharpness}


def reasons(measures: dict[str, np.ndarray], filters: Filters) -> list[tuple[str, str]]:
    """(reason, detail) for every image, ('', '') where it passes: nearly_uniform, too_dark, too_bright, blurred, in this order."""
    tests = (
        ("nearly_uniform", "deviation", measures["deviation"] < filters.min_deviation_levels),
        ("too_dark", "brightness", measures["brightness"] < filters.min_brightness_levels),
        ("too_bright", "brightness", measures["brightness"] > filters.max_brightness_levels),
        ("blurred", "sharpness", measures["sharpness"] < filters.min_sharpness_levels),
    )
    found = [("", "")] * len(measures["brightness"])
    for reason, name, failed in reversed(tests):  # the first of the tuple has the last word
        for i in np.flatnonzero(failed):
            found[i] = (reason, f"{name} {measures[name][i]:.2f} levels")
    return found

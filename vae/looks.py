"""Looks: what makes pictures of one kind of another, before they are learned. Each takes and gives a picture in L, RGB or RGBA.

A model that was trained under a look draws in it, and its rules take a person's pictures through it too. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

COLOURS = 8  # of a cartoon, chosen for each picture; so many grey levels of one in grey
OUTLINE_LEVELS = 80  # a step of brightness from which on there is an outline, and no darker one from twice that on
INK = 0.4  # what an outline leaves of the brightness
SEPIA = ("#2b1a10", "#b08a5b", "#fbeed5")  # shadows, middle, lights of an old print
AGE = 0.75  # how much of a vintage picture's colour is the palette's
FADED = (24, 236)  # the darkest and the lightest level that an old print still has


def _cartoon(picture: Image.Image) -> Image.Image:
    """Flat areas in few, strong colours, dark outlines."""
    flat = picture.filter(ImageFilter.MedianFilter(3))
    if flat.mode == "RGB":
        flat = (
            ImageEnhance.Color(flat)
            .enhance(1.4)
            .quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            .convert("RGB")
        )
    else:
        step = 255 / (COLOURS - 1)
        flat = flat.point([round(round(level / step) * step) for level in range(256)])
    # The filter looks beyond the border, where there is nothing: a frame of the picture's own edge keeps it from being an outline.
    framed = Image.fromarray(np.pad(np.asarray(picture.convert("L")), 1, mode="edge"))
    edges = framed.filter(ImageFilter.Kernel((3, 3), (-1, -1, -1, -1, 8, -1, -1, -1, -1), 2)).crop(
        (1, 1, picture.width + 1, picture.height + 1)
    )
    dark = [max(0.0, min(1.0, level / OUTLINE_LEVELS - 1)) for level in range(256)]
    outline = edges.point([round(255 * (1 - (1 - INK) * share)) for share in dark])
    return ImageChops.multiply(flat, outline if flat.mode == "L" else Image.merge("RGB", [outline] * 3))


def _vintage(picture: Image.Image) -> Image.Image:
    """An old print: faded, and in colour toward brown."""
    low, high = FADED
    faded = picture.point([round(low + level * (high - low) / 255) for level in range(256)] * len(picture.getbands()))
    if picture.mode == "L":
        return faded
    toned = ImageOps.colorize(faded.convert("L"), SEPIA[0], SEPIA[2], mid=SEPIA[1])
    return Image.blend(faded, toned, AGE)


LOOKS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "plain": lambda picture: picture,
    "cartoon": _cartoon,
    "vintage": _vintage,
}


def looked(picture: Image.Image, look: str) -> Image.Image:
    """The picture under a look; what is transparent stays so."""
    if picture.mode != "RGBA":
        return LOOKS[look](picture)
    found = LOOKS[look](picture.convert("RGB")).convert("RGBA")
    found.putalpha(picture.getchannel("A"))
    return found

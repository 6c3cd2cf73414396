"""From the bytes of one file to pixels of the wanted shape, or to a reason code. Imports no torch: it runs in many processes.

Every problem of a file is an answer, never an exception. Reasons: ``empty_file``, ``not_an_image``, ``format_not_allowed``,
``too_many_pixels``, ``too_small``, ``extreme_aspect_ratio``, ``corrupt``.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from PIL import Image, ImageCms, ImageOps

from vae.looks import looked

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM")
DRAFT_FACTOR = 2  # a JPEG is decoded at a fraction of its size that is still at least this many times what is wanted
REDUCING_GAP = 3.0  # likewise for the others: Pillow shrinks by whole numbers down to this before it filters
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
PROFILE_BYTES = 2**20  # a colour profile larger than this is not read


@dataclass(frozen=True)
class Rules:
    """What a picture must be and become; two runs with the same rules give a file the same pixels."""

    height: int
    width: int
    mode: str
    fit: str
    filter: str
    background: tuple[int, int, int]
    min_side_pixels: int
    max_aspect_ratio: float
    max_pixels: int
    look: str = "plain"  # vae/looks.py; models of before there were looks have none

    @classmethod
    def of(cls, told: dict[str, Any]) -> Rules:
        """From what a data set's manifest or a model's artefact says."""
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
        return cls(**values)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, len(self.mode)


class RejectedError(Exception):
    """This file is no usable image: a reason code and, for a person, its detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, " ".join(detail.split())[:160]


@functools.lru_cache(maxsize=64)
def _to_srgb(profile: bytes, mode: str, output: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from an embedded profile to sRGB, or None where there is nothing to do or it cannot be read."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in (ImageCms.getProfileDescription(source) or ""):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, output)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None  # an unreadable profile is common and harmless: the plain conversion follows


@functools.cache
def _from_lab() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


def _colour_managed(picture: Image.Image) -> Image.Image:
    """The picture in sRGB where it brings a usable profile of its own."""
    profile = picture.info.get("icc_profile")
    if not profile or len(profile) > PROFILE_BYTES or picture.mode not in ("RGB", "RGBA", "CMYK"):
        return picture
    output = "RGBA" if picture.mode == "RGBA" else "RGB"
    transform = _to_srgb(bytes(profile), picture.mode, output)
    if transform is None:
        return picture
    try:
        return cast(Image.Image, ImageCms.applyTransform(picture, transform))
    except (ImageCms.PyCMSError, ValueError):
        return picture


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit and float pictures scaled by the range of their kind, or of their content where that lies outside it."""
    values = np.asarray(picture, dtype=np.float32)
    values = np.where(np.isfinite(values), values, np.float32(0))
    least, most = float(values.min(initial=0)), float(values.max(initial=0))
    low, high = 0.0, 65535.0 if picture.mode.startswith("I;16") or most > 255 else 255.0
    if picture.mode == "F" or least < 0 or most > high:
        low, high = float(values.min()), float(values.max())
    scaled = (values - np.float32(low)) * np.float32(255 / max(high - low, 1e-12))
    return Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8))


def _converted(picture: Image.Image, rules: Rules) -> Image.Image:
    """The picture in L, RGB or RGBA: the mode that it is resized in (hue is a circle: HSV comes after)."""
    if picture.mode.startswith(("I", "F")):
        picture = _eight_bits(picture)
    picture = _colour_managed(picture)
    transparent = picture.mode in ALPHA_MODES or "transparency" in picture.info
    if transparent:
        picture = picture.convert("RGBA")
        if rules.mode != "RGBA":
            behind = Image.new("RGBA", picture.size, (*rules.background, 255))
            picture = Image.alpha_composite(behind, picture).convert("RGB")
    if picture.mode == "LAB":
        picture = cast(Image.Image, ImageCms.applyTransform(picture, _from_lab()))
    wanted = "RGB" if rules.mode == "HSV" else rules.mode
    return picture if picture.mode == wanted else picture.convert(wanted)


def _fitted(picture: Image.Image, rules: Rules) -> Image.Image:
    """The picture at the wanted size; every way keeps what it keeps in the middle."""
    wanted = (rules.width, rules.height)
    if picture.size == wanted:
        return picture
    if rules.fit == "pad":
        grey = round(float(np.dot(rules.background, (0.299, 0.587, 0.114))))
        behind: dict[str, int | tuple[int, ...]] = {"L": grey, "RGBA": (0, 0, 0, 0)}
        return ImageOps.pad(
            picture, wanted, Image.Resampling[rules.filter.upper()], color=behind.get(picture.mode, rules.background)
        )
    width, height = picture.size
    if rules.fit == "centre":  # cut out as it is
        if width < rules.width or height < rules.height:
            raise RejectedError("too_small", f"{width}x{height}, to be cut to {rules.width}x{rules.height}")
        left, top = (width - rules.width) // 2, (height - rules.height) // 2
        return picture.crop((left, top, left + rules.width, top + rules.height))
    box = (0.0, 0.0, float(width), float(height))
    if rules.fit == "crop":  # the largest part of the wanted proportions; in whole and half pixels of the original
        scale = min(width / rules.width, height / rules.height)
        dx, dy = (width - scale * rules.width) / 2, (height - scale * rules.height) / 2
        box = (dx, dy, width - dx, height - dy)
    return picture.resize(wanted, Image.Resampling[rules.filter.upper()], box, REDUCING_GAP)


def check_header(form: str | None, width: int, height: int, rules: Rules) -> None:
    """RejectedError for what the header alone tells."""
    if form not in FORMATS:
        raise RejectedError("format_not_allowed", str(form))
    size = f"{width}x{height}"
    if width * height > rules.max_pixels:
        raise RejectedError("too_many_pixels", size)
    if min(width, height) < rules.min_side_pixels:
        raise RejectedError("too_small", size)
    if max(width, height) > rules.max_aspect_ratio * min(width, height):
        raise RejectedError("extreme_aspect_ratio", size)


def finished(picture: Image.Image, rules: Rules) -> Image.Image:
    """An upright picture in the wanted mode, size and look."""
    picture = looked(_fitted(_converted(picture, rules), rules), rules.look)
    return picture.convert("HSV") if rules.mode == "HSV" else picture


def _prepared(picture: Image.Image, rules: Rules) -> Image.Image:
    """Loaded, upright, converted, fitted."""
    if picture.format in ("JPEG", "MPO") and rules.fit != "centre":
        # Decoded small, and for greyscale without its colours; a profile needs the colours.
        luminance = rules.mode == "L" and picture.mode in ("RGB", "L") and not picture.info.get("icc_profile")
        side = DRAFT_FACTOR * max(rules.width, rules.height)
        picture.draft("L" if luminance else None, (side, side))
    picture.load()
    if picture.format == "TIFF" or picture.info.get("exif") or "Raw profile type exif" in picture.info or "xmp" in picture.info:
        picture = ImageOps.exif_transpose(picture)
    return finished(picture, rules)


def opened(data: bytes) -> Image.Image:
    """The file's first picture, its header read and nothing decoded; RejectedError where it is none."""
    if not data:
        raise RejectedError("empty_file", "0 bytes")
    Image.MAX_IMAGE_PIXELS = None  # the limit is ours, read from the header before any decoding
    try:
        return Image.open(io.BytesIO(data))
    except Exception as error:  # whatever a decoder raises on hostile bytes is a reason
        raise RejectedError("not_an_image", type(error).__name__) from None


def decode(data: bytes, rules: Rules) -> tuple[Image.Image, int, int, str]:
    """The picture as the rules want it, with width, height and mode of the original; RejectedError says why not."""
    picture = opened(data)
    form, (width, height), mode = picture.format, picture.size, picture.mode
    check_header(form, width, height, rules)
    try:
        if form == "PNG":  # the one format whose checksums a plain load does not look at; verify closes the file
            picture.verify()
            picture = Image.open(io.BytesIO(data))
        with picture:
            prepared = _prepared(picture, rules)
    except RejectedError:
        raise
    except MemoryError:
        raise RejectedError("corrupt", "it asks for more memory than there is") from None
    except Exception as error:  # likewise
        raise RejectedError("corrupt", f"{type(error).__name__}: {error}") from None
    return prepared, width, height, mode


def pixels(data: bytes, rules: Rules) -> np.ndarray:
    """The picture as the rules want it (H, W, C), uint8; RejectedError says why not."""
    return np.asarray(decode(data, rules)[0], np.uint8).reshape(rules.shape)

"""From the bytes of one file to pixels of the wanted shape, or to a reason code. Imports no torch: it runs in many processes.

Every problem of a file is an answer, never an exception: reasons are ``empty_file``, ``not_an_image``, ``format_not_allowed``,
``too_many_pixels``, ``too_small``, ``corrupt`` and ``unreadable``.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM")
BACKGROUND = (255, 255, 255)  # behind transparent pixels
MAX_FILE_BYTES = 512 * 2**20
FITS = {"crop": ImageOps.fit, "pad": ImageOps.pad}


@dataclass(frozen=True)
class Rules:
    """What a picture must be and become."""

    size: int
    mode: str
    fit: str
    min_side_pixels: int
    max_pixels: int


@dataclass(frozen=True)
class Decoded:
    """One file's answer: pixels with their facts, or a reason with its detail."""

    path: str
    pixels_HWC: np.ndarray | None = None
    sha256: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    reason: str = ""
    detail: str = ""


class _RejectedError(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def _to_mode(picture: Image.Image, mode: str) -> Image.Image:
    """8-bit ``mode``; 16-bit and float pictures are scaled by their range instead of clipped to white."""
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float64)
        values = np.where(np.isfinite(values), values, 0.0)
        low, high = (0.0, 65535.0) if picture.mode.startswith("I;16") or values.max(initial=0) > 255 else (0.0, 255.0)
        if picture.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > high:
            low, high = float(values.min()), float(values.max())
        scaled = (values - low) / max(high - low, 1e-12) * 255
        picture = Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        behind = Image.new("RGBA", picture.size, (*BACKGROUND, 255))
        picture = Image.alpha_composite(behind, picture).convert("RGB")
    return picture.convert(mode)


def _decode(data: bytes, rules: Rules) -> tuple[np.ndarray, int, int, str]:
    if not data:
        raise _RejectedError("empty_file", "0 bytes")
    try:
        probe = Image.open(io.BytesIO(data))
        form, (width, height), mode = probe.format, probe.size, probe.mode
    except Exception as error:
        raise _RejectedError("not_an_image", type(error).__name__) from None
    if form not in FORMATS:
        raise _RejectedError("format_not_allowed", str(form))
    if width * height > rules.max_pixels:
        raise _RejectedError("too_many_pixels", f"{width}x{height}")
    if min(width, height) < rules.min_side_pixels:
        raise _RejectedError("too_small", f"{width}x{height}")
    try:
        probe.verify()
        with Image.open(io.BytesIO(data)) as picture:
            if form in ("JPEG", "MPO"):  # decode at a fraction of the size where that is still larger than what is wanted
                picture.draft(None, (2 * rules.size, 2 * rules.size))
            picture.load()
            picture = ImageOps.exif_transpose(picture)
            picture = _to_mode(picture, rules.mode)
            if picture.size != (rules.size, rules.size):
                wanted = (rules.size, rules.size)
                if rules.fit == "stretch":
                    picture = picture.resize(wanted, Image.Resampling.LANCZOS)
                else:
                    picture = FITS[rules.fit](picture, wanted, Image.Resampling.LANCZOS)
            pixels = np.asarray(picture, dtype=np.uint8)
    except Exception as error:
        raise _RejectedError("corrupt", f"{type(error).__name__}: {' '.join(str(error).split())[:120]}") from None
    return np.ascontiguousarray(pixels.reshape(rules.size, rules.size, -1)), width, height, mode


def decode(path: str, data: bytes, rules: Rules) -> Decoded:
    """Pixels (size, size, channels) of one file, or its reason; raises nothing."""
    try:
        pixels, width, height, mode = _decode(data, rules)
    except _RejectedError as rejected:
        return Decoded(path, reason=rejected.reason, detail=rejected.detail)
    return Decoded(path, pixels, hashlib.sha256(pixels.tobytes()).hexdigest(), width, height, mode)


def decode_members(archive: zipfile.ZipFile, names: list[str], rules: Rules) -> list[Decoded]:
    """Decode the named members of an open archive, in order."""
    Image.MAX_IMAGE_PIXELS = None  # the limit is ours, read from the header before any decoding
    answers = []
    for name in names:
        try:
            if archive.getinfo(name).file_size > MAX_FILE_BYTES:
                answers.append(Decoded(name, reason="unreadable", detail=f"more than {MAX_FILE_BYTES} bytes"))
                continue
            data = archive.read(name)
        except Exception as error:
            detail = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            answers.append(Decoded(name, reason="unreadable", detail=detail))
            continue
        answers.append(decode(name, data, rules))
    return answers


_archive: zipfile.ZipFile | None = None  # of a pool's process: reading the directory of a large zip once, not per chunk


def open_in_process(path: Path) -> None:
    """Initializer of a pool's process."""
    global _archive
    _archive = zipfile.ZipFile(path)


def decode_in_process(names: list[str], rules: Rules) -> list[Decoded]:
    """``decode_members`` of the archive that this process opened."""
    assert _archive is not None
    return decode_members(_archive, names, rules)

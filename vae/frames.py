"""Animations as pictures: every frame as a viewer shows it. Imports no torch, as vae/decode.py.

Every problem of a file is a RejectedError with a reason: ``empty_file``, ``not_an_image``, ``format_not_allowed``,
``too_many_pixels``, ``too_many_frames``, ``corrupt``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from PIL import Image

from vae.decode import FORMATS, RejectedError

SUFFIXES = (".gif", ".webp", ".png", ".apng", ".tif", ".tiff")  # of files that may hold more than one picture
PNG_MODES = ("1", "L", "LA", "I", "I;16", "RGB", "RGBA")  # what a PNG holds as it is; pages in print colours become TIFF
MOST_FRAMES, MOST_PIXELS = 10_000, 10**8
MOST_PIXELS_OF_ALL = 4 * 10**9  # 2,000 frames of a film of today


def _opened(data: bytes) -> Image.Image:
    if not data:
        raise RejectedError("empty_file", "0 bytes")
    Image.MAX_IMAGE_PIXELS = None  # the limit is ours
    try:
        picture = Image.open(io.BytesIO(data))
    except Exception as error:  # whatever a decoder raises on hostile bytes is a reason
        raise RejectedError("not_an_image", type(error).__name__) from None
    if picture.format not in FORMATS:
        raise RejectedError("format_not_allowed", str(picture.format))
    if picture.width * picture.height > MOST_PIXELS:
        raise RejectedError("too_many_pixels", f"{picture.width}x{picture.height}")
    return picture


def count(data: bytes) -> int:
    """How many pictures the file holds: 1 of most."""
    picture = _opened(data)
    try:
        found = int(getattr(picture, "n_frames", 1))
    except Exception as error:  # likewise
        raise RejectedError("corrupt", f"{type(error).__name__}: {error}") from None
    if found > MOST_FRAMES or found * picture.width * picture.height > MOST_PIXELS_OF_ALL:
        raise RejectedError("too_many_frames", f"{found} of {picture.width}x{picture.height}")
    return found


def frames(data: bytes) -> Iterator[bytes]:
    """Each picture of the file in its order, without loss: as the bytes of a PNG, or where that cannot hold it of a TIFF."""
    total, picture = count(data), _opened(data)
    for number in range(total):
        buffer = io.BytesIO()
        try:
            picture.seek(number)
            frame: Image.Image = picture
            if picture.mode in ("P", "PA"):
                frame = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
            if frame.mode in PNG_MODES:
                frame.save(buffer, "PNG", compress_level=1)
            else:
                frame.copy().save(buffer, "TIFF")
        except Exception as error:  # likewise
            raise RejectedError("corrupt", f"frame {number}: {type(error).__name__}: {error}") from None
        yield buffer.getvalue()

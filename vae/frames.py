"""Animations as pictures: every frame as a viewer shows it. Imports no torch, as vae/decode.py.

Every problem of a file is a RejectedError with a reason: ``empty_file``, ``not_an_image``, ``format_not_allowed``,
``too_many_pixels``, ``too_many_frames``, ``corrupt``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from vae.decode import FORMATS, RejectedError, opened

SUFFIXES = (".gif", ".webp", ".png", ".apng", ".tif", ".tiff")  # of files that may hold more than one picture
PNG_MODES = ("1", "L", "LA", "I", "I;16", "RGB", "RGBA")  # what a PNG holds as it is; pages in print colours become TIFF
MOST_FRAMES, MOST_PIXELS = 10_000, 10**8
MOST_PIXELS_OF_ALL = 4 * 10**9  # 2,000 frames of a film of today


class Animation:
    """The pictures of one file, ``count`` of them: 1 of most."""

    def __init__(self, data: bytes) -> None:
        self._picture = picture = opened(data)
        size = f"{picture.width}x{picture.height}"
        if picture.format not in FORMATS:
            raise RejectedError("format_not_allowed", str(picture.format))
        if picture.width * picture.height > MOST_PIXELS:
            raise RejectedError("too_many_pixels", size)
        try:
            self.count = int(getattr(picture, "n_frames", 1))
        except Exception as error:  # whatever a decoder raises on hostile bytes is a reason
            raise RejectedError("corrupt", f"{type(error).__name__}: {error}") from None
        if self.count > MOST_FRAMES or self.count * picture.width * picture.height > MOST_PIXELS_OF_ALL:
            raise RejectedError("too_many_frames", f"{self.count} of {size}")

    def frames(self) -> Iterator[bytes]:
        """Each picture in its order, without loss: as the bytes of a PNG, or where that cannot hold it of a TIFF."""
        for number in range(self.count):
            try:
                yield self._frame(number)
            except Exception as error:  # likewise
                raise RejectedError("corrupt", f"frame {number}: {type(error).__name__}: {error}") from None

    def _frame(self, number: int) -> bytes:
        self._picture.seek(number)
        frame, buffer = self._picture, io.BytesIO()
        if frame.mode in ("P", "PA"):
            frame = frame.convert("RGBA" if "transparency" in frame.info else "RGB")
        if frame.mode in PNG_MODES:
            frame.save(buffer, "PNG", compress_level=1)
        else:
            frame.copy().save(buffer, "TIFF")
        return buffer.getvalue()

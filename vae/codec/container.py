"""The file that ``vae compress`` writes, byte by byte: docs/codec.md has the same as a table. All numbers little-endian."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass

import numpy as np

MAGIC, VERSION = b"VAEC", 1
LOSSY, LOSSLESS = 0, 1
HEAD = struct.Struct("<4sBBHIHHB8s8sIII")
CHECK = struct.Struct("<I")
MOST_TOLD_BYTES = 2**30  # of the description, unpacked


class DamagedFileError(ValueError):
    """The bytes are not a whole file of this kind; the message says how that shows."""


@dataclass(frozen=True)
class Container:
    """``way``: LOSSY or LOSSLESS; ``parameter``: the step of quantisation, or the lanes; ``shape``: (N, H, W, C) of the pictures.

    ``model``: the identity of the model (8 bytes); ``pixels``: the first 8 bytes of the sha256 of the uint8 pixels that come out;
    ``borrowed``: words of the supply at the bottom; ``called`` and ``names``: what the model and the pictures are called.
    """

    way: int
    parameter: int
    shape: tuple[int, int, int, int]
    model: bytes
    pixels: bytes
    borrowed: int
    words: np.ndarray
    called: str = ""
    names: tuple[str, ...] = ()

    def pack(self) -> bytes:
        """The file."""
        told = zlib.compress(json.dumps([self.called, *self.names], ensure_ascii=False, separators=(",", ":")).encode(), 9)
        head = HEAD.pack(
            MAGIC,
            VERSION,
            self.way,
            self.parameter,
            *self.shape,
            self.model,
            self.pixels,
            self.borrowed,
            len(self.words),
            len(told),
        )
        body = head + told + self.words.astype("<u4").tobytes()
        return body + CHECK.pack(zlib.crc32(body))

    @classmethod
    def unpack(cls, content: bytes) -> Container:
        """DamagedFileError for anything but a whole file."""
        if content[:4] != MAGIC:
            raise DamagedFileError("it is no file of `vae compress`")
        if len(content) < HEAD.size + CHECK.size:
            raise DamagedFileError(f"it is cut off: {len(content)} bytes do not even hold its head")
        _, version, way, parameter, n, h, w, c, model, pixels, borrowed, count, told_bytes = HEAD.unpack_from(content)
        if version != VERSION:
            raise DamagedFileError(f"it is of version {version}, and this code reads version {VERSION}")
        size = HEAD.size + told_bytes + 4 * count + CHECK.size
        if len(content) != size:
            raise DamagedFileError(f"it is cut off or was added to: {len(content)} bytes, its head says {size}")
        if CHECK.unpack_from(content, size - CHECK.size)[0] != zlib.crc32(content[: -CHECK.size]):
            raise DamagedFileError("it differs from its checksum")
        try:
            unpacker = zlib.decompressobj()
            text = unpacker.decompress(content[HEAD.size : HEAD.size + told_bytes], MOST_TOLD_BYTES)
            called, *names = (str(each) for each in json.loads(text))
        except (zlib.error, ValueError, TypeError):
            raise DamagedFileError("its description cannot be read") from None
        words = np.frombuffer(content, "<u4", count, HEAD.size + told_bytes).astype(np.uint32)
        return cls(way, parameter, (n, h, w, c), model, pixels, borrowed, words, called, tuple(names))

    @property
    def payload_bytes(self) -> int:
        """What the pictures themselves take."""
        return 4 * len(self.words)

    def holds(self, images_NHWC: np.ndarray) -> bool:
        """Whether these are the pixels that it was made to give."""
        return pixels_of(images_NHWC) == self.pixels


def pixels_of(images_NHWC: np.ndarray) -> bytes:
    """The first 8 bytes of the sha256 of uint8 pixels in the order of rows."""
    return hashlib.sha256(np.ascontiguousarray(images_NHWC).tobytes()).digest()[:8]

"""Arrays of MATLAB 5 files (MathWorks, "MAT-File Format"), read strictly: scipy's reader ends the process on some damaged ones.

A file is a header of 128 bytes and elements: a tag (type, length), then the data. An element may be zlib-compressed.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HEADER_BYTES = 128
MATRIX, COMPRESSED = 14, 15
KINDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # of stored values
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}  # what they stand for
COMPLEX = 0x0800


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """(type, bytes) of the elements that follow each other in ``data``; ValueError where they do not fit."""
    place = 0
    while place < len(data):
        if len(data) - place < 8:
            raise ValueError("it ends within a tag")
        kind, length = struct.unpack_from(f"{order}II", data, place)
        if kind >> 16:  # a small element: type, length and up to four bytes in one tag
            kind, length, start, following = kind & 0xFFFF, kind >> 16, place + 4, place + 8
            if length > 4:
                raise ValueError("a small element of more than 4 bytes")
        else:
            start = place + 8
            following = start + length + (0 if kind == COMPRESSED else -length % 8)
        if start + length > len(data):
            raise ValueError("it ends within an element")
        yield kind, data[start : start + length]
        place = following


def _matrix(data: memoryview, order: str, most_bytes: int) -> tuple[str, np.ndarray | None]:
    """Name and array of a matrix element; None for a class that is no plain numbers."""
    parts = _elements(data, order)
    (_, flags), (_, dims), (_, name) = next(parts), next(parts), next(parts)
    if len(flags) != 8 or len(dims) % 4 or len(dims) < 8:
        raise ValueError("a matrix without flags or sizes")
    flag = struct.unpack_from(f"{order}I", flags)[0]
    shape = struct.unpack(f"{order}{len(dims) // 4}i", dims)
    kind_of_values, values = next(parts, (0, memoryview(b"")))
    text = bytes(name).decode("ascii", "replace")
    if flag & 0xFF not in CLASSES or flag & COMPLEX or kind_of_values not in KINDS:
        return text, None
    stored = np.dtype(order + KINDS[kind_of_values])
    wanted = np.dtype(CLASSES[flag & 0xFF])
    if min(shape) < 0 or math.prod(shape) * wanted.itemsize > most_bytes:
        raise ValueError(f"{text} of an impossible shape {shape}")
    if math.prod(shape) * stored.itemsize != len(values):
        raise ValueError(f"{text} of shape {shape} with {len(values)} bytes")
    return text, np.frombuffer(values, stored).astype(wanted, copy=False).reshape(shape, order="F")


def read_mat(path: Path, most_bytes: int) -> dict[str, np.ndarray]:
    """The numeric arrays of a file by name; ValueError says what is wrong with it."""
    data = memoryview(path.read_bytes())
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:HEADER_BYTES]), "")
    if not order or struct.unpack_from(f"{order}H", data, 124)[0] != 0x0100:
        raise ValueError("no MATLAB 5 file (newer ones are saved with -v7)")
    found = {}
    try:
        for kind, content in _elements(data[HEADER_BYTES:], order):
            if kind == COMPRESSED:
                unpacking = zlib.decompressobj()
                inner = unpacking.decompress(content, most_bytes)
                if not unpacking.eof:
                    raise ValueError("a compressed element that is cut short or too large")
                kind, content = next(_elements(memoryview(inner), order))
            if kind == MATRIX:
                name, array = _matrix(content, order, most_bytes)
                if array is not None:
                    found[name] = array
    except zlib.error as error:
        raise ValueError(f"a damaged element: {error}") from None
    except StopIteration:
        raise ValueError("a matrix without its parts") from None
    return found

"""The plainest JPEGs by libjpeg-turbo itself: the pixels that Pillow gives, to the last bit, in a quarter of its time for small ones.

Pillow reads a file's header in Python, which takes longer than a small picture's decoding; and it is the same library that decodes.
Whatever is not plain, or not whole, is Pillow's (vae/decode.py), and so is every word on why a file is rejected.
"""

from __future__ import annotations

import simplejpeg
from PIL import Image

from vae.decode import DRAFT_FACTOR, RejectedError, Rules, check_header, finished

JFIF = b"\xff\xd8\xff\xe0"  # SOI, APP0 (ITU-T T.81, table B.1; T.871)
START_OF_SCAN, START_OF_FRAME = 0xDA, (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
PLAIN = (0xC4, 0xDB, 0xDD, 0xFE)  # DHT, DQT, DRI, COM: nothing that would turn the picture or give its numbers another meaning


def _frame(data: bytes) -> tuple[int, int, int] | None:
    """(width, height, channels) of a JFIF file of 8 bits without Exif, profile, further pictures or Adobe's colours; else None."""
    if data[:4] != JFIF or data[6:11] != b"JFIF\0":
        return None
    at, found = 4 + (data[4] << 8 | data[5]), None
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == START_OF_SCAN:
            return found
        if marker in START_OF_FRAME:
            channels = data[at + 9]
            if found is not None or data[at + 4] != 8 or channels not in (1, 3):
                return None
            found = data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6], channels
        elif marker not in PLAIN:
            return None
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def decode_plain(data: bytes, rules: Rules) -> tuple[Image.Image, int, int, str] | None:
    """What ``vae.decode.decode`` answers, of a plain and whole JPEG that is not to be decoded at a fraction of its size; else None."""
    frame = _frame(data)
    if frame is None:
        return None
    width, height, channels = frame
    if min(width, height) >= 2 * DRAFT_FACTOR * max(rules.width, rules.height):
        return None
    alone = channels == 1 or (rules.mode == "L" and rules.fit != "centre")  # luminance, as Pillow is asked for it
    try:
        check_header("JPEG", width, height, rules)
        pixels = simplejpeg.decode_jpeg(data, "GRAY" if alone else "RGB", strict=True)
        picture = finished(Image.fromarray(pixels[..., 0] if alone else pixels), rules)
    except (RejectedError, ValueError):  # of a file that is cut off or damaged; Pillow says what is wrong with it
        return None
    return picture, width, height, "L" if channels == 1 else "RGB"

"""Plain JPEGs: what libjpeg-turbo gives is what Pillow gives, of every kind and of damaged ones; what is not plain is Pillow's."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.plain_jpeg import decode_plain
from vae.decode import RejectedError, Rules, decode

MODES, FITS = ("L", "RGB", "RGBA", "HSV"), ("crop", "pad", "stretch", "centre")
SIZES = ((16, 16), (33, 17), (9, 40), (63, 80))
FORMS: tuple[dict[str, object], ...] = (
    {}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"optimize": True}, {"comment": b"hello"},
    {"restart_marker_blocks": 2}, {"quality": 5}, {"quality": 100},
)  # fmt: skip


def rules(mode: str = "RGB", fit: str = "crop", **changes: object) -> Rules:
    values: dict = {"height": 16, "width": 16, "mode": mode, "fit": fit, "filter": "lanczos", "background": (255, 255, 255)}
    return Rules(**(values | {"min_side_pixels": 8, "max_aspect_ratio": 20.0, "max_pixels": 10**6} | changes))


def jpeg(mode: str = "RGB", size: tuple[int, int] = (33, 17), **options: object) -> bytes:
    noise = np.random.default_rng(size[0]).integers(0, 256, (6, 6, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def answer(data: bytes, how: Rules) -> tuple[object, ...]:
    """Pillow's answer, comparable."""
    try:
        picture, *facts = decode(data, how)
    except RejectedError as refused:
        return refused.reason, refused.detail
    return picture.mode, picture.tobytes(), *facts


def assert_as_pillow(data: bytes, how: Rules) -> bool:
    """Whether it was plain; then Pillow has to agree."""
    found = decode_plain(data, how)
    if found is not None:
        picture, *facts = found
        assert (picture.mode, picture.tobytes(), *facts) == answer(data, how)
    return found is not None


@pytest.mark.parametrize("colours", ["L", "RGB"])
def test_decode_plain_gives_the_pixels_of_pillow(colours):
    plain = [
        assert_as_pillow(jpeg(colours, size, **form), rules(mode, fit))
        for size, form, mode, fit in itertools.product(SIZES, FORMS, MODES, FITS)
    ]
    # Of fit centre, pictures smaller than what is wanted are rejected, by Pillow's way.
    assert sum(plain) >= 0.8 * len(plain)


def test_decode_plain_agrees_with_pillow_on_damaged_files():
    rng = np.random.default_rng(0)
    files = [jpeg(colours, size, **form) for colours in ("L", "RGB") for size in SIZES for form in FORMS[:4]]
    plain = whole = 0
    for _ in range(4000):
        data = bytearray(files[rng.integers(len(files))])
        place = int(rng.integers(2, len(data)))
        match rng.integers(4):
            case 0:
                data = data[:place]
            case 1:
                data[place] = int(rng.choice([0, 255, 0xD9, 0xDA, 0xE1]))
            case 2:
                data += bytes(20)
            case _:
                data[place] ^= 1 << int(rng.integers(8))
        how = rules(MODES[rng.integers(4)], FITS[rng.integers(4)])
        plain += assert_as_pillow(bytes(data), how)
        whole += len(answer(bytes(data), how)) > 2
    assert 500 < plain <= whole


@pytest.mark.parametrize(
    "data",
    [
        jpeg(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),  # turned by a quarter
        jpeg(icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        jpeg("CMYK"),
        jpeg(keep_rgb=True),  # Adobe's marker
        jpeg(size=(64, 64)),  # Pillow decodes it at half of its size
        jpeg()[:-40],
        jpeg(size=(200, 9)),  # extreme
        b"\xff\xd8\xff\xe0",
        b"",
    ],
    ids=["turned", "profile", "cmyk", "adobe", "large", "cut", "extreme", "begun", "empty"],
)
def test_decode_plain_leaves_to_pillow_what_is_not_plain(data):
    assert decode_plain(data, rules()) is None

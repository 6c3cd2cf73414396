"""Decode: from the bytes of one file to pixels, or to a reason; whatever the bytes are, never an exception."""

from __future__ import annotations

import colorsys
import io
import struct
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from vae import decode as module
from vae.decode import RejectedError, Rules

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def rules(
    size: int | tuple[int, int] = 16, mode: str = "RGB", fit: str = "crop", low: int = 1, high: int = 10**6, **more: Any
) -> Rules:
    height, width = size if isinstance(size, tuple) else (size, size)
    rest = {"filter": "lanczos", "background": WHITE, "max_aspect_ratio": 100.0} | more
    return Rules(height=height, width=width, mode=mode, fit=fit, min_side_pixels=low, max_pixels=high, **rest)


def decode(name: str, data: bytes, how: Rules) -> SimpleNamespace:
    """The answer for one file, whichever it is."""
    try:
        picture, width, height, mode = module.decode(data, how)
        pixels = np.asarray(picture).reshape(how.shape)
        assert picture.mode == how.mode and pixels.dtype == np.uint8
    except RejectedError as error:
        return SimpleNamespace(pixels_HWC=None, reason=error.reason, detail=error.detail)
    return SimpleNamespace(pixels_HWC=pixels, width=width, height=height, mode=mode, reason="", detail="")


def saved(image: Image.Image | np.ndarray, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def noise(width: int = 16, height: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def pixels(data: bytes, how: Rules | None = None) -> np.ndarray:
    answer = decode("name", data, how or rules())
    assert answer.pixels_HWC is not None, (answer.reason, answer.detail)
    return answer.pixels_HWC


def reason(data: bytes, how: Rules | None = None) -> str:
    answer = decode("name", data, how or rules())
    assert answer.pixels_HWC is None
    return answer.reason


def test_decode_exact_size_keeps_every_pixel_and_states_the_facts():
    image = noise()
    answer = decode("a/b.png", saved(image), rules())
    np.testing.assert_array_equal(answer.pixels_HWC, image)
    assert (answer.width, answer.height, answer.mode, answer.reason) == (16, 16, "RGB", "")


def test_decode_facts_are_of_the_original():
    answer = decode("a", saved(Image.new("L", (40, 30))), rules())
    assert (answer.width, answer.height, answer.mode) == (40, 30, "L")
    assert answer.pixels_HWC is not None and answer.pixels_HWC.shape == (16, 16, 3)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_decode_every_allowed_format(form, mode):
    found = pixels(saved(Image.new("RGB", (20, 20), (200, 100, 50)), form), rules(mode=mode))
    expected = [200, 100, 50] if mode == "RGB" else [round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)]
    assert np.abs(found.astype(int) - expected).max() <= 6  # lossy formats


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty_file"),
        (b"only text, whatever its name", "not_an_image"),
        (b"\x89PNG\r\n\x1a\n", "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    ],
)
def test_decode_what_is_no_image_has_its_reason(data, expected):
    assert reason(data) == expected


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_decode_truncated_file_is_refused(form, share):
    data = saved(noise(64, 64), form)
    assert reason(data[: int(len(data) * share)]) in ("corrupt", "not_an_image")


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_decode_truncated_picture_is_corrupt_with_its_cause(form):
    data = saved(noise(64, 64), form)
    answer = decode("name", data[: len(data) // 2], rules())
    assert answer.reason == "corrupt" and answer.detail and "\n" not in answer.detail


def test_decode_wrong_checksum_is_corrupt():
    data = bytearray(saved(noise(32, 32)))
    data[-16] ^= 0xFF  # the last byte of IDAT's CRC; behind it stand the 12 bytes of IEND
    data[-13] ^= 0xFF
    assert reason(bytes(data)) == "corrupt"


def test_decode_16_bit_mid_grey_stays_mid_grey():
    found = pixels(saved(np.full((16, 16), 32768, np.uint16)))
    assert found.min() == found.max() and 127 <= found[0, 0, 0] <= 128


def test_decode_16_bit_is_scaled_by_its_range_and_not_by_its_content():
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    np.testing.assert_array_equal(pixels(saved(ramp), rules(mode="L"))[..., 0].ravel(), np.arange(256))
    assert pixels(saved(np.full((16, 16), 200, np.uint16))).max() == 1  # nearly black, as it was
    assert pixels(saved(np.full((16, 16), 65535, np.uint16))).min() == 255


def test_decode_16_bit_colour_keeps_its_levels():
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + struct.pack(">3H", 0x8000, 0x4000, 0xFFFF) * 16
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row * 16)) + chunk(b"IEND", b"")
    assert np.abs(pixels(data).astype(int) - [128, 64, 255]).max() <= 1


def test_decode_float_picture_is_scaled_by_its_range():
    ramp = np.linspace(-3, 5, 256).astype(np.float32).reshape(16, 16)
    np.testing.assert_array_equal(pixels(saved(ramp, "TIFF"), rules(mode="L"))[..., 0].ravel(), np.arange(256))


def test_decode_float_picture_with_one_nan_keeps_the_rest():
    ramp = np.linspace(0, 1, 256).astype(np.float32).reshape(16, 16)
    ramp[3, 3] = np.nan
    answer = decode("name", saved(ramp, "TIFF"), rules(mode="L"))
    if answer.pixels_HWC is None:  # to refuse it is right too; to store a black picture is not
        assert answer.reason == "corrupt"
    else:
        assert answer.pixels_HWC.std() > 50


def test_decode_32_bit_whole_numbers_are_scaled_and_not_clipped():
    ramp = np.linspace(0, 10**6, 256).astype(np.int32).reshape(16, 16)
    found = pixels(saved(Image.fromarray(ramp), "TIFF"), rules(mode="L"))[..., 0].ravel().astype(int)
    assert np.abs(found - np.arange(256)).max() <= 1


def test_decode_two_levels_become_black_and_white():
    bits = np.indices((16, 16)).sum(0) % 2 == 0
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(bits)), rules(mode="L"))[..., 0], bits * 255)


@pytest.mark.parametrize("colour", [RED, GREEN, WHITE, BLACK, (120, 130, 140)])
def test_decode_cmyk_jpeg_shows_its_colour(colour):
    picture = Image.new("RGB", (16, 16), colour).convert("CMYK")
    assert np.abs(pixels(saved(picture, "JPEG", quality=95)).astype(int) - colour).max() <= 6


def test_decode_alpha_is_laid_on_white():
    image = np.zeros((16, 16, 4), np.uint8)
    image[:8, :, 3], image[8:, :, 3], image[8:, :8, 3] = 0, 255, 128
    found = pixels(saved(image))
    assert (found[:8] == 255).all() and (found[8:, 8:] == 0).all()
    assert np.abs(found[8:, :8].astype(int) - 127).max() <= 1


def test_decode_alpha_of_grey_is_laid_on_white():
    image = np.zeros((16, 16, 2), np.uint8)
    image[:, 8:, 1] = 255
    found = pixels(saved(image), rules(mode="L"))[..., 0]
    assert (found[:, :8] == 255).all() and (found[:, 8:] == 0).all()


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_decode_palette_with_transparency_is_laid_on_white(form):
    picture = Image.fromarray(np.repeat(np.arange(2, dtype=np.uint8), 128).reshape(16, 16), "P")
    picture.putpalette([*RED, *BLUE])
    found = pixels(saved(picture, form, transparency=0))
    assert (found[:8] == WHITE).all() and (found[8:] == BLUE).all()


def test_decode_palette_without_transparency_shows_its_colours():
    picture = Image.fromarray(np.repeat(np.arange(2, dtype=np.uint8), 128).reshape(16, 16), "P")
    picture.putpalette([*RED, *BLUE])
    found = pixels(saved(picture))
    assert (found[:8] == RED).all() and (found[8:] == BLUE).all()


# How a camera stores an upright picture for each EXIF orientation (TIFF 6.0 and Exif 2.3, tag 0x0112), in NumPy alone.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_decode_every_exif_orientation_gives_the_upright_picture(orientation, fit):
    upright = noise(20, 36)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](upright))
    found = pixels(saved(stored, exif=exif), rules(fit=fit))
    np.testing.assert_array_equal(found, pixels(saved(upright), rules(fit=fit)))


def test_decode_exif_orientation_of_a_large_jpeg():
    upright = np.zeros((200, 400, 3), np.uint8)
    upright[:100, :200] = RED
    upright[100:, 200:] = BLUE
    exif = Image.Exif()
    exif[0x0112] = 6
    found = pixels(saved(np.ascontiguousarray(np.rot90(upright, 1)), "JPEG", exif=exif, quality=95), rules(fit="stretch"))
    for block, colour in ((found[2:6, 2:6], RED), (found[10:14, 10:14], BLUE), (found[2:6, 10:14], BLACK)):
        assert np.abs(block.astype(int) - colour).max() < 12


def test_decode_jpeg_read_at_a_fraction_looks_like_the_whole():
    image = noise(16, 16, seed=5).repeat(4, 0).repeat(4, 1)  # every pixel of the result is a block of its own
    found, expected = pixels(saved(image, "JPEG", quality=95, subsampling=0)), pixels(saved(image, "PNG"))
    assert np.abs(found.astype(int) - expected).mean() < 5


def test_decode_animation_gives_its_first_picture():
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.n_frames == 3
    assert (pixels(data) == RED).all()


def test_decode_tiff_of_several_pages_gives_the_first():
    pages = [Image.new("RGB", (16, 16), colour) for colour in (GREEN, BLUE)]
    assert (pixels(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])) == GREEN).all()


def test_decode_single_pixel_is_enlarged_or_too_small():
    data = saved(Image.new("RGB", (1, 1), GREEN))
    assert (pixels(data, rules(low=1)) == GREEN).all()
    answer = decode("name", data, rules(low=2))
    assert (answer.reason, answer.detail) == ("too_small", "1x1")


def test_decode_shorter_side_decides_what_is_too_small():
    data = saved(noise(40, 7))
    assert reason(data, rules(low=8)) == "too_small"
    assert pixels(data, rules(low=7)).shape == (16, 16, 3)


def test_decode_too_many_pixels_is_read_from_the_header_alone():
    body = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    data = b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    answer = decode("name", data, rules(high=100_000_000))
    assert (answer.reason, answer.detail) == ("too_many_pixels", "60000x60000")


def test_decode_pixel_limit_includes_its_end():
    data = saved(noise(20, 10))
    assert decode("name", data, rules(high=200)).pixels_HWC is not None
    assert decode("name", data, rules(high=199)).reason == "too_many_pixels"


def test_decode_limit_above_pillows_own_is_honoured():
    picture = Image.new("1", (10_000, 9_500))  # more than Pillow warns at, and all within our limit
    data = saved(picture, "TIFF", compression="group4")
    assert decode("name", data, rules(high=10**8)).reason == ""
    assert decode("name", data, rules(high=9 * 10**7)).reason == "too_many_pixels"


def test_decode_content_counts_and_not_the_name():
    answer = decode("photo.txt", saved(noise(), "JPEG"), rules())
    assert answer.pixels_HWC is not None
    assert decode("photo.jpg", b"plain text", rules()).reason == "not_an_image"


@pytest.mark.parametrize("form", ["ICO", "TGA", "PCX", "SGI", "ICNS", "PDF", "EPS"])
def test_decode_format_off_the_list_is_refused(form):
    answer = decode("name.png", saved(Image.new("RGB", (32, 32)), form), rules())
    assert answer.reason in ("format_not_allowed", "not_an_image")
    if form in ("ICO", "TGA", "ICNS"):
        assert (answer.reason, answer.detail) == ("format_not_allowed", form)


def stripes(width: int, height: int) -> np.ndarray:
    """The middle square green, what lies beside it red (along the longer side)."""
    image = np.full((height, width, 3), RED, np.uint8)
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    image[top : top + side, left : left + side] = GREEN
    return image


@pytest.mark.parametrize(("width", "height"), [(64, 32), (32, 64)])
def test_decode_crop_takes_the_middle(width, height):
    assert np.abs(pixels(saved(stripes(width, height)), rules(fit="crop"))[1:-1, 1:-1].astype(int) - GREEN).max() < 40
    assert (pixels(saved(stripes(width, height)), rules(fit="crop"))[4:12, 4:12] == GREEN).all()


def test_decode_pad_keeps_the_whole_picture_between_bars():
    found = pixels(saved(np.full((32, 64, 3), 200, np.uint8)), rules(fit="pad"))
    assert (found[4:12] == 200).all()
    assert (found[:4] == found[0, 0]).all() and (found[12:] == found[0, 0]).all() and found[0, 0, 0] != 200
    wide = pixels(saved(stripes(64, 32)), rules(fit="pad"))[6:10].astype(int)
    assert np.abs(wide[:, :3] - RED).max() < 20 and np.abs(wide[:, 6:10] - GREEN).max() < 20


def test_decode_stretch_keeps_the_whole_picture_without_bars():
    found = pixels(saved(stripes(64, 32)), rules(fit="stretch")).astype(int)
    for columns, colour in ((slice(0, 2), RED), (slice(6, 10), GREEN), (slice(14, 16), RED)):
        assert np.abs(found[:, columns] - colour).max() < 20


def test_decode_fit_makes_no_difference_to_a_square():
    data = saved(noise(48, 48))
    first, *others = (pixels(data, rules(fit=fit)) for fit in ("crop", "pad", "stretch"))
    assert all(np.array_equal(first, other) for other in others)


def test_decode_smaller_picture_is_averaged_and_not_sampled():
    checkers = ((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)
    found = pixels(saved(checkers), rules(mode="L"))[2:-2, 2:-2]
    assert np.abs(found.astype(int) - 127.5).max() < 4


@pytest.mark.filterwarnings("ignore")  # Pillow's about odd files; what counts is the answer
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM", "WEBP"])
def test_decode_damaged_bytes_always_get_an_answer(form):
    original, rng = saved(noise(24, 24), form), np.random.default_rng(1)
    for _ in range(60):
        data = bytearray(original)
        for place in rng.integers(0, min(len(data), int(rng.choice([40, 10**6]))), 4):
            data[place] = rng.integers(256)
        answer = decode("name", bytes(data), rules(high=10**5))
        if answer.pixels_HWC is None:
            assert answer.reason in ("not_an_image", "format_not_allowed", "too_many_pixels", "too_small", "corrupt")
        else:
            assert answer.pixels_HWC.shape == (16, 16, 3) and answer.pixels_HWC.dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "HSV"])
@pytest.mark.parametrize("size", [(16, 16), (12, 20), (30, 9)])
@pytest.mark.parametrize("fit", ["crop", "centre", "pad", "stretch"])
def test_decode_every_mode_size_and_fit_gives_the_wanted_shape(mode, size, fit):
    for original in (noise(40, 50), noise(50, 40), noise(40, 40)[..., 0]):
        found = pixels(saved(original), rules(size, mode, fit))
        assert found.shape == (*size, len(mode))


def test_decode_rgba_keeps_its_alpha_and_opaque_pictures_are_opaque():
    half = np.zeros((16, 16, 4), np.uint8)
    half[:, :8] = (255, 0, 0, 255)
    np.testing.assert_array_equal(pixels(saved(half), rules(mode="RGBA")), half)
    assert (pixels(saved(noise()), rules(mode="RGBA"))[..., 3] == 255).all()


def test_decode_transparent_pixels_do_not_bleed_when_a_picture_shrinks():
    """Invisible green beside red: an average that forgot the alpha would be yellow."""
    picture = np.zeros((32, 32, 4), np.uint8)
    picture[::2] = (255, 0, 0, 255)
    picture[1::2] = (0, 255, 0, 0)
    found = pixels(saved(picture), rules(mode="RGBA"))[4:-4, 4:-4]
    assert found[..., 1].max() <= 2 and found[..., 0].min() >= 250 and 100 < found[..., 3].mean() < 155


def test_decode_hsv_is_that_of_colorsys():
    image = noise(8, 8)
    found = pixels(saved(image), rules(8, "HSV"))
    for colour, (h, s, v) in zip(image.reshape(-1, 3), found.reshape(-1, 3), strict=True):
        back = np.array(colorsys.hsv_to_rgb(h / 255, s / 255, v / 255)) * 255
        assert np.abs(back - colour).max() <= 6


def test_decode_hue_is_no_average_over_the_circle():
    """Two reds on both sides of hue 0 give red, not the cyan in the middle of 0.02 and 0.98."""
    a, b = (tuple(round(255 * x) for x in colorsys.hsv_to_rgb(h, 1, 1)) for h in (0.02, 0.98))
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[::2], picture[1::2] = a, b
    hue = pixels(saved(picture), rules(mode="HSV"))[4:-4, 4:-4, 0].astype(int)
    assert np.minimum(hue, 255 - hue).max() < 8


def test_decode_background_lies_behind_alpha_and_beside_padded_pictures():
    clear = saved(Image.new("RGBA", (16, 16), (0, 0, 0, 0)))
    assert (pixels(clear, rules(background=(10, 20, 30))) == (10, 20, 30)).all()
    bars = pixels(saved(Image.new("RGB", (32, 16), RED)), rules(fit="pad", background=(10, 20, 30)))
    assert (bars[0] == (10, 20, 30)).all() and (bars[8] == RED).all()
    assert (pixels(saved(Image.new("RGBA", (32, 16), (*RED, 255))), rules(mode="RGBA", fit="pad"))[0] == 0).all()


def test_decode_centre_cuts_without_shrinking_and_refuses_what_is_too_small():
    image = noise(30, 20)
    np.testing.assert_array_equal(pixels(saved(image), rules((10, 12), fit="centre")), image[5:15, 9:21])
    assert reason(saved(noise(30, 9)), rules((10, 12), fit="centre")) == "too_small"


def test_decode_extreme_proportions_are_refused_by_the_header():
    assert reason(saved(noise(90, 10)), rules(max_aspect_ratio=8.9)) == "extreme_aspect_ratio"
    assert pixels(saved(noise(90, 10)), rules(max_aspect_ratio=9.0)).shape == (16, 16, 3)
    assert reason(saved(Image.new("L", (60000, 1))), rules(low=8)) == "too_small"


def test_decode_colour_profile_is_converted_to_srgb():
    """The same numbers under a profile with swapped red and green primaries are another colour."""
    image = Image.new("RGB", (16, 16), (200, 30, 30))
    plain = pixels(saved(image))
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    assert np.abs(pixels(saved(image, icc_profile=swapped.tobytes())).astype(int) - plain).max() <= 1
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))  # of another kind than the pixels: ignored, not fatal
    np.testing.assert_array_equal(pixels(saved(image, icc_profile=lab.tobytes())), plain)
    np.testing.assert_array_equal(pixels(saved(image, icc_profile=b"no profile at all")), plain)


def test_decode_lab_picture_shows_its_colour():
    lab = np.zeros((16, 16, 3), np.uint8)
    lab[...] = (
        136,
        80,
        67,
    )  # CIE L*a*b* of pure red is (53.2, 80.1, 67.2); L* is stored as 255 levels of 100, a* and b* as they are
    found = pixels(saved(Image.frombytes("LAB", (16, 16), lab.tobytes()), "TIFF"))
    assert np.abs(found.astype(int) - (255, 0, 0)).max() < 16


@pytest.mark.parametrize("name", ["lanczos", "bicubic", "bilinear", "box"])
def test_decode_filters_are_antialiased(name):
    checkers = ((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)
    found = pixels(saved(checkers), rules(mode="L", filter=name))[2:-2, 2:-2]
    assert np.abs(found.astype(int) - 127.5).max() < 4

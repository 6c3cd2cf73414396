"""looks: what each promises of any picture, and that a model's rules take a person's pictures through it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from vae.decode import Rules, pixels
from vae.looks import COLOURS, FADED, LOOKS, looked


def photo(mode: str, seed: int = 0, side: int = 32) -> Image.Image:
    """Smooth areas, an edge and some noise."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[0:side, 0:side] / side
    channels = [80 + 100 * x, 60 + 120 * y, 200 - 90 * x * y]
    picture = np.stack(channels, 2) + rng.normal(0, 4, (side, side, 3))
    picture[8:20, 10:24] = [30, 40, 20]
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_size_mode_and_transparency_stay(look, mode):
    picture = photo(mode)
    if mode == "RGBA":
        picture.putalpha(Image.fromarray(np.arange(32 * 32, dtype=np.uint32).reshape(32, 32).astype(np.uint8)))
    found = looked(picture, look)
    assert (found.size, found.mode) == (picture.size, picture.mode)
    if mode == "RGBA":
        assert found.getchannel("A").tobytes() == picture.getchannel("A").tobytes()
    assert (found.tobytes() == picture.tobytes()) == (look == "plain")
    assert looked(picture, look).tobytes() == found.tobytes()


def test_cartoon_has_few_levels_flat_areas_and_dark_outlines():
    found = np.asarray(looked(photo("RGB"), "cartoon")).astype(int)
    inner = found[22:, 2:-2]  # far from the edge
    assert len(np.unique(inner.reshape(-1, 3), axis=0)) <= COLOURS
    assert len(np.unique(np.asarray(looked(photo("L"), "cartoon"))[22:, 2:-2])) <= COLOURS
    steps = np.abs(np.diff(found.mean(2), axis=1))
    plain = np.abs(np.diff(np.asarray(photo("RGB")).astype(float).mean(2), axis=1))
    assert (steps == 0).mean() > 0.6 > (plain == 0).mean()
    outline = found[8:20, 9]  # beside the dark box, on its lighter side
    assert outline.mean() < 0.75 * found[8:20, 4].mean()


def test_even_picture_has_no_outline_at_its_border():
    found = np.asarray(looked(Image.new("RGB", (16, 16), (200, 120, 60)), "cartoon"))
    assert len(np.unique(found.reshape(-1, 3), axis=0)) == 1


def test_vintage_is_faded_and_warm():
    grey = np.asarray(looked(Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (4, 1))), "vintage"))
    assert (grey.min(), grey.max()) == FADED
    before, after = (
        np.asarray(each).astype(float).reshape(-1, 3).mean(0) for each in (photo("RGB"), looked(photo("RGB"), "vintage"))
    )
    assert after[0] - after[2] > 30 > before[0] - before[2]  # red against blue


def test_rules_take_a_file_through_their_look():
    buffer = io.BytesIO()
    photo("RGB").save(buffer, "PNG")
    told = {"height": 32, "width": 32, "mode": "RGB", "fit": "crop", "filter": "lanczos", "background": [255, 255, 255],
            "min_side_pixels": 4, "max_aspect_ratio": 5.0, "max_pixels": 10**6}  # fmt: skip
    old = pixels(buffer.getvalue(), Rules.of(told))
    np.testing.assert_array_equal(old, np.asarray(photo("RGB")))  # an artefact of before there were looks
    new = pixels(buffer.getvalue(), Rules.of(told | {"look": "vintage"}))
    np.testing.assert_array_equal(new, np.asarray(looked(photo("RGB"), "vintage")))

"""Measures: brightness, deviation and sharpness against plain formulas, and the filters at their limits."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from pipeline.measures import Filters, luminance, measure, reasons

OPEN = Filters(min_deviation_levels=0, min_sharpness_levels=0, min_brightness_levels=0, max_brightness_levels=255)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_luminance_is_that_of_pillow() -> None:
    images = noise(5, 9, 7, 3)
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    assert np.abs(luminance(images, "RGB") - expected).max() <= 1
    np.testing.assert_array_equal(luminance(images[..., :1], "L"), images[..., 0])
    np.testing.assert_array_equal(luminance(images, "HSV"), images[..., 2])
    np.testing.assert_array_equal(luminance(noise(2, 4, 4, 4), "RGBA"), luminance(noise(2, 4, 4, 4)[..., :3], "RGB"))


def test_measure_agrees_with_scipys_laplacian() -> None:
    light = noise(6, 12, 10).astype(np.float32)
    found = measure(light)
    for i, image in enumerate(light):
        inner = scipy.ndimage.laplace(image.astype(np.float64))[1:-1, 1:-1]
        assert found["sharpness"][i] == pytest.approx(inner.std(), rel=1e-4)
        assert found["brightness"][i] == pytest.approx(image.mean(), rel=1e-5)
        assert found["deviation"][i] == pytest.approx(image.std(), rel=1e-4)


def test_measure_of_tiny_and_uniform_images_is_zero_and_finite() -> None:
    assert measure(np.full((1, 2, 2), 7, np.float32))["sharpness"] == 0
    assert all(np.isfinite(v).all() for v in measure(np.full((1, 9, 9), 7, np.float32)).values())


def test_measure_blur_lowers_sharpness() -> None:
    light = noise(1, 32, 32).astype(np.float32)
    values = [measure(scipy.ndimage.gaussian_filter(light, (0, s, s)))["sharpness"][0] for s in (0.01, 0.5, 1, 2)]
    assert values == sorted(values, reverse=True)


def test_reasons_open_limits_let_everything_pass_and_each_limit_has_its_reason() -> None:
    light = np.stack([np.full((8, 8), 100), np.full((8, 8), 0), np.full((8, 8), 255), noise(8, 8)]).astype(np.float32)
    measures = measure(light)
    assert reasons(measures, OPEN) == [("", "")] * 4
    narrow = Filters(min_deviation_levels=1, min_sharpness_levels=1, min_brightness_levels=5, max_brightness_levels=250)
    assert [reason for reason, _ in reasons(measures, narrow)] == ["nearly_uniform"] * 3 + [""]
    only = {
        "too_dark": Filters(0, 0, 5, 255),
        "too_bright": Filters(0, 0, 0, 250),
        "blurred": Filters(0, 1, 0, 255),
        "nearly_uniform": Filters(1, 0, 0, 255),
    }
    expected = {"too_dark": [1], "too_bright": [2], "blurred": [0, 1, 2], "nearly_uniform": [0, 1, 2]}
    for reason, filters in only.items():
        found = reasons(measures, filters)
        assert [i for i, (r, _) in enumerate(found) if r == reason] == expected[reason]
        assert all("levels" in detail for r, detail in found if r)

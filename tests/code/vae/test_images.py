"""images: bytes to model range and back, and picture grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vae.images import to_model_range, to_uint8
from vae.pictures import grid, save_png


def every_level() -> torch.Tensor:
    return torch.arange(256, dtype=torch.uint8).reshape(2, 8, 8, 2)


def test_round_trip_every_level_is_exact() -> None:
    x_NHWC = every_level()
    assert torch.equal(to_uint8(to_model_range(x_NHWC)), x_NHWC)


def test_to_model_range_is_linear_from_minus_one_to_one() -> None:
    x_NCHW = to_model_range(every_level())
    assert x_NCHW.dtype == torch.float32 and x_NCHW.shape == (2, 2, 8, 8)
    expected = np.arange(256).reshape(2, 8, 8, 2).transpose(0, 3, 1, 2) / 127.5 - 1
    np.testing.assert_allclose(x_NCHW.numpy(), expected, atol=1e-6)
    assert x_NCHW.min() == -1 and x_NCHW.max() == 1


def test_to_model_range_is_channels_last_and_leaves_its_input() -> None:
    x_NHWC = torch.randint(0, 256, (2, 4, 6, 3), dtype=torch.uint8)
    before = x_NHWC.clone()
    assert to_model_range(x_NHWC).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x_NHWC, before)


@pytest.mark.parametrize("images", [torch.zeros(2, 4, 4, 3), torch.zeros(4, 4, 3, dtype=torch.uint8)])
def test_to_model_range_refuses_other_types_and_ranks(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected uint8 images"):
        to_model_range(images)


def test_to_uint8_rounds_to_the_nearest_level_and_clamps() -> None:
    levels = torch.tensor([[-5.0, -1.0, -1 + 0.49 * 2 / 255, -1 + 0.51 * 2 / 255, 1 - 0.49 * 2 / 255, 1.0, 7.0, 1e30]])
    assert to_uint8(levels[..., None, None]).flatten().tolist() == [0, 0, 0, 1, 255, 255, 255, 255]


def test_to_uint8_layout_is_nhwc_and_contiguous() -> None:
    x_NCHW = torch.zeros(1, 3, 2, 4)
    x_NCHW[0, 1, 0, 3] = 1
    out = to_uint8(x_NCHW)
    assert out.shape == (1, 2, 4, 3) and out.is_contiguous() and out.dtype == torch.uint8
    assert out[0, 0, 3].tolist() == [128, 255, 128]


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_geometry_places_every_image_row_by_row(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 3, 4, channels), dtype=np.uint8)
    picture = grid(images, columns=2, zoom=3, gap_pixels=1)
    assert picture.mode == ("L" if channels == 1 else "RGB")
    assert picture.size == (3 * (2 * 5 + 1), 3 * (3 * 4 + 1))  # width, height
    small = np.asarray(picture)[::3, ::3].reshape(13, 11, channels)
    np.testing.assert_array_equal(np.asarray(picture)[1::3, 2::3].reshape(13, 11, channels), small)  # whole pixels, no blur
    seen = np.full((13, 11, channels), 255)
    for i, image in enumerate(images):
        top, left = 1 + 4 * (i // 2), 1 + 5 * (i % 2)
        seen[top : top + 3, left : left + 4] = image
    np.testing.assert_array_equal(small, seen)


def test_save_png_same_pixels_give_the_same_bytes_and_read_back(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 3), dtype=np.uint8)
    picture = grid(images, columns=2)
    for name in ("a/x.png", "b/x.png"):
        save_png(picture, tmp_path / name)
    assert (tmp_path / "a/x.png").read_bytes() == (tmp_path / "b/x.png").read_bytes()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a/x.png")), np.asarray(picture))

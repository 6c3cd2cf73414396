"""operations, jpeg: each against Pillow, SciPy, the standard library or the formula; and never a trace of the neighbours."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy import ndimage, stats
from torch import Tensor

from vae import operations as ops
from vae.augment import STRENGTHS, WARPS, warp_matrices
from vae.jpeg import jpeg
from vae.noise import image_states

NEUTRAL = dict.fromkeys(STRENGTHS, 0.0) | {"scale": 1.0, "crop_area": 1.0, "crop_aspect": 1.0}


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Random uint8 pixels, NHWC."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def smooth(n: int, h: int, w: int, channels: int, seed: int = 0) -> np.ndarray:
    """uint8 NHWC without sharp edges."""
    rough = np.random.default_rng(seed).uniform(0, 255, (n, h, w, channels))
    soft = ndimage.gaussian_filter(rough, (0, 3, 3, 0), mode="nearest")
    low, high = soft.min((1, 2), keepdims=True), soft.max((1, 2), keepdims=True)
    return (20 + 215 * (soft - low) / (high - low)).round().astype(np.uint8)


def tensor(images_NHWC: np.ndarray) -> Tensor:
    return torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).float().contiguous() / 255


def levels(x_NCHW: Tensor) -> np.ndarray:
    return (x_NCHW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def picture(image_HWC: np.ndarray) -> Image.Image:
    return Image.fromarray(image_HWC[..., 0] if image_HWC.shape[2] == 1 else image_HWC)


def array(picture: Image.Image) -> np.ndarray:
    found = np.asarray(picture)
    return found[..., None] if found.ndim == 2 else found


def every(n: int, value: float) -> Tensor:
    return torch.full((n,), float(value))


def matrix(h: int, w: int, n: int = 1, **strengths: float) -> Tensor:
    """The warp with these strengths, the same for ``n`` pictures."""
    values = {name: np.full(n, value) for name, value in (NEUTRAL | strengths).items()}
    return torch.from_numpy(warp_matrices({name: np.ones(n, bool) for name in WARPS}, values, h, w)).float()


@pytest.mark.parametrize("fill", ["corners", "reflect"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_warp_quarter_turns_are_pillows_to_the_bit(channels: int, fill: str) -> None:
    images = pixels(3, 16, 16, channels)
    for degrees, turn in ((90, Image.Transpose.ROTATE_90), (-90, Image.Transpose.ROTATE_270), (180, Image.Transpose.ROTATE_180)):
        turned = levels(ops.warp(tensor(images), matrix(16, 16, 3, rotate=degrees), fill))
        for image, result in zip(images, turned, strict=True):
            np.testing.assert_array_equal(result, array(picture(image).transpose(turn)))


def test_warp_half_turn_of_an_oblong_picture_is_exact() -> None:
    images = pixels(2, 10, 17, 3)
    np.testing.assert_array_equal(
        levels(ops.warp(tensor(images), matrix(10, 17, 2, rotate=180), "corners")), images[:, ::-1, ::-1]
    )


def test_warp_any_angle_is_near_pillows() -> None:
    images = smooth(4, 40, 56, 1)
    for degrees in (-50, -7, 12.5, 33, 140):
        turned = levels(ops.warp(tensor(images), matrix(40, 56, 4, rotate=degrees), "corners"))
        for image, result in zip(images, turned, strict=True):
            inside = np.asarray(Image.new("L", (56, 40), 255).rotate(degrees)) == 255
            inside = ndimage.binary_erosion(inside, iterations=3)
            expected = np.asarray(picture(image).rotate(degrees, Image.Resampling.BICUBIC))
            assert np.abs(result[..., 0].astype(int) - expected)[inside].max() <= 4


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, -2), (-4, 1)])
def test_warp_whole_pixels_move_exactly_and_fill_as_told(dx: int, dy: int) -> None:
    h, w = 9, 13
    images = pixels(2, h, w, 3)
    shift = matrix(h, w, 2, translate_x=dx / w, translate_y=dy / h)
    corners = np.median(images[:, [0, 0, -1, -1], [0, -1, 0, -1]], axis=1)
    reflected, filled = (levels(ops.warp(tensor(images), shift, fill)) for fill in ("reflect", "corners"))
    for n, image in enumerate(images):
        padded = np.pad(image, ((6, 6), (6, 6), (0, 0)), mode="symmetric")
        np.testing.assert_array_equal(reflected[n], padded[6 - dy : 6 - dy + h, 6 - dx : 6 - dx + w])
        inside = ndimage.shift(np.ones((h, w)), (dy, dx), order=0) > 0
        np.testing.assert_array_equal(filled[n][inside], reflected[n][inside])
        assert np.abs(filled[n][~inside] - corners[n]).max() <= 0.51


def test_warp_composes_crop_scale_shear_rotation_and_move_in_this_order() -> None:
    # On a ramp each pixel tells the place that it was fetched from; bicubic weights keep it to a twentieth of a pixel.
    h, w = 40, 60
    y, x = np.indices((h, w)) - np.array([(h - 1) / 2, (w - 1) / 2])[:, None, None]
    ramps = torch.from_numpy(np.stack([0.5 + x / 200, 0.5 + y / 200])).float()[None]
    degrees, tx, ty, s, sx, sy, area, aspect, u, v = 25, 0.05, -0.08, 1.3, 12, -9, 0.5, 1.2, 0.4, -0.7
    found = ops.warp(
        ramps,
        matrix(
            h, w, rotate=degrees, translate_x=tx, translate_y=ty, scale=s, shear_x=sx, shear_y=sy, crop_area=area,
            crop_aspect=aspect, crop_x=u, crop_y=v,
        ),
        "reflect",
    )[0].numpy()  # fmt: skip
    angle, a, b = np.radians(degrees), np.tan(np.radians(sx)), np.tan(np.radians(sy))
    width, height = np.sqrt(area * aspect), np.sqrt(area / aspect)
    forward = np.eye(3)
    for step in (
        [[1, 0, -u * (1 - width) / 2 * w], [0, 1, -v * (1 - height) / 2 * h], [0, 0, 1]],
        np.diag([1 / width, 1 / height, 1]),
        np.diag([s, s, 1]),
        [[1, 0, 0], [b, 1, 0], [0, 0, 1]],
        [[1, a, 0], [0, 1, 0], [0, 0, 1]],
        [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]],  # y points down
        [[1, 0, tx * w], [0, 1, ty * h], [0, 0, 1]],
    ):
        forward = np.array(step) @ forward
    px, py, _ = np.linalg.inv(forward) @ np.stack([x.ravel(), y.ravel(), np.ones(h * w)])
    inside = (np.abs(px) < w / 2 - 3) & (np.abs(py) < h / 2 - 3)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(200 * (found[0].ravel() - 0.5)[inside], px[inside], atol=0.06)
    np.testing.assert_allclose(200 * (found[1].ravel() - 0.5)[inside], py[inside], atol=0.06)


def test_warp_constant_picture_stays_whatever_moves_in() -> None:
    x = torch.tensor([0.8, 0.1, 0.3]).view(1, 3, 1, 1).expand(1, 3, 12, 20)
    for fill in ("corners", "reflect"):
        torch.testing.assert_close(ops.warp(x, matrix(12, 20, rotate=40, scale=0.5), fill), x, rtol=0, atol=1e-5)


def test_brightness_is_the_product() -> None:
    x = torch.rand(3, 3, 5, 7)
    torch.testing.assert_close(
        ops.brightness(x, torch.tensor([0.5, 1.0, 1.7])), (x * torch.tensor([0.5, 1, 1.7]).view(3, 1, 1, 1)).clamp(max=1)
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.6])
def test_contrast_and_saturation_are_pillows(channels: int, factor: float) -> None:
    images = pixels(4, 11, 14, channels)
    for operation, enhancer in ((ops.contrast, ImageEnhance.Contrast), (ops.saturation, ImageEnhance.Color)):
        for image, result in zip(images, levels(operation(tensor(images), every(4, factor))), strict=True):
            expected = array(enhancer(picture(image)).enhance(factor))
            assert np.abs(result.astype(int) - expected).max() <= 2  # Pillow rounds the mean, the grey, and down
            assert np.abs(result.astype(int) - expected).mean() < 1


def test_gamma_is_the_power() -> None:
    x = torch.rand(2, 3, 6, 6)
    found = ops.gamma(x, torch.tensor([0.5, 2.2]))
    np.testing.assert_allclose(found[0], x[0].numpy() ** 0.5, atol=1e-6)
    np.testing.assert_allclose(found[1], x[1].numpy() ** 2.2, atol=1e-6)


def test_grey_is_pillows_luminance_in_every_channel() -> None:
    images = pixels(3, 9, 8, 3)
    for image, result in zip(images, levels(ops.grey(tensor(images))), strict=True):
        assert (result == result[..., :1]).all()
        assert np.abs(result[..., 0].astype(int) - np.asarray(picture(image).convert("L"))).max() <= 1
    pure = ops.grey(torch.eye(3).view(3, 3, 1, 1))
    np.testing.assert_allclose(pure[:, 0, 0, 0], [0.299, 0.587, 0.114], atol=1e-7)


def test_hue_turns_pure_colours_by_a_third_into_each_other() -> None:
    red, green, blue = torch.eye(3).view(3, 1, 3, 1, 1).unbind()
    for degrees, expected in ((120, (green, blue, red)), (-120, (blue, red, green)), (360, (red, green, blue))):
        for colour, other in zip((red, green, blue), expected, strict=True):
            torch.testing.assert_close(ops.hue(colour, every(1, degrees)), other, rtol=0, atol=1e-5)


def test_hue_is_that_of_the_standard_library_and_leaves_greys() -> None:
    x = torch.rand(1, 3, 8, 9)
    x[:, :, 0] = 0.4
    found = ops.hue(x, every(1, 50))[0].permute(1, 2, 0).reshape(-1, 3)
    for colour, result in zip(x[0].permute(1, 2, 0).reshape(-1, 3).tolist(), found.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*colour)
        np.testing.assert_allclose(result, colorsys.hsv_to_rgb((h + 50 / 360) % 1, s, v), atol=2e-5)


def test_blur_impulse_keeps_its_sum_and_spreads_by_sigma() -> None:
    x = torch.zeros(3, 1, 31, 31)
    x[:, :, 15, 15] = 1
    sigmas = torch.tensor([0.001, 0.8, 2.0])
    spread = ops.blur(x, sigmas, 8)
    np.testing.assert_allclose(spread.sum((1, 2, 3)), 1, atol=1e-5)
    assert torch.equal(spread[0], x[0])
    places = torch.arange(31) - 15.0
    for dim in (2, 3):
        variance = (spread[:, 0].sum(dim - 1) * places**2).sum(1)
        np.testing.assert_allclose(variance[1:].sqrt(), sigmas[1:], rtol=0.01)


def test_blur_is_scipys_with_the_border_going_on() -> None:
    x = torch.rand(2, 3, 13, 10)
    for n, sigma in enumerate((0.7, 1.5)):
        expected = ndimage.gaussian_filter(x[n].numpy(), (0, sigma, sigma), mode="nearest", radius=(0, 6, 6))
        np.testing.assert_allclose(ops.blur(x, torch.tensor([0.7, 1.5]), 6)[n], expected, atol=1e-5)


def test_noise_is_normal_with_its_deviation_and_its_own_for_each_picture() -> None:
    x = torch.full((4, 3, 40, 40), 0.5)
    states = image_states(1, np.arange(4), np.zeros(4))
    added = (ops.noise(x, torch.tensor([0.02, 0.05, 0.05, 0.0]), states) - x).numpy()
    for n, sigma in ((0, 0.02), (1, 0.05), (2, 0.05)):
        assert abs(added[n].std() / sigma - 1) < 0.03 and abs(added[n].mean()) < 4 * sigma / np.sqrt(4800)
        assert stats.kstest(added[n].ravel() / sigma, "norm").pvalue > 1e-3
        flat = added[n].reshape(3, -1)
        assert np.abs(np.corrcoef(flat) - np.eye(3)).max() < 0.1  # channels do not share their noise
        assert abs(np.corrcoef(flat[0][:-1], flat[0][1:])[0, 1]) < 0.1
    assert abs(np.corrcoef(added[1].ravel(), added[2].ravel())[0, 1]) < 0.06
    assert (added[3] == 0).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (37, 21), (8, 8)])
@pytest.mark.parametrize("quality", [5, 30, 50, 90, 100])
def test_jpeg_is_that_of_pillow(channels: int, size: tuple[int, int], quality: int) -> None:
    for images, most in ((smooth(12, *size, channels), 0.5), (pixels(12, *size, channels), 1.0)):
        differences = []
        for image, result in zip(images, levels(jpeg(tensor(images), every(12, quality))), strict=True):
            stream = io.BytesIO()
            picture(image).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
            differences.append(np.abs(result.astype(int) - array(Image.open(stream))).mean())
        # libjpeg's cosines are whole numbers: now and then a coefficient lands on the other side of a half.
        assert np.mean(differences) < most, differences


def test_jpeg_qualities_of_a_batch_belong_to_their_pictures() -> None:
    images = np.repeat(smooth(1, 32, 32, 3), 3, axis=0)
    loss = (jpeg(tensor(images), torch.tensor([10.0, 50.0, 95.0])) - tensor(images)).abs().mean((1, 2, 3))
    assert loss[0] > 1.5 * loss[1] > 2 * loss[2] > 0


@pytest.mark.parametrize("area", [0.04, 0.25, 0.5])
def test_cutout_is_a_rectangle_of_its_area_inside_the_picture_in_its_mean_colour(area: float) -> None:
    h, w = 20, 30
    images = pixels(200, h, w, 3, seed=5)
    u = torch.rand(2, 200, generator=torch.Generator().manual_seed(0))
    u[:, 0], u[:, 1] = 0.0, 1.0 - 2**-24
    found = levels(ops.cutout(tensor(images), every(200, area), u[0], u[1]))
    height, width = round(np.sqrt(area) * h), round(np.sqrt(area) * w)
    tops, lefts = set(), set()
    for image, result in zip(images, found, strict=True):
        mean = image.reshape(-1, 3).mean(0)
        filled = (np.abs(result - mean) <= 0.51).all(2)
        rows, columns = np.flatnonzero(filled.sum(1) >= width), np.flatnonzero(filled.sum(0) >= height)
        assert len(rows) == height and len(columns) == width and np.ptp(rows) == height - 1 and np.ptp(columns) == width - 1
        outside = np.ones((h, w), bool)
        outside[np.ix_(rows, columns)] = False
        np.testing.assert_array_equal(result[outside], image[outside])
        tops.add(int(rows[0]))
        lefts.add(int(columns[0]))
    assert (min(tops), max(tops)) == (0, h - height) and (min(lefts), max(lefts)) == (0, w - width)


def test_cutout_takes_at_least_one_pixel() -> None:
    x = torch.arange(48.0).view(1, 1, 6, 8) / 48
    assert int((ops.cutout(x, every(1, 0), every(1, 0.3), every(1, 0.3)) != x).sum()) == 1


def _batched(n: int) -> dict[str, Callable[[Tensor, slice], Tensor]]:
    """Every operation with numbers of its own for each of ``n`` pictures, on a part of them."""
    u = torch.rand(n, generator=torch.Generator().manual_seed(3))
    turns = torch.cat([matrix(17, 23, 1, rotate=360 * float(v), scale=1 + float(v)) for v in u])
    states = image_states(0, np.arange(n), np.zeros(n))
    return {
        "warp": lambda x, s: ops.warp(x, turns[s], "reflect"),
        "brightness": lambda x, s: ops.brightness(x, 2 * u[s]),
        "contrast": lambda x, s: ops.contrast(x, 2 * u[s]),
        "saturation": lambda x, s: ops.saturation(x, 2 * u[s]),
        "hue": lambda x, s: ops.hue(x, 360 * u[s]),
        "gamma": lambda x, s: ops.gamma(x, 0.5 + u[s]),
        "grey": lambda x, s: ops.grey(x),
        "blur": lambda x, s: ops.blur(x, 2 * u[s], 6),
        "noise": lambda x, s: ops.noise(x, 0.1 * u[s], states[s]),
        "jpeg": lambda x, s: jpeg(x, (10 + 80 * u[s]).floor()),
        "cutout": lambda x, s: ops.cutout(x, u[s] / 2, u[s], 1 - u[s]),
    }


@pytest.mark.parametrize("name", sorted(_batched(1)))
@pytest.mark.parametrize("channels", [1, 3])
def test_operation_gives_a_picture_the_same_floats_in_any_batch(name: str, channels: int) -> None:
    x, operation = tensor(pixels(64, 17, 23, channels)), _batched(64)[name]
    whole = operation(x, slice(0, 64))
    for size in (1, 7):
        parts = [operation(x[i : i + size], slice(i, i + size)) for i in range(0, 64, size)]
        assert torch.equal(torch.cat(parts), whole)

"""augment: a variation is a function of (seed, key, copy) and the policy; what the operations do is in test_operations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vae.augment import CHANNELS, COLOUR_ONLY, OPERATIONS, alone, augmented, draw, image_keys
from vae.config import AugmentConfig
from vae.noise import image_states
from vae.operations import noise
from vae.schema import parse

POLICY = AugmentConfig(
    fill="corners", flip_probability=0.5, vertical_flip_probability=0.5, rotate_probability=0.5, rotate_degrees=30.0,
    translate_probability=0.5, translate_share=0.2, scale_probability=0.5, scale_low=0.7, scale_high=1.4, crop_probability=0.5,
    crop_area_low=0.4, crop_aspect_high=1.5, shear_probability=0.5, shear_degrees=15.0, brightness_probability=0.5,
    brightness=0.4, contrast_probability=0.5, contrast=0.5, saturation_probability=0.5, saturation=0.8, hue_probability=0.5,
    hue_degrees=90.0, gamma_probability=0.5, gamma_high=2.0, grey_probability=0.3, blur_probability=0.5, blur_sigma_pixels=1.5,
    noise_probability=0.5, noise_levels=12.0, jpeg_probability=0.5, jpeg_quality_low=20, jpeg_quality_high=80,
    cutout_probability=0.5, cutout_share=0.3,
)  # fmt: skip
NOTHING = alone(POLICY, None)
MODES = sorted(CHANNELS)


def pixels(n: int, mode: str = "RGB", h: int = 18, w: int = 26, seed: int = 0) -> Tensor:
    """Random uint8 (n, C, h, w)."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, CHANNELS[mode], h, w), np.uint8))


def keys(n: int, first: int = 0) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 2**64, first + n, np.uint64)[first:]


def varied(x: Tensor, keys_N: np.ndarray, config: AugmentConfig, *, copy: int = 0, seed: int = 0, mode: str = "RGB") -> Tensor:
    return augmented(x, keys_N, np.full(len(x), copy), config=config, seed=seed, mode=mode)


def test_image_keys_are_the_first_eight_bytes_of_the_hash() -> None:
    found = image_keys(["0123456789abcdef" + "7" * 48, "f" * 64])
    assert found.dtype == np.uint64 and found.tolist() == [0x0123456789ABCDEF, 2**64 - 1]


@pytest.mark.parametrize("mode", MODES)
def test_augmented_without_any_operation_gives_back_the_same_bits(mode: str) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, CHANNELS[mode], 16, 16)
    for x in (pixels(5, mode), every, torch.rand(5, CHANNELS[mode], 7, 9)):
        found = varied(x, keys(len(x)), NOTHING, mode=mode)
        assert found.dtype == x.dtype and torch.equal(found, x)


@pytest.mark.parametrize("mode", MODES)
def test_augmented_images_that_nothing_falls_on_keep_their_bits_among_others(mode: str) -> None:
    x, many = pixels(200, mode), keys(200)
    rare = replace(POLICY, **{f"{name}_probability": 0.1 for name in OPERATIONS})
    falls, _ = draw(rare, image_states(0, many, np.zeros(200)))
    untouched = ~np.any(list(falls.values()), 0)
    same = (varied(x, many, rare, mode=mode) == x).flatten(1).all(1).numpy()
    assert 15 < untouched.sum() < 70 and same[untouched].all()
    if mode != "L":  # there, colour alone changes nothing
        assert same[~untouched].mean() < 0.1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axis", [2, 3])
def test_augmented_flips_are_exact(mode: str, axis: int) -> None:
    x = pixels(9, mode)
    flip = alone(POLICY, "flip" if axis == 3 else "vertical_flip")
    assert torch.equal(varied(x, keys(9), flip, mode=mode), x.flip(axis))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_augmented_each_operation_alone_changes_pictures(operation: str) -> None:
    x = pixels(20)
    changed = (varied(x, keys(20), alone(POLICY, operation)) != x).flatten(1).any(1)
    assert changed.sum() >= 15  # a blur of a quarter pixel changes nothing in 8 bits
    grey = pixels(20, "L")
    assert torch.equal(varied(grey, keys(20), alone(POLICY, operation), mode="L"), grey) == (operation in COLOUR_ONLY)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("probability", [0.1, 0.7])
def test_draw_operations_fall_as_often_as_told_and_on_their_own(operation: str, probability: float) -> None:
    n = 20_000
    config = replace(POLICY, **{f"{operation}_probability": probability})
    falls, _ = draw(config, image_states(7, keys(n), np.zeros(n)))
    assert abs(falls[operation].mean() - probability) < 4.5 * (probability * (1 - probability) / n) ** 0.5
    for other in OPERATIONS:
        if other != operation:
            assert abs(np.corrcoef(falls[operation], falls[other])[0, 1]) < 0.035


def test_draw_strengths_fill_their_ranges_evenly() -> None:
    n = 20_000
    _, found = draw(POLICY, image_states(0, keys(n), np.zeros(n)))
    ranges = {
        "rotate": (-30, 30), "translate_x": (-0.2, 0.2), "translate_y": (-0.2, 0.2), "scale": (0.7, 1.4), "crop_area": (0.4, 1),
        "crop_aspect": (1 / 1.5, 1.5), "crop_x": (-1, 1), "crop_y": (-1, 1), "shear_x": (-15, 15), "shear_y": (-15, 15),
        "brightness": (0.6, 1.4), "contrast": (0.5, 1.5), "saturation": (0.2, 1.8), "hue": (-90, 90), "gamma": (0.5, 2),
        "blur": (0, 1.5), "noise": (0, 12 / 255), "jpeg": (20, 80), "cutout_area": (0, 0.3), "cutout_x": (0, 1),
        "cutout_y": (0, 1),
    }  # fmt: skip
    assert found.keys() == ranges.keys()
    numbers = []
    for name, (low, high) in ranges.items():
        assert low <= found[name].min() < low + 0.01 * (high - low) and high - 0.02 * (high - low) < found[name].max() <= high
        even = np.log(found[name]) if name in ("scale", "crop_aspect", "gamma") else found[name]
        middle = np.log([low, high]).mean() if even is not found[name] else (low + high) / 2
        assert abs(even.mean() - middle) < 0.02 * np.ptp(even)
        numbers.append(even)
    assert np.abs(np.corrcoef(numbers) - np.eye(len(numbers))).max() < 0.035
    assert (found["jpeg"] == found["jpeg"].round()).all()


def test_draw_and_noise_share_no_numbers() -> None:
    states = image_states(0, keys(2000), np.zeros(2000))
    _, strengths = draw(POLICY, states)
    added = noise(torch.full((2000, 1, 8, 16), 0.5), torch.full((2000,), 0.05), states).reshape(2000, -1).numpy()
    together = np.corrcoef(np.concatenate([np.stack(list(strengths.values())), added.T]))[: len(strengths), len(strengths) :]
    assert np.abs(together).max() < 0.12  # standard error 0.022, 2688 pairs


@pytest.mark.parametrize("fill", ["corners", "reflect"])
@pytest.mark.parametrize("mode", MODES)
def test_augmented_does_not_depend_on_the_batch_its_order_or_the_neighbours(mode: str, fill: str) -> None:
    config = replace(POLICY, fill=fill)
    x, many, copies = pixels(64, mode), keys(64), np.arange(64) % 3

    def of(rows: np.ndarray) -> Tensor:
        return augmented(x[rows], many[rows], copies[rows], config=config, seed=5, mode=mode)

    whole = of(np.arange(64))
    assert not torch.equal(whole, x)
    for size in (1, 7):
        assert torch.equal(torch.cat([of(np.arange(i, min(i + size, 64))) for i in range(0, 64, size)]), whole)
    order = np.random.default_rng(0).permutation(64)
    assert torch.equal(of(order), whole[order])
    others = x.clone()
    others[1:] = pixels(63, mode, seed=9)  # other neighbours, of other keys
    with_others = augmented(others, np.r_[many[:1], keys(63, 64)], copies, config=config, seed=5, mode=mode)
    assert torch.equal(with_others[0], whole[0])
    channels_last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augmented(channels_last, many, copies, config=config, seed=5, mode=mode), whole)


def test_augmented_does_not_depend_on_the_number_of_threads() -> None:
    x = pixels(256, h=32, w=32)
    one = varied(x, keys(256), POLICY)
    torch.set_num_threads(4)
    try:
        assert torch.equal(varied(x, keys(256), POLICY), one)
    finally:
        torch.set_num_threads(1)


def test_augmented_is_another_picture_for_another_copy_seed_or_key() -> None:
    x, many = pixels(1).expand(40, -1, -1, -1), keys(40)
    every = replace(POLICY, noise_probability=1.0)
    base = varied(x, many, every)
    assert torch.equal(varied(x, many, every), base)
    for other in (varied(x, many, every, copy=1), varied(x, many, every, seed=1), varied(x, many[::-1].copy(), every)):
        assert ((other != base).flatten(1).any(1)).all()
    assert len({image.numpy().tobytes() for image in base}) == 40


def test_augmented_seed_key_and_copy_do_not_stand_in_for_each_other() -> None:
    cases = [(seed, key, copy) for seed in range(6) for key in range(6) for copy in range(6)]
    states = [int(image_states(seed, np.array([key]), np.array([copy]))) for seed, key, copy in cases]
    assert len(set(states)) == len(cases)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_augmented_switching_an_operation_off_leaves_the_others_as_they_were(operation: str) -> None:
    states = image_states(3, keys(500), np.zeros(500))
    falls, strengths = draw(POLICY, states)
    without, same = draw(replace(POLICY, **{f"{operation}_probability": 0.0}), states)
    assert not without[operation].any() and falls[operation].any()
    assert all(np.array_equal(falls[name], without[name]) for name in OPERATIONS if name != operation)
    assert all(np.array_equal(strengths[name], same[name]) for name in strengths)


def test_augmented_uint8_is_the_rounding_of_the_floats() -> None:
    x = pixels(30)
    as_floats = varied(x.float() / 255, keys(30), POLICY)
    assert as_floats.min() >= 0 and as_floats.max() <= 1
    assert torch.equal((as_floats * 255).round().to(torch.uint8), varied(x, keys(30), POLICY))


def test_augmented_leaves_its_input_alone() -> None:
    for x in (pixels(30), pixels(30).float() / 255):
        before = x.clone()
        varied(x, keys(30), POLICY)
        assert torch.equal(x, before)


def test_augmented_alpha_moves_with_the_colours_but_is_no_colour() -> None:
    x = pixels(40, "RGBA")
    for operation in ("brightness", "contrast", "saturation", "hue", "gamma", "grey", "noise", "jpeg"):
        found = varied(x, keys(40), alone(POLICY, operation), mode="RGBA")
        assert torch.equal(found[:, 3], x[:, 3]), operation
        assert torch.equal(found[:, :3], varied(x[:, :3], keys(40), alone(POLICY, operation))), operation
    for operation in ("rotate", "crop", "blur"):
        found = varied(x, keys(40), alone(POLICY, operation), mode="RGBA")
        alpha = varied(x[:, 3:], keys(40), alone(POLICY, operation), mode="L")
        assert torch.equal(found[:, 3:], alpha) and not torch.equal(alpha, x[:, 3:]), operation


def _converted(x: Tensor, mode: str, to: str) -> np.ndarray:
    pictures = [Image.fromarray(image, mode).convert(to) for image in x.permute(0, 2, 3, 1).contiguous().numpy()]
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.mark.parametrize("operation", ["rotate", "brightness", "contrast", "saturation", "hue", "gamma", "grey", "blur"])
def test_augmented_hsv_is_worked_on_as_the_colours_that_it_means(operation: str) -> None:
    # Through Pillow's own conversion: what is meant must be near what the same policy makes of the RGB picture.
    rgb = torch.from_numpy(np.random.default_rng(0).integers(40, 216, (12, 3, 6, 9), np.uint8)).repeat_interleave(4, 2)
    hsv = torch.from_numpy(_converted(rgb, "RGB", "HSV")).permute(0, 3, 1, 2).contiguous()
    config = alone(POLICY, operation)
    found = _converted(varied(hsv, keys(12), config, mode="HSV"), "HSV", "RGB")
    expected = varied(rgb, keys(12), config).permute(0, 2, 3, 1).numpy()
    assert np.abs(found.astype(int) - expected).mean() < 4
    assert np.abs(rgb.permute(0, 2, 3, 1).numpy().astype(int) - expected).mean() > 8 or operation in ("gamma", "blur")


def test_augmented_images_of_another_mode_or_without_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="1 channels are not of mode 'RGB'"):
        varied(pixels(2, "L"), keys(2), POLICY)
    with pytest.raises(ValueError, match="not of mode 'CMYK'"):
        varied(pixels(2, "RGBA"), keys(2), POLICY, mode="CMYK")
    with pytest.raises(ValueError, match="2 images, 3 keys, 2 copy numbers"):
        varied(pixels(2), keys(3), POLICY)


@pytest.mark.parametrize("size", [(8, 8), (8, 40), (33, 9), (1, 5)])
def test_augmented_any_size_comes_back_in_its_size(size: tuple[int, int]) -> None:
    everything = replace(POLICY, blur_sigma_pixels=8.0, **{f"{name}_probability": 1.0 for name in OPERATIONS})
    for mode in MODES:
        for fill in ("corners", "reflect"):
            x = pixels(3, mode, *size)
            found = varied(x, keys(3), replace(everything, fill=fill), mode=mode)
            assert found.shape == x.shape and found.dtype == torch.uint8


def test_augment_config_has_a_probability_for_every_operation_and_refuses_empty_ranges() -> None:
    assert {name for name in vars(POLICY) if name.endswith("_probability")} == {f"{name}_probability" for name in OPERATIONS}
    values = vars(POLICY) | {"scale_low": 2.0, "jpeg_quality_low": 90}
    _, problems = parse(AugmentConfig, values, "augment")
    assert {p.key for p in problems} == {"augment.scale_low", "augment.jpeg_quality_low"}
    assert all("the range is empty" in p.message for p in problems)
    assert parse(AugmentConfig, vars(POLICY), "augment") == (POLICY, [])

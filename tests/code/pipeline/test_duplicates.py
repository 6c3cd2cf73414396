"""Duplicates: planted copies are found, other pictures are not, and nothing is quadratic."""

from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.fft
from PIL import Image
from sklearn.datasets import load_digits

from pipeline import duplicates
from pipeline.duplicates import MIRROR_MASK, candidates, groups, look, perceptual_hash, shrink_matrix
from pipeline.measures import luminance


def photograph(seed: int, side: int = 48) -> np.ndarray:
    """uint8 (side, side, 3) with detail at every scale, as photographs have: noise whose amplitude falls with its frequency."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side))) + 0.5 / side
    channels = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) / frequency).real for _ in range(3)]
    shared = channels[0]
    picture = np.stack([0.7 * shared + 0.3 * channel for channel in channels], -1)
    return np.clip(128 + 45 * picture / picture.std(), 0, 255).astype(np.uint8)


def strokes(count: int, side: int = 16) -> np.ndarray:
    """uint8 (count, side, side): lines of nearly one direction, each with a blot: many hashes are alike, few pictures the same."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:side, :side] - (side - 1) / 2
    ranges = (1.2, 1.6), (-1, 1), (-side / 2, side / 2), (-side / 2, side / 2)
    angle, shift, right, down = (rng.uniform(low, high, count)[:, None, None] for low, high in ranges)
    line = 255 * np.clip(1.2 - abs(x * np.sin(angle) - y * np.cos(angle) + shift), 0, 1)
    return np.maximum(line, 160 * np.clip(2.5 - np.hypot(x - right, y - down), 0, 1)).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def resized(image: np.ndarray, factor: float) -> np.ndarray:
    side = image.shape[0]
    small = Image.fromarray(image).resize((round(side * factor),) * 2, Image.Resampling.BICUBIC)
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


CHANGES = {
    "jpeg 50": lambda x: jpeg(x, 50),
    "jpeg 85": lambda x: jpeg(x, 85),
    "half": lambda x: resized(x, 0.5),
    "three quarters": lambda x: resized(x, 0.75),
    "twice": lambda x: resized(x, 2.0),
    "mirrored": lambda x: x[:, ::-1],
    "mirrored jpeg": lambda x: jpeg(np.ascontiguousarray(x[:, ::-1]), 75),
}


@pytest.fixture(scope="module")
def originals() -> np.ndarray:
    return np.stack([photograph(i) for i in range(400)])


@pytest.mark.parametrize("change", CHANGES)
def test_near_pairs_finds_planted_copies_and_nothing_else(originals: np.ndarray, change: str) -> None:
    planted = np.stack([CHANGES[change](image) for image in originals[:200]])
    light = luminance(np.concatenate([originals, planted]), "RGB")
    found = {tuple(pair) for pair in look(perceptual_hash(light), lambda rows: light[rows]).near_pairs()}
    wanted = {(i, 400 + i) for i in range(200)}
    assert len(found & wanted) >= 190  # 95 %
    assert not found - wanted


def test_near_pairs_other_peoples_digits_are_no_copies() -> None:
    """1,797 real digits of 8x8 pixels, the hardest case: near in the space of pictures, and (nearly) all different."""
    images = (load_digits().images * 15.9).astype(np.uint8)
    light = np.stack([np.asarray(Image.fromarray(i).resize((28, 28), Image.Resampling.BICUBIC)) for i in images]).astype(
        np.float32
    )
    number = groups(len(light), look(perceptual_hash(light), lambda rows: light[rows]).near_pairs())
    sizes = np.bincount(number)
    assert (sizes > 1).sum() <= 0.015 * len(light)


def test_near_pairs_of_other_brightness_or_contrast_are_other_pictures(originals: np.ndarray) -> None:
    soft = 128 + (originals[:50].astype(np.float32) - 128) * 0.6
    light = luminance(np.concatenate([originals[:50], soft.astype(np.uint8), originals[:50] // 2 + 100]), "RGB")
    assert not len(look(perceptual_hash(light), lambda rows: light[rows]).near_pairs())


def test_near_pairs_of_uniform_pictures_are_none() -> None:
    light = np.repeat(np.arange(40, dtype=np.float32), 32 * 32).reshape(40, 32, 32)
    assert not len(look(perceptual_hash(light), lambda rows: light[rows]).near_pairs())


@pytest.mark.parametrize("backwards", [False, True])
def test_look_finds_the_same_beside_what_was_found_before(backwards: bool) -> None:
    """Of 600 strokes 500 were there before: what is known of them is not read again, unless their order has changed."""
    light = strokes(600).astype(np.float32)
    old = np.sort(np.random.default_rng(0).permutation(600)[:500])
    before = look(perceptual_hash(light[old]), lambda rows: light[old][rows])
    places = np.full(600, -1)
    places[old] = np.arange(500)
    places[places < 0] = np.arange(500, 600)
    if backwards:
        light, places = light[::-1], places[::-1]
    read: list[np.ndarray] = []

    def gather(rows: np.ndarray) -> np.ndarray:
        read.append(rows)
        return light[rows]

    found = look(perceptual_hash(light), gather, places, before)
    looked_at = {tuple(pair) for pair in places[np.stack([np.concatenate(read[::2]), np.concatenate(read[1::2])], 1)].tolist()}
    for ours, expected in zip(found, look(perceptual_hash(light), lambda rows: light[rows]), strict=True):
        np.testing.assert_array_equal(ours, expected)
    known = {tuple(pair) for pair in before.pairs_P2.tolist()}
    assert found.alone_P.any() and not found.alone_P.all()
    assert len(known) > 50 and not looked_at & known
    assert len(looked_at) == len(found.pairs_P2) if backwards else len(looked_at) < 0.5 * len(found.pairs_P2)


def test_perceptual_hash_is_the_signs_of_scipys_cosine_transform(originals: np.ndarray) -> None:
    light = luminance(originals[:20], "RGB")
    shrunk = shrink_matrix(48, 32) @ light @ shrink_matrix(48, 32).T
    expected = scipy.fft.dctn(shrunk, type=2, axes=(1, 2))[:, :8, :8]
    order = sorted(((u, v) for u in range(8) for v in range(8) if u + v), key=lambda uv: (sum(uv), uv[0]))
    for image, value in zip(expected, perceptual_hash(light), strict=True):
        assert [bool(int(value) >> (63 - i) & 1) for i in range(63)] == [image[u, v] > 0 for u, v in order]


def test_perceptual_hash_of_a_mirrored_picture_differs_in_the_mask_alone(originals: np.ndarray) -> None:
    light = luminance(originals[:50], "RGB")
    np.testing.assert_array_equal(perceptual_hash(light[:, :, ::-1]), perceptual_hash(light) ^ MIRROR_MASK)


@pytest.mark.parametrize(("source", "target"), [(48, 32), (32, 32), (33, 16), (8, 32), (1000, 7)])
def test_shrink_matrix_keeps_the_mean_of_a_constant_and_the_order(source: int, target: int) -> None:
    matrix = shrink_matrix(source, target)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
    assert (np.diff(matrix @ np.arange(source)) >= 0).all()


def test_shrink_matrix_by_a_whole_number_is_the_block_average() -> None:
    x = np.random.default_rng(0).normal(size=64).astype(np.float32)
    np.testing.assert_allclose(shrink_matrix(64, 16) @ x, x.reshape(16, 4).mean(1), rtol=1e-5, atol=1e-6)


def test_candidates_agree_with_all_pairs_on_few_hashes() -> None:
    rng = np.random.default_rng(3)
    base = rng.integers(0, 2**63, 60, np.uint64)
    flips = np.array([sum(1 << int(b) for b in rng.choice(64, 3, replace=False)) for _ in base], np.uint64)
    hashes = np.concatenate([base, base ^ flips])
    found, mirrored = candidates(hashes)
    plain = {tuple(pair) for pair, m in zip(found.tolist(), mirrored, strict=True) if not m}
    expected = {(i, j) for i in range(120) for j in range(i + 1, 120) if int(hashes[i] ^ hashes[j]).bit_count() <= 5}
    assert {(i, 60 + i) for i in range(60)} <= expected  # three flips over four bands: one band is untouched
    assert plain == expected


def test_candidates_of_a_crowd_are_not_quadratic() -> None:
    count = 3000
    found, _ = candidates(np.zeros(count, np.uint64))
    assert len(found) <= 2 * duplicates.WINDOW * 2 * count


def test_groups_connect_through_others() -> None:
    number = groups(6, np.array([[0, 3], [3, 5], [1, 2]]))
    assert number[0] == number[3] == number[5] and number[1] == number[2]
    assert len(set(number)) == 3
    assert len(set(groups(4, np.zeros((0, 2), np.int64)))) == 4

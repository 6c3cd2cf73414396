"""Augment: a copy is a function of (seed, hash, number), of training images only, and does what the policy says."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import preprocess as preprocess_stage
from pipeline.augment import PARAMS, augment, augmented, generator
from pipeline.paths import INDEX
from vae.data import ImageShards, ShardWriter
from vae.files import DamagedError, read_json, read_manifest, write_manifest

SHA = "0123456789abcdef" * 4
EVERYTHING = {
    "augment__copies": 2,
    "augment__flip_probability": 0.5,
    "augment__shift_pixels": 2,
    "augment__rotate_degrees": 10.0,
    "augment__brightness": 0.2,
    "augment__contrast": 0.2,
}


def policy(**changes: float) -> SimpleNamespace:
    nothing = {"flip_probability": 0.0, "shift_pixels": 0, "rotate_degrees": 0.0, "brightness": 0.0, "contrast": 0.0}
    return SimpleNamespace(**(nothing | changes))


def noise(size: int = 12, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, channels), np.uint8)


def draws(image: np.ndarray, how: SimpleNamespace, count: int) -> list[np.ndarray]:
    return [augmented(image, how, generator(0, SHA, copy)) for copy in range(count)]


def moved(image: np.ndarray, dx: int, dy: int, fill: np.ndarray) -> np.ndarray:
    """The image moved by whole pixels, NumPy alone."""
    size = len(image)
    out = np.broadcast_to(fill, image.shape).copy()
    rows, columns = np.arange(max(0, dy), min(size, size + dy)), np.arange(max(0, dx), min(size, size + dx))
    out[np.ix_(rows, columns)] = image[np.ix_(rows - dy, columns - dx)]
    return out


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_empty_policy_changes_nothing(channels):
    image = noise(channels=channels)
    assert all(np.array_equal(copy, image) for copy in draws(image, policy(), 20))


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_flip_probability_one_always_mirrors(channels):
    image = noise(channels=channels)
    assert all(np.array_equal(copy, image[:, ::-1]) for copy in draws(image, policy(flip_probability=1.0), 200))


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_augmented_flips_as_often_as_told(probability):
    image = noise()
    flipped = np.mean([np.array_equal(c, image[:, ::-1]) for c in draws(image, policy(flip_probability=probability), 2000)])
    assert abs(flipped - probability) < 4.5 * (probability * (1 - probability) / 2000) ** 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_shift_moves_whole_pixels_within_its_limit_in_every_direction(channels):
    image, seen = noise(channels=channels), set()
    fill = np.median(image[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0).astype(np.uint8)
    places = [(dx, dy) for dx in range(-2, 3) for dy in range(-2, 3)]
    for copy in draws(image, policy(shift_pixels=2), 300):
        found = [place for place in places if np.array_equal(copy, moved(image, *place, fill))]
        assert len(found) == 1
        seen.add(found[0])
    assert seen == set(places)


def test_augmented_rotation_turns_about_the_middle_within_its_limit():
    size = 33
    image = np.zeros((size, size, 1), np.uint8)
    image[15:18, 25:30] = 255  # a spot at 11 pixels to the right of the middle
    places, angles = np.arange(size) - size // 2, []
    for copy in draws(image, policy(rotate_degrees=30.0), 200):
        mass = copy[..., 0].astype(float)
        x, y = (mass.sum(0) * places).sum() / mass.sum(), (mass.sum(1) * places).sum() / mass.sum()
        assert abs(np.hypot(x, y) - 11) < 0.5
        angles.append(np.degrees(np.arctan2(y, x)))
    assert max(np.abs(angles)) < 31 and min(angles) < -25 and max(angles) > 25


def test_augmented_rotation_fills_with_the_colour_of_the_corners():
    image = np.full((16, 16, 3), (200, 30, 90), np.uint8)
    for copy in draws(image, policy(rotate_degrees=180.0, shift_pixels=5), 20):
        assert np.abs(copy.astype(int) - image).max() <= 1


def test_augmented_brightness_scales_within_its_limit():
    image = np.full((8, 8, 3), 100, np.uint8)
    levels = [copy.mean() for copy in draws(image, policy(brightness=0.3), 300)]
    assert 69 <= min(levels) < 74 and 126 < max(levels) <= 131 and abs(np.mean(levels) - 100) < 4


def test_augmented_contrast_keeps_the_mean_and_changes_the_spread():
    image = np.where(np.indices((8, 8)).sum(0) % 2, 150, 50).astype(np.uint8)[..., None]
    copies = draws(image, policy(contrast=0.5), 300)
    spreads = [float(copy.std()) for copy in copies]
    assert all(abs(copy.mean() - 100) < 1.5 for copy in copies)
    assert 24 <= min(spreads) < 30 and 70 < max(spreads) <= 76


def test_augmented_switching_one_operation_on_leaves_the_others_as_they_were():
    image = np.full((8, 8, 1), 100, np.uint8)  # flips and shifts do not show on it
    for copy in range(20):
        alone = augmented(image, policy(brightness=0.5), generator(3, SHA, copy))
        among = augmented(image, policy(brightness=0.5, flip_probability=0.5, shift_pixels=3), generator(3, SHA, copy))
        np.testing.assert_array_equal(alone, among)


def test_generator_depends_on_seed_hash_and_copy():
    def first(*key: object) -> float:
        return float(generator(*key).uniform())

    base = first(1, SHA, 0)
    assert first(1, SHA, 0) == base
    assert len({base, first(2, SHA, 0), first(1, SHA[::-1], 0), first(1, SHA, 1)}) == 4


@pytest.fixture
def prepared(project, picture):
    """A workspace after stage preprocess, 90 images of 8x8 pixels."""
    project.raw({f"{i:03d}.png": picture(i, 8, 8) for i in range(90)})
    changes = {"base__image_size": 8, "preprocess__val_fraction": 0.3, "preprocess__test_fraction": 0.3}
    preprocess_stage.preprocess(project.values(preprocess_stage.PARAMS, **changes), project.paths)
    return project


def copies(project) -> dict[tuple[str, int], bytes]:
    """Pixels of every copy by (hash of the original, number)."""
    index = pd.read_parquet(project.paths.augmented / INDEX)
    shards = {name: np.load(project.paths.augmented / "train" / name) for name in index["shard"].unique()}
    return {(r.sha256, r.copy): shards[r.shard][r.row].tobytes() for r in index.itertuples(index=False)}


def test_augment_makes_copies_of_training_images_only(prepared):
    augment(prepared.values(PARAMS, **EVERYTHING), prepared.paths)
    index = pd.read_parquet(prepared.paths.processed / INDEX)
    training = set(index.loc[index["split"] == "train", "sha256"])
    assert set(copies(prepared)) == {(sha, copy) for sha in training for copy in range(2)}
    facts = read_manifest(prepared.paths.augmented)
    assert facts == {"copies": 2, "images": 2 * len(training)}
    assert len(ImageShards(prepared.paths.augmented / "train")) == 2 * len(training)
    assert sorted(p.name for p in prepared.paths.augmented.iterdir()) == ["MANIFEST.json", "index.parquet", "train"]
    metrics = read_json(prepared.paths.augment_report / "metrics.json")
    assert metrics == {"originals": len(training), "augmented": 2 * len(training)}


def test_augment_copy_belongs_to_the_original_that_the_index_names(prepared):
    augment(prepared.values(PARAMS, augment__copies=1, augment__flip_probability=1.0), prepared.paths)
    index = pd.read_parquet(prepared.paths.processed / INDEX)
    rows = index[index["split"] == "train"]
    originals = dict(zip(rows["sha256"], ImageShards(prepared.paths.processed / "train").slice(0, len(rows)), strict=True))
    for (sha, _), pixels in copies(prepared).items():
        assert pixels == originals[sha][:, ::-1].tobytes()


def test_augment_copies_do_not_depend_on_the_order_of_the_originals(prepared):
    values = prepared.values(PARAMS, **EVERYTHING)
    augment(values, prepared.paths)
    before = copies(prepared)
    folder = prepared.paths.processed
    index = pd.read_parquet(folder / INDEX)
    train = index[index["split"] == "train"]
    order = np.random.default_rng(0).permutation(len(train))
    images = ImageShards(folder / "train").gather(order)
    for shard in (folder / "train").glob("*.npy"):
        shard.unlink()
    writer = ShardWriter(folder / "train", (8, 8, 3), 17)
    for image in images[:-3]:  # three originals less: the others' copies stay the same
        writer.add(image)
    writer.close()
    pd.concat([index[index["split"] != "train"], train.iloc[order[:-3]]]).to_parquet(folder / INDEX)
    write_manifest(folder)
    augment(values, prepared.paths)
    after = copies(prepared)
    assert len(after) == len(before) - 6
    assert after == {key: before[key] for key in after}


def test_augment_same_seed_same_bytes_other_seed_other_pixels(prepared):
    results = []
    for seed in (1, 1, 2):
        augment(prepared.values(PARAMS, base__seed=seed, **EVERYTHING), prepared.paths)
        files = sorted(p for p in prepared.paths.augmented.rglob("*") if p.is_file())
        results.append(([p.read_bytes() for p in files], copies(prepared)))
    assert results[0][0] == results[1][0]
    assert all(results[0][1][key] != results[2][1][key] for key in results[0][1])


def test_augment_more_copies_leave_the_first_as_they_were(prepared):
    augment(prepared.values(PARAMS, **EVERYTHING), prepared.paths)
    two = copies(prepared)
    augment(prepared.values(PARAMS, **(EVERYTHING | {"augment__copies": 3})), prepared.paths)
    three = copies(prepared)
    assert len(three) == 1.5 * len(two) and {key: three[key] for key in two} == two


def test_augment_no_copies_leave_no_shard_but_manifest_index_and_sheet(prepared):
    augment(prepared.values(PARAMS, augment__copies=0), prepared.paths)
    assert list(prepared.paths.augmented.rglob("*.npy")) == []
    assert read_manifest(prepared.paths.augmented) == {"copies": 0, "images": 0}
    assert len(pd.read_parquet(prepared.paths.augmented / INDEX)) == 0
    with Image.open(prepared.paths.augment_report / "augment.png") as sheet:
        assert sheet.width > 8 * 8


def test_augment_damaged_input_is_refused_and_nothing_written(prepared):
    shard = next((prepared.paths.processed / "train").glob("*.npy"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedError, match=r"shard-00000\.npy"):
        augment(prepared.values(PARAMS), prepared.paths)
    assert not prepared.paths.augmented.exists()

"""drift: images of the same kind have not drifted, planted others have, and the picture shows those."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline import drift
from vae.data import ImageShards, ShardWriter
from vae.extractor import ExtractorConfig, save_extractor, train_extractor
from vae.files import write_manifest
from vae.pictures import GAP_PIXELS, ZOOM

RNG = np.random.default_rng(0)


def squares(count: int, ground: int) -> np.ndarray:
    """Squares of any place, size and colour."""
    images = np.full((count, 8, 8, 3), ground, np.uint8)
    for image in images:
        top, left, side = RNG.integers(0, 5, 3)
        image[top : top + side + 1, left : left + side + 1] = RNG.integers(0, 256, 3)
    return images


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A workspace with 600 training and 300 test images and a network that has learnt from them."""
    from pipeline.paths import Paths

    paths = Paths(tmp_path_factory.mktemp("drift"))
    for split, count in (("train", 600), ("test", 300)):
        writer = ShardWriter(paths.processed / split, (8, 8, 3), 1000)
        writer.add_all(squares(count, 220))
        writer.close()
    write_manifest(paths.processed, mode="RGB")
    config = ExtractorConfig(channels=3, width=8, feature_dim=8, classes=4, task="turns", architecture="residual")
    network, _ = train_extractor(
        config, ImageShards(paths.processed / "train"), None, total_images=1280, batch_size=32, peak_learning_rate=2e-3, seed=0
    )
    paths.extractor.mkdir(parents=True)
    save_extractor(paths.extractor, network)
    return paths


def test_images_of_the_same_kind_have_not_drifted(known):
    deviations = [drift.measure(squares(200, 220), known, seed)[0].deviations for seed in range(10)]
    assert max(deviations) < 5 and min(deviations) > -3
    assert abs(float(np.mean(deviations))) < 1.5


def test_planted_drift_is_found_and_grows(known):
    mixed = np.concatenate([squares(150, 220), squares(50, 40)])
    some, all_ = (drift.measure(images, known, 0)[0] for images in (mixed, squares(200, 40)))
    assert 8 < some.deviations < all_.deviations and 0 < some.distance < all_.distance
    assert (all_.images, all_.held_out_images) == (200, 300)


def test_those_least_like_the_training_come_first_and_are_drawn(known, tmp_path):
    dark = squares(20, 0)
    _, ordered = drift.measure(np.concatenate([squares(180, 220), dark]), known, 0)
    darkest = {image.tobytes() for image in dark}
    assert sum(image.tobytes() in darkest for image in ordered[:25]) >= 18
    drift.draw(ordered, known, tmp_path / "drift.png")
    picture = np.asarray(Image.open(tmp_path / "drift.png"))
    step = (8 + GAP_PIXELS) * ZOOM
    train_rows = -(-drift.SHOWN // drift.COLUMNS)
    first = picture[step * (train_rows + 1) + GAP_PIXELS * ZOOM :: ZOOM][:8, GAP_PIXELS * ZOOM :: ZOOM][:, :8]
    np.testing.assert_array_equal(first, ordered[0])


def test_few_images_are_no_measurement(known):
    assert drift.measure(squares(drift.LEAST_IMAGES - 1, 0), known, 0) is None

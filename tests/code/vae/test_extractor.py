"""extractor: it learns planted classes, its features are standardised, frozen and found again in a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vae.data import ImageShards, ShardWriter
from vae.extractor import (
    ARCHITECTURES,
    FEATURE_BATCH,
    Extractor,
    ExtractorConfig,
    load_extractor,
    save_extractor,
    train_extractor,
)
from vae.files import MANIFEST, DamagedError, sha256_file

CONFIG = ExtractorConfig(channels=1, width=8, feature_dim=6, classes=2, task="labels")


def planted(directory: Path, count: int = 192) -> tuple[ImageShards, np.ndarray]:
    """Dark (label 0) and bright (label 1) noise; the upper half of each picture is the brighter one."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    pixels = rng.integers(0, 60, (count, 8, 8, 1)) + 100 * labels[:, None, None, None]
    pixels[:, :4] += 60
    writer = ShardWriter(directory, (8, 8, 1), 100)
    for image in pixels.astype(np.uint8):
        writer.add(image)
    writer.close()
    return ImageShards(directory), labels


def train(
    images: ImageShards, labels: np.ndarray | None, seed: int = 0, total: int = 32 * 40, architecture: str = "residual"
) -> tuple[Extractor, float]:
    config = replace(
        CONFIG, architecture=architecture, classes=4 if labels is None else 2, task="turns" if labels is None else "labels"
    )
    return train_extractor(config, images, labels, total_images=total, batch_size=32, peak_learning_rate=3e-3, seed=seed)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageShards, np.ndarray]:
    return planted(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def trained(world: tuple[ImageShards, np.ndarray]) -> tuple[Extractor, float]:
    torch.set_num_threads(1)
    return train(*world)


def test_train_learns_two_planted_classes(world: tuple[ImageShards, np.ndarray], trained: tuple[Extractor, float]) -> None:
    network, accuracy = trained
    images, labels = world
    assert accuracy > 0.95
    with torch.no_grad():
        scores = network(torch.from_numpy(images.slice(0, 192)).permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert (scores.argmax(1).numpy() == labels).mean() > 0.95


def test_train_of_the_plain_architecture_learns_them_too(world: tuple[ImageShards, np.ndarray], tmp_path: Path) -> None:
    network, accuracy = train(*world, architecture="plain", total=32 * 80)
    assert accuracy > 0.9
    save_extractor(tmp_path, network)
    loaded, _ = load_extractor(tmp_path)
    assert torch.equal(loaded.features(world[0].slice(0, 9)), network.features(world[0].slice(0, 9)))


def test_train_shuffled_labels_are_not_learned(world: tuple[ImageShards, np.ndarray]) -> None:
    # The accuracy is of labels that mean something: with random ones it stays near chance in so short a training.
    images, labels = world
    assert train(images, np.random.default_rng(3).permutation(labels))[1] < 0.8


def test_train_without_labels_learns_quarter_turns(world: tuple[ImageShards, np.ndarray]) -> None:
    network, accuracy = train(world[0], None, total=32 * 80)
    assert accuracy > 0.8  # chance: 0.25
    turned = np.rot90(world[0].slice(0, 64), 3, (1, 2)).copy()
    with torch.no_grad():
        answers = network(torch.from_numpy(turned).permute(0, 3, 1, 2).float() / 127.5 - 1).argmax(1)
    assert (answers == 3).float().mean() > 0.8  # numpy and torch count turns the same way


def test_features_are_standardised_on_the_training_images(
    world: tuple[ImageShards, np.ndarray], trained: tuple[Extractor, float]
) -> None:
    features = trained[0].features(world[0].slice(0, 192))
    assert features.shape == (192, 6)
    torch.testing.assert_close(features.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(0), torch.ones(6), atol=1e-4, rtol=0)


def test_features_tell_the_classes_apart(world: tuple[ImageShards, np.ndarray], trained: tuple[Extractor, float]) -> None:
    images, labels = world
    features = trained[0].features(images.slice(0, 192)).numpy()
    gap = np.abs(features[labels == 1].mean(0) - features[labels == 0].mean(0)).max()
    assert gap > 1.5  # in units of the whole spread; 2 where a feature is nothing but the class


def test_features_of_an_image_do_not_depend_on_the_batch(trained: tuple[Extractor, float]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (FEATURE_BATCH + 9, 8, 8, 1), dtype=np.uint8)
    whole = trained[0].features(images)
    torch.testing.assert_close(trained[0].features(images[FEATURE_BATCH - 3 :]), whole[FEATURE_BATCH - 3 :], rtol=1e-4, atol=1e-4)


def test_train_same_seed_gives_the_same_weights_and_another_others(world: tuple[ImageShards, np.ndarray]) -> None:
    for labels in (world[1], None):
        networks = []
        for global_seed, seed in ((1, 5), (2, 5), (1, 6)):
            torch.manual_seed(global_seed)
            networks.append(train(world[0], labels, seed, total=32 * 4)[0].state_dict())
        assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])
        assert not torch.equal(networks[0]["head.weight"], networks[2]["head.weight"])


def test_train_returns_a_frozen_network_and_reports_progress(world: tuple[ImageShards, np.ndarray]) -> None:
    seen: list[tuple[int, float]] = []
    network, accuracy = train_extractor(
        CONFIG,
        *world,
        total_images=100,
        batch_size=32,
        peak_learning_rate=1e-3,
        seed=0,
        on_progress=lambda n, a: seen.append((n, a)),
    )
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert [images for images, _ in seen] == [32, 64, 96, 128]
    assert accuracy == pytest.approx(seen[-1][1])


@pytest.mark.parametrize("total_images", [1, 33])
def test_train_of_hardly_any_steps_does_not_fail(world: tuple[ImageShards, np.ndarray], total_images: int) -> None:
    network, accuracy = train(*world, total=total_images)
    assert 0 <= accuracy <= 1 and network.features(world[0].slice(0, 4)).isfinite().all()


def test_train_collapsed_feature_is_not_divided_by_zero(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, (8, 8, 1), 10)
    for _ in range(10):
        writer.add(np.full((8, 8, 1), 7, np.uint8))  # all alike: no feature varies
    writer.close()
    network, _ = train(ImageShards(tmp_path), np.zeros(10, np.int64), total=64)
    assert network.features(np.zeros((2, 8, 8, 1), np.uint8)).isfinite().all()


def test_save_and_load_give_identical_features_and_name_the_weights(trained: tuple[Extractor, float], tmp_path: Path) -> None:
    save_extractor(tmp_path, trained[0])
    loaded, digest = load_extractor(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    assert torch.equal(loaded.features(images), trained[0].features(images))
    assert loaded.config == CONFIG and digest == sha256_file(tmp_path / "extractor.safetensors")
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("name", ["extractor.safetensors", "extractor.json", MANIFEST])
def test_load_damaged_or_missing_file_is_refused(trained: tuple[Extractor, float], tmp_path: Path, name: str) -> None:
    save_extractor(tmp_path, trained[0])
    whole = (tmp_path / name).read_bytes()
    for damaged in (whole[: len(whole) // 2], bytes([whole[0] ^ 1]) + whole[1:], b"", b"\x80\x04N."):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DamagedError, match=name):
            load_extractor(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DamagedError, match=f"{name} is missing"):
        load_extractor(tmp_path)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("side", "channels"), [(8, 1), (28, 1), (32, 3), (15, 3)])
def test_extractor_takes_images_of_any_side(side: int, channels: int, architecture: str) -> None:
    config = ExtractorConfig(channels=channels, width=8, feature_dim=6, classes=3, task="labels", architecture=architecture)
    network = Extractor(config)
    images = np.zeros((2, side, side, channels), np.uint8)
    assert network.features(images).shape == (2, 6)

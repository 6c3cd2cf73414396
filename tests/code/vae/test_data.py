"""data: shards as one array, and a stream that is a function of (seed, position) alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import model_config
from vae.artefact import Generator
from vae.data import ImageShards, Selection, ShardWriter
from vae.models import build
from vae.samplers import ENCODED, posterior_samples
from vae.samplers.normal import Normal


def write(directory: Path, images: np.ndarray, shard_images: int) -> list[tuple[str, int]]:
    writer = ShardWriter(directory, images.shape[1:], shard_images)
    places = [writer.add(image) for image in images]
    writer.close()
    return places


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (23, 4, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize("shard_images", [1, 5, 22, 23, 24, 100])
def test_shard_writer_any_shard_size_reads_back_in_order(tmp_path: Path, images: np.ndarray, shard_images: int) -> None:
    write(tmp_path / "s", images, shard_images)
    shards = ImageShards(tmp_path / "s")
    assert len(shards) == 23 and shards.image_shape == (4, 6, 3)
    assert len(list((tmp_path / "s").iterdir())) == -(-23 // shard_images)
    np.testing.assert_array_equal(shards.slice(0, 23), images)


def test_shard_writer_place_is_where_the_image_lies(tmp_path: Path, images: np.ndarray) -> None:
    for image, (name, row) in zip(images, write(tmp_path, images, 7), strict=True):
        np.testing.assert_array_equal(np.load(tmp_path / name)[row], image)


def test_shard_writer_same_images_give_the_same_bytes(tmp_path: Path, images: np.ndarray) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, images, 10)
    assert [p.read_bytes() for p in sorted((tmp_path / "a").iterdir())] == [
        p.read_bytes() for p in sorted((tmp_path / "b").iterdir())
    ]


def test_shard_writer_tells_of_each_shard_once_it_is_whole(tmp_path: Path, images: np.ndarray) -> None:
    told: dict[str, bytes] = {}

    def finished(shard: Path) -> None:
        assert shard.name not in told
        told[shard.name] = shard.read_bytes()

    writer = ShardWriter(tmp_path, images.shape[1:], 10, finished)
    writer.add_all(images)
    assert [*told] == ["shard-00000.npy", "shard-00001.npy"]
    writer.close()
    assert told == {path.name: path.read_bytes() for path in tmp_path.iterdir()} and len(told) == 3


def test_gather_across_shards_equals_indexing_the_concatenation(tmp_path: Path, images: np.ndarray) -> None:
    write(tmp_path / "a", images[:11], 4)
    write(tmp_path / "b", images[11:], 5)
    shards = ImageShards(tmp_path / "a", tmp_path / "b")
    rng = np.random.default_rng(0)
    for size in (1, 2, 23, 100):
        indices = rng.integers(0, 23, size)  # repeats and any order
        np.testing.assert_array_equal(shards.gather(indices), images[indices])
    np.testing.assert_array_equal(shards.gather(np.arange(23)[::-1]), images[::-1])


def test_gather_result_is_a_copy_that_may_be_written(tmp_path: Path, images: np.ndarray) -> None:
    write(tmp_path, images, 10)
    shards = ImageShards(tmp_path)
    shards.gather(np.arange(3))[:] = 0
    np.testing.assert_array_equal(shards.gather(np.arange(3)), images[:3])


def test_gather_from_more_shards_than_are_open_at_once(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vae.data.OPEN_FILES", 2)
    write(tmp_path, images, 3)
    shards, order = ImageShards(tmp_path), np.random.default_rng(0).permutation(23)
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    np.testing.assert_array_equal(shards.gather(order), images[order])
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_shard_that_is_cut_short_is_named(tmp_path: Path, images: np.ndarray) -> None:
    write(tmp_path, images, 23)
    path = tmp_path / "shard-00000.npy"
    shards, whole = ImageShards(tmp_path), path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(OSError, match=str(path)):
        shards.slice(0, 23)
    with pytest.raises(ValueError, match="file size"):
        ImageShards(tmp_path)


@pytest.mark.parametrize("index", [-1, 23, 100])
def test_gather_past_the_end_is_refused(tmp_path: Path, images: np.ndarray, index: int) -> None:
    write(tmp_path, images, 10)
    with pytest.raises(IndexError):
        ImageShards(tmp_path).gather(np.array([0, index]))


def test_slice_is_clipped_to_the_end(tmp_path: Path, images: np.ndarray) -> None:
    write(tmp_path, images, 10)
    shards = ImageShards(tmp_path)
    np.testing.assert_array_equal(shards.slice(20, 40), images[20:])
    assert shards.slice(23, 40).shape == (0, 4, 6, 3)


def test_image_shards_empty_directory_names_it_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"no shards in {tmp_path}: run the stage"):
        ImageShards(tmp_path)


@pytest.mark.parametrize("other", [np.zeros((3, 4, 6, 1), np.uint8), np.zeros((3, 4, 6, 3), np.float32)])
def test_image_shards_of_mixed_kinds_are_refused(tmp_path: Path, images: np.ndarray, other: np.ndarray) -> None:
    write(tmp_path, images, 100)
    np.save(tmp_path / "shard-00001.npy", other)
    with pytest.raises(ValueError, match="different shapes or types"):
        ImageShards(tmp_path)


def test_image_shards_pickled_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "shard-00000.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"allow_pickle|Python objects"):
        ImageShards(tmp_path)


def test_spread_of_sorted_images_holds_every_kind_in_its_share(tmp_path: Path) -> None:
    # Shards are sorted by folder: a head of 30 would be all of the first kind.
    writer = ShardWriter(tmp_path, (1, 1, 1), 17)
    for kind in (0, 1, 2):
        for _ in range(40):
            writer.add(np.full((1, 1, 1), kind, np.uint8))
    writer.close()
    images = ImageShards(tmp_path)
    assert np.bincount(images.spread(30).ravel()).tolist() == [10, 10, 10]
    assert len(images.spread(1000)) == 120


def test_selection_is_encoded_as_the_images_are_that_it_stands_for_but_read_in_parts(tmp_path: Path) -> None:
    images = np.random.default_rng(2).integers(0, 256, (3 * ENCODED, 8, 8, 1), dtype=np.uint8)
    write(tmp_path / "s", images, 100)
    read: list[int] = []

    class Told(ImageShards):
        def gather(self, indices: np.ndarray) -> np.ndarray:
            read.append(len(indices))
            return super().gather(indices)

    places, model = np.arange(3 * ENCODED)[::-2], build(model_config())
    chosen = Selection(Told(tmp_path / "s"), places)
    generator = Generator(model, model_config(), Normal({"latent_dim": torch.tensor(model_config().latent_dim)}), {})
    assert chosen.shape == images[places].shape and len(chosen) == len(places)
    for encoded in (lambda some: posterior_samples(model, some, 1), lambda some: generator.encode(some)[0]):
        read.clear()
        np.testing.assert_array_equal(encoded(chosen), encoded(images[places]))
        assert sum(read) == len(places) > max(read)

"""shard_cache: copies are what the manifest says, no more than there is room for, and shared by processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import fit_config
from vae.data import ImageShards, ShardWriter
from vae.files import DamagedError, write_manifest
from vae.loader import Loader
from vae.order import Windows
from vae.shard_cache import ShardCache

COUNT, SHARD_IMAGES = 200, 10
ANY = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 1), dtype=np.uint8)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    writer = ShardWriter(tmp_path / "shared/train", (4, 4, 1), SHARD_IMAGES)
    writer.add_all(ANY)
    writer.close()
    write_manifest(tmp_path / "shared")
    return tmp_path / "shared"


def cache_of(folder: Path, shared: Path, shards: int) -> ShardCache:
    cache = ShardCache(folder, shards * (shared / "train/shard-00000.npy").stat().st_size)
    cache.know(shared)
    return cache


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if len(path.name) == 64)


@pytest.mark.parametrize("shards", [1, 3, 20, 50])
def test_images_are_those_of_the_storage_and_the_room_is_kept_to(tmp_path, shared, shards) -> None:
    images, rng = ImageShards(shared / "train", cache=cache_of(tmp_path / "c", shared, shards)), np.random.default_rng(1)
    for _ in range(30):
        indices = rng.integers(0, COUNT, 5)
        np.testing.assert_array_equal(images.gather(indices), ANY[indices])
        assert len(kept(tmp_path / "c")) <= min(shards, 20)
    assert (tmp_path / "c").stat().st_mode & 0o077 == 0


def test_what_was_not_used_for_the_longest_time_goes_first(tmp_path, shared) -> None:
    images = ImageShards(shared / "train", cache=cache_of(tmp_path / "c", shared, 3))
    for shard in (0, 1, 2, 0, 3):
        before = kept(tmp_path / "c")
        images.gather(np.array([shard * SHARD_IMAGES]))
    assert len(set(kept(tmp_path / "c")) & set(before)) == 2
    (shared / "train/shard-00000.npy").unlink()  # not needed again: of the three it was used last but one
    np.testing.assert_array_equal(images.gather(np.array([3])), ANY[[3]])


def test_file_that_is_not_what_the_manifest_says_is_refused_and_not_kept(tmp_path, shared) -> None:
    images, path = ImageShards(shared / "train", cache=cache_of(tmp_path / "c", shared, 3)), shared / "train/shard-00004.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(DamagedError, match=r"shard-00004\.npy differs from the sha256 in its manifest"):
            images.gather(np.array([45]))
    assert kept(tmp_path / "c") == []
    np.testing.assert_array_equal(images.gather(np.array([55])), ANY[[55]])


def test_rest_of_a_killed_copy_is_taken_away(tmp_path, shared) -> None:
    (tmp_path / "c").mkdir(mode=0o700)
    (tmp_path / "c" / f"{'0' * 64}.part").write_bytes(b"half")
    ImageShards(shared / "train", cache=cache_of(tmp_path / "c", shared, 2)).gather(np.array([0]))
    assert sorted(path.suffix for path in (tmp_path / "c").iterdir()) == ["", ""]  # a copy and the lock


def test_folder_that_others_can_write_is_refused(tmp_path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(0o777)
    with pytest.raises(PermissionError, match="can be written by others"):
        ShardCache(tmp_path / "c", 100)


def _read(folder: Path, shared: Path, seed: int) -> None:
    images, rng = ImageShards(shared / "train", cache=cache_of(folder, shared, 4)), np.random.default_rng(seed)
    for _ in range(150):
        indices = rng.integers(0, COUNT, 3)
        if not np.array_equal(images.gather(indices), ANY[indices]):
            os._exit(1)
    os._exit(0)


def test_processes_that_take_each_others_copies_away_all_read_right(tmp_path, shared) -> None:
    context = multiprocessing.get_context("fork")
    readers = [context.Process(target=_read, args=(tmp_path / "c", shared, seed)) for seed in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert [reader.exitcode for reader in readers] == [0] * 4 and len(kept(tmp_path / "c")) <= 4


def test_shards_of_the_next_window_come_before_they_are_wanted(tmp_path, shared) -> None:
    config, device = fit_config(shuffle_images=30, global_batch_size=10), torch.device("cpu")
    images = ImageShards(shared / "train", cache=cache_of(tmp_path / "c", shared, 8))
    windows = Windows(images.lengths, config.seed, 30)
    Loader(images, config, device, None).batch(0, slice(0, 10))
    for thread in threading.enumerate():
        if thread.name == "fetching":
            thread.join(30)
    for shard in windows.shards(*windows.after(0, 0)):
        (shared / f"train/shard-{shard:05d}.npy").unlink()
        np.testing.assert_array_equal(images.gather(np.array([shard * SHARD_IMAGES])), ANY[[shard * SHARD_IMAGES]])

"""Training through a cache with room for a part of the images: the same weights, and no more on the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workspace import Workspace, one_line

SHARDS = {"preprocess.shard_images": 16, "fit.shuffle_images": 32, "train.total_images": 1280}
SHARD_BYTES = 16 * 16 * 16 * 3 + 128
ROOM = 2 * (32 + 16) * 16 * 16 * 3  # two windows of 32 images, each of which may end in the middle of a shard


def _profile(workspace: Workspace, room_bytes: int) -> dict[str, str]:
    text = (workspace.root / "infra/ray/laptop.yaml").read_text()
    text += f"cache_folder: {workspace.root.parent / 'cache'}\ncache_gib: {room_bytes / 2**30:.12f}\n"
    (workspace.root / "infra/ray/cached.yaml").write_text(text)
    return {"VAELINE_CLUSTER": "infra/ray/cached.yaml"}


@pytest.mark.slow
def test_weights_are_those_of_a_training_without_a_cache(ready: Workspace) -> None:
    ready.set(SHARDS)
    for stage in ("preprocess", "augment", "train"):
        result = ready.stage(stage)
        assert result.returncode == 0, result.stderr
    plain = ready.weights_sha256()
    assert len(list(ready.root.glob("data/processed/train/shard-*.npy"))) >= 10

    result = ready.stage("train", **_profile(ready, ROOM))
    assert result.returncode == 0 and ready.weights_sha256() == plain, result.stderr
    copies = [path for path in (ready.root.parent / "cache").iterdir() if len(path.name) == 64]
    assert 0 < len(copies) * SHARD_BYTES <= ROOM + SHARD_BYTES
    assert not os.stat(ready.root.parent / "cache").st_mode & 0o077

    small = ready.stage("train", **_profile(ready, ROOM // 2))
    assert small.returncode == 78 and "set it to that, or fit.shuffle_images to" in one_line(small, "train")


@pytest.mark.slow
def test_shard_that_was_damaged_on_the_storage_ends_the_training_with_its_name(ready: Workspace) -> None:
    ready.set(SHARDS)
    for stage in ("preprocess", "augment"):
        assert ready.stage(stage).returncode == 0
    shard: Path = next(ready.root.glob("data/processed/train/shard-*.npy"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(content)
    result = ready.stage("train", **_profile(ready, ROOM))
    assert result.returncode in (65, 70) and shard.name in one_line(result, "train")

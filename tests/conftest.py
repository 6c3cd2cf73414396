"""Fixtures that all tests share."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from vae.data import ImageShards, ShardWriter
from workspace import Workspace

# A shell's background job is deaf to Ctrl-C, and what it starts is too: the tests send it to stages.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests run beside other work: one thread each keeps them quick and their numbers the same."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "project")


@pytest.fixture
def shards(tmp_path: Path) -> ImageShards:
    """96 smooth random images of 8x8 pixels and one channel, in three shards."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (96, 2, 2, 1)).astype(np.uint8)
    writer = ShardWriter(tmp_path / "shards", (8, 8, 1), 40)
    for image in coarse.repeat(4, 1).repeat(4, 2):
        writer.add(image)
    writer.close()
    return ImageShards(tmp_path / "shards")

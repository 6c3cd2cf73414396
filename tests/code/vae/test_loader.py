"""loader: rows are a function of step and place, and a large data set does not become this process's memory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vae.config import FitConfig
from vae.data import ImageShards, ShardWriter
from vae.images import to_model_range
from vae.loader import Loader
from vae.order import stream_indices

CPU = torch.device("cpu")


@pytest.mark.parametrize("room_bytes", [96 * 64, 96 * 64 - 1])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_batch_is_the_streams_rows_in_model_range(
    fit_config: FitConfig, shards: ImageShards, layout: str, room_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vae.loader.RESIDENT_BYTES", room_bytes)
    loader = Loader(shards, replace(fit_config, memory_format=layout), CPU, None)
    for step in (0, 7, 3):  # 96 images, 16 a step: step 7 lies in the second epoch
        indices = stream_indices(96, fit_config.seed, 16 * step + 4, 16 * step + 12)
        batch, label_N = loader.batch(step, slice(4, 12))
        assert label_N is None
        assert torch.equal(batch, to_model_range(torch.from_numpy(shards.gather(indices))))
        # What convolutions go by: of one channel, as here, is_contiguous() is true of both layouts.
        assert batch.stride() == ((64, 64, 8, 1) if layout == "contiguous" else (64, 1, 8, 1))


def test_rows_of_a_block_of_steps_are_read_in_one_go_and_once(
    fit_config: FitConfig, shards: ImageShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    every, gather, read = torch.from_numpy(shards.slice(0, 96)), ImageShards.gather, []
    monkeypatch.setattr("vae.loader.RESIDENT_BYTES", 0)
    monkeypatch.setattr("vae.loader.AHEAD_BYTES", 3 * 16 * 64)
    monkeypatch.setattr(ImageShards, "gather", lambda self, indices: read.append(len(indices)) or gather(self, indices))
    loader = Loader(shards, fit_config, CPU, None)
    for step in range(2, 10):  # blocks 0, 1, 2 and 3, and the next one while the last of them is trained on
        for rows in (slice(0, 4), slice(4, 16)):
            indices = stream_indices(96, fit_config.seed, 16 * step + rows.start, 16 * step + rows.stop)
            assert torch.equal(loader.batch(step, rows)[0], to_model_range(every[indices]))
    assert sorted(read)[:4] == [12] * 4 and sorted(read)[-4:] == [36] * 4 and 8 <= len(read) <= 10


def test_shard_that_was_cut_short_meanwhile_is_an_error_of_the_step(
    fit_config: FitConfig, shards: ImageShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vae.loader.RESIDENT_BYTES", 0)
    loader = Loader(shards, fit_config, CPU, None)
    for path in (tmp_path / "shards").glob("shard-*.npy"):
        with path.open("r+b") as opened:
            opened.truncate(200)
    with pytest.raises(OSError, match="ends before byte"):
        loader.batch(0, slice(0, 16))


MEASURE = """
import sys
from pathlib import Path
import torch
from vae.config import FitConfig
from vae.data import ImageShards
from vae.loader import Loader

def peak_mib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

config = FitConfig(**eval(sys.argv[2]))
before, loader = peak_mib(), Loader(ImageShards(Path(sys.argv[1])), config, torch.device("cpu"), None)
for step in range(60):
    loader.batch(step, slice(0, config.global_batch_size))
print(peak_mib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for the peak of resident memory")
def test_loader_of_a_large_data_set_stays_within_64_mib(fit_config: FitConfig, tmp_path: Path) -> None:
    writer, block = ShardWriter(tmp_path / "s", (32, 32, 3), 8192), np.zeros((8192, 32, 32, 3), np.uint8)
    for _ in range(16):  # 384 MiB
        writer.add_all(block)
    writer.close()
    config = vars(replace(fit_config, global_batch_size=256))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "s"), repr(config)]
    used = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert float(used) < 64

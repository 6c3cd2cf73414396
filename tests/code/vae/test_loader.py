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

"""What is trained in a comparison of speed, as plain data, so that a process in any environment can be asked for it."""

from __future__ import annotations

import io
import time
import zipfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.rows import REAL, ROOT
from vae.config import FitConfig, ModelConfig
from vae.data import ImageShards, ShardWriter

SHARDS = ROOT / ".work" / "bench-data"
NETWORKS = {"wide": (32, 64, 128, 256), "narrow": (8, 16, 32, 64)}
DATA = {"mnist": ("mnist-png", "L"), "cifar10": ("cifar10-jpg", "RGB")}
# Measured in a round: two seconds on one thread; of the narrow one more, whose steps vary more.
STEPS = {"wide": 16, "narrow": 192}
SIDE = 32


# Neither saved nor judged on the way, unless a measurement is about that.
FIT: dict[str, Any] = {
    "seed": 0, "beta": 1.0, "learning_rate": 1e-3, "warmup_images": 1000, "weight_decay": 0.01, "clip_norm": 10000.0,
    "ema_decay": 0.999, "shuffle_images": 0, "objective": "elbo", "beta_schedule": "geometric", "beta_start": 1.0, "beta_anneal_share": 0.0,
    "beta_cycles": 1, "capacity_nats": 0.0, "free_bits_nats": 0.0, "regulariser_weight": 1.0, "importance_samples": 1,
    "global_batch_size": 128, "precision": "float32", "memory_format": "contiguous", "compile": False, "recompute": False,
    "micro_batch_size": 0, "exactness": "off", "virtual_shards": 12, "skip_nonfinite_steps": 0,
    "denoise_levels": 0.0, "smoothness": 0.0, "adversary_weight": 0.0, "adversary_start_share": 0.0,
        "feature_weight": 0.0, "critic_width": 8, "critic_learning_rate": 1e-3, "validate_every_images": 2**40,
    "checkpoint_every_images": 2**40, "keep_checkpoints": 1, "patience_reports": 0, "frozen_images": 0,
    "layer_decay": 1.0, "epsilon": 0.0, "delta": 1e-5, "sample_norm": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One training: network, data, numerics, and how many steps are run before and while the time is taken."""

    network: str
    data: str
    threads: int
    precision: str = "float32"
    memory_format: str = "contiguous"
    compile: bool = False
    batch_size: int = 128
    latent_dim: int = 32
    warm_steps: int = 8

    @property
    def steps(self) -> int:
        return STEPS[self.network]

    @property
    def total_images(self) -> int:
        return (self.warm_steps + self.steps) * self.batch_size

    def images(self) -> ImageShards:
        return ImageShards(SHARDS / self.data / "train")

    def model_config(self) -> ModelConfig:
        return ModelConfig(
            name="conv",
            image_shape=(SIDE, SIDE, len(DATA[self.data][1])),
            latent_dim=self.latent_dim,
            widths=NETWORKS[self.network],
            hidden_units=512,
            blocks=1,
            stochastic_layers=2,
            codes=2,
            sigma=0.1,
            likelihood="logistic",
        )

    def fit_config(self, **other: Any) -> FitConfig:
        own = {
            "global_batch_size": self.batch_size, "precision": self.precision, "memory_format": self.memory_format,
            "compile": self.compile, "total_images": self.total_images,
        }  # fmt: skip
        return FitConfig(**(FIT | own | other))

    def with_(self, **other: Any) -> Case:
        return replace(self, **other)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Stopwatch:
    """Images per second from the end of step ``warm_steps`` to the end of the last one."""

    def __init__(self, case: Case) -> None:
        self._case, self._step, self._started, self._seconds = case, 0, 0.0, 0.0

    def lap(self, steps: int = 1) -> None:
        """So many steps have ended."""
        self._step += steps
        if self._step == self._case.warm_steps:
            self._started = time.perf_counter()
        if self._step == self._case.warm_steps + self._case.steps:
            self._seconds = time.perf_counter() - self._started

    def images_per_second(self) -> float:
        assert self._seconds, f"the training ended after {self._step} steps"
        return self._case.steps * self._case.batch_size / self._seconds


def unpacked(data: str) -> tuple[list[str], np.ndarray]:
    """The names (split/label/number) and images uint8 (N, H, W, C) of a set, in the order of the names."""
    name, mode = DATA[data]
    with zipfile.ZipFile(REAL / f"{name}.zip") as archive:
        names = sorted(n for n in archive.namelist() if not n.endswith("/"))
        pictures = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(n))).convert(mode)) for n in names])
    return names, pictures.reshape(*pictures.shape[:3], len(mode))


def bordered(images_NHWC: np.ndarray) -> np.ndarray:
    """Images with a black border where they are smaller than 32x32 pixels."""
    border = (SIDE - images_NHWC.shape[1]) // 2
    return np.pad(images_NHWC, ((0, 0), (border, border), (border, border), (0, 0)))


def shards(folder: Path, images_NHWC: np.ndarray) -> ImageShards:
    """The images as a training reads them."""
    writer = ShardWriter(folder, images_NHWC.shape[1:], 8192)
    writer.add_all(images_NHWC)
    writer.close()
    return ImageShards(folder)


def prepare(data: str) -> None:
    """Unpack a data set into shards of 32x32 pixels (MNIST with a black border), once; the validation split has 128 images."""
    if (SHARDS / data / "val").exists():
        return
    images = bordered(unpacked(data)[1])
    for split, part in (("train", images[:60000]), ("val", images[-128:])):
        shards(SHARDS / data / split, part)

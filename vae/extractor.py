"""The small frozen network whose features FCD compares: trained once on the training split, then never changed.

With two or more labels it learns to tell them apart; without, to tell by how many quarter turns a picture was rotated (Gidaris,
Singh, Komodakis 2018). Features are standardised on the training images. N batch, C channels, H height, W width, F features.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vae.data import ImageShards
from vae.distributed import shared
from vae.files import canonical_json, read_manifest, sha256_file, write_manifest, write_text
from vae.images import to_model_range
from vae.models.layout import Place, key_of, plain
from vae.models.trunk import Down, PlainDown, grouped, of_pictures, trunk
from vae.order import stream_indices

TURNS = 4
WEIGHTS, CONFIG = "extractor.safetensors", "extractor.json"
FEATURE_BATCH = 256
STANDARDISED_ON = 10_000  # training images that set the mean and deviation of the features


@dataclass(frozen=True)
class ExtractorConfig:
    """Shape of the network; ``classes`` is the number of labels, or 4 for quarter turns.

    ``architecture`` is residual, or plain for a second opinion by a network of another kind.
    """

    channels: int
    width: int
    feature_dim: int
    classes: int
    task: str  # labels or turns
    architecture: str = "residual"


ARCHITECTURES: dict[str, type[Down | PlainDown]] = {"residual": Down, "plain": PlainDown}


class Extractor(nn.Module):
    """A classifier whose last hidden layer is the feature vector."""

    mean_F: Tensor
    std_F: Tensor

    def __init__(self, config: ExtractorConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.body = nn.Sequential(*trunk(config.channels, (width, 2 * width, 4 * width), ARCHITECTURES[config.architecture]))
        self.neck = nn.Sequential(grouped(4 * width), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.to_features = nn.Linear(16 * width, config.feature_dim)
        self.head = nn.Linear(config.feature_dim, config.classes)
        self.register_buffer("mean_F", torch.zeros(config.feature_dim))
        self.register_buffer("std_F", torch.ones(config.feature_dim))

    def _raw(self, x_NCHW: Tensor) -> Tensor:
        return self.to_features(self.neck(self.body(x_NCHW)))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Class scores (N, classes)."""
        return self.head(F.silu(self._raw(x_NCHW)))

    def layout(self) -> dict[str, Place]:
        """What each tensor is for, by its name: the body, and the norm after it, are the first layers of a ``classifier_encoder``."""
        owners = {f"body.{i}": f"encoder.{i}" for i in range(len(self.body))} | {"neck.0": f"encoder.{len(self.body)}"}
        found = {}
        for name, tensor in self.state_dict().items():
            part = ".".join(name.split(".")[:2])
            place = plain(name, tuple(tensor.shape))
            if part in owners:
                place = replace(place, key=key_of(owners[part], self.get_submodule(part), name[len(part) :]))
            found[name] = replace(place, axes=of_pictures(place.axes)) if part == "body.0" else place
        return found

    def _of_each(self, images_NHWC: np.ndarray | Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        batches = torch.as_tensor(images_NHWC).split(FEATURE_BATCH)
        return shared(batches, lambda batch: compute(to_model_range(batch.to(self.mean_F.device))))

    @torch.no_grad()
    def features(self, images_NHWC: np.ndarray | Tensor) -> Tensor:
        """Standardised features (N, F) of uint8 images."""
        return self._of_each(images_NHWC, lambda x_NCHW: (self._raw(x_NCHW) - self.mean_F) / self.std_F)

    @torch.no_grad()
    def log_probabilities(self, images_NHWC: np.ndarray | Tensor) -> Tensor:
        """The log-probability (N, classes) of each class for each of uint8 images."""
        return self._of_each(images_NHWC, lambda x_NCHW: F.log_softmax(self(x_NCHW), 1))

    @torch.no_grad()
    def told(self, images_NHWC: np.ndarray | Tensor) -> Tensor:
        """The class (N,) that each of uint8 images seems to be of."""
        return self._of_each(images_NHWC, lambda x_NCHW: self(x_NCHW).argmax(1))


def _turned(x_NCHW: Tensor, turns_N: Tensor) -> Tensor:
    return torch.stack([torch.rot90(x, int(t), (1, 2)) for x, t in zip(x_NCHW, turns_N, strict=True)])


def train_extractor(
    config: ExtractorConfig,
    images: ImageShards,
    labels_N: np.ndarray | None,
    *,
    total_images: int,
    batch_size: int,
    peak_learning_rate: float,
    seed: int,
    on_progress: Callable[[int, float], None] = lambda images, accuracy: None,
) -> tuple[Extractor, float]:
    """Train, standardise on the training images and freeze; returns (extractor, accuracy over the last tenth of training)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Extractor(config)
    steps = max(2, -(-total_images // batch_size))
    optimizer = torch.optim.AdamW(network.parameters(), lr=peak_learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_learning_rate, total_steps=steps, pct_start=0.2)
    right: list[float] = []
    for step in range(steps):
        rows = stream_indices(len(images), seed, step * batch_size, (step + 1) * batch_size)
        x_NCHW = to_model_range(torch.from_numpy(images.gather(rows)))
        if labels_N is None:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            target = torch.randint(TURNS, (len(rows),), generator=generator)
            x_NCHW = _turned(x_NCHW, target)
        else:
            target = torch.from_numpy(labels_N[rows])
        scores = network(x_NCHW)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(scores, target).backward()
        optimizer.step()
        schedule.step()
        right.append(float((scores.argmax(1) == target).float().mean()))
        on_progress((step + 1) * batch_size, right[-1])
    network.eval().requires_grad_(False)
    known = network.features(images.spread(STANDARDISED_ON))
    network.mean_F.copy_(known.mean(0))
    network.std_F.copy_(known.std(0).clamp_min(1e-6))
    tail = right[-max(1, steps // 10) :]
    return network, sum(tail) / len(tail)


def save_extractor(directory: Path, network: Extractor) -> None:
    """Weights, configuration and manifest into ``directory``."""
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, directory / WEIGHTS)
    write_text(directory / CONFIG, canonical_json(asdict(network.config)))
    write_manifest(directory)


def load_extractor(directory: Path) -> tuple[Extractor, str]:
    """The frozen network and the sha256 of its weights, which names its features; DamagedError where a file was changed."""
    read_manifest(directory)
    network = Extractor(ExtractorConfig(**json.loads((directory / CONFIG).read_text())))
    network.load_state_dict(load_file(directory / WEIGHTS))
    return network.eval().requires_grad_(False), sha256_file(directory / WEIGHTS)

"""The Inception network of 2015 (Szegedy et al. 2016) as FID has used it since Heusel et al. 2017, for weights that a user has.

Names and shapes are those of ``pt_inception-2015-12-05-6726825d.pth``, the published PyTorch port of TensorFlow's graph of that
year; nothing is ever downloaded. It is the paper's network but for its poolings: averages leave the padding out, and the last
block takes the maximum (an oversight in the graph, which every FID since has in it). N batch, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.distributed import shared

FEATURE_DIM = 2048
CLASSES = 1008  # of that graph's head, which FID does not use; the file has it
SIDE_PIXELS = 299
FEATURE_BATCH = 32
LEVELS = 255

Conv = tuple[str, int, tuple[int, int], int]  # name, channels out, kernel (height, width), stride
Step = str | tuple[Conv, ...]  # a pooling, or convolutions of the same input whose outputs are joined: mostly one
Branch = tuple[Step, ...]


class WeightsError(ValueError):
    """A file of weights cannot be used: the message says why and what to do."""


class _Conv(nn.Module):
    """Convolution without bias, batch normalisation with fixed moments, ReLU."""

    def __init__(
        self, before: int, after: int, kernel: tuple[int, int], stride: int = 1, padding: tuple[int, int] = (0, 0)
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x_NCHW)))


def _pooled(x_NCHW: Tensor, kind: str) -> Tensor:
    if kind == "average":
        return F.avg_pool2d(x_NCHW, 3, stride=1, padding=1, count_include_pad=False)
    return F.max_pool2d(x_NCHW, 3, stride=1, padding=1) if kind == "maximum" else F.max_pool2d(x_NCHW, 3, stride=2)


class _Mixed(nn.Module):
    """Branches side by side, joined along channels. Stride 1 keeps height and width; a stride of 2 is without padding."""

    def __init__(self, channels: int, *branches: Branch) -> None:
        super().__init__()
        self.branches = branches
        for branch in branches:
            before = channels
            for step in branch:
                if isinstance(step, str):
                    continue
                for name, after, (height, width), stride in step:
                    padding = (height // 2, width // 2) if stride == 1 else (0, 0)
                    self.add_module(name, _Conv(before, after, (height, width), stride, padding))
                before = sum(after for _, after, _, _ in step)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        outputs = []
        for branch in self.branches:
            y = x_NCHW
            for step in branch:
                y = _pooled(y, step) if isinstance(step, str) else torch.cat([getattr(self, name)(y) for name, *_ in step], 1)
            outputs.append(y)
        return torch.cat(outputs, 1)


def _one(name: str, channels: int, height: int, width: int = 0, stride: int = 1) -> tuple[Conv]:
    return ((name, channels, (height, width or height), stride),)


def _chain(name: str, *sizes: tuple[int, ...]) -> Branch:
    return tuple(_one(f"{name}_{place}", *size) for place, size in enumerate(sizes, 1))


def _grid_35(channels: int, pooled: int) -> _Mixed:
    """5x5 and two 3x3 beside each other (figure 5 of the paper, with the 5x5 kept)."""
    return _Mixed(
        channels,
        (_one("branch1x1", 64, 1),),
        _chain("branch5x5", (48, 1), (64, 5)),
        _chain("branch3x3dbl", (64, 1), (96, 3), (96, 3)),
        ("average", _one("branch_pool", pooled, 1)),
    )


def _to_grid_17() -> _Mixed:
    return _Mixed(
        288, (_one("branch3x3", 384, 3, stride=2),), _chain("branch3x3dbl", (64, 1), (96, 3), (96, 3, 3, 2)), ("halve",)
    )


def _grid_17(inner: int) -> _Mixed:
    """7x7 as 1x7 and 7x1 (figure 6)."""
    return _Mixed(
        768,
        (_one("branch1x1", 192, 1),),
        _chain("branch7x7", (inner, 1), (inner, 1, 7), (192, 7, 1)),
        _chain("branch7x7dbl", (inner, 1), (inner, 7, 1), (inner, 1, 7), (inner, 7, 1), (192, 1, 7)),
        ("average", _one("branch_pool", 192, 1)),
    )


def _to_grid_8() -> _Mixed:
    seven = _chain("branch7x7x3", (192, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2))
    return _Mixed(768, _chain("branch3x3", (192, 1), (320, 3, 3, 2)), seven, ("halve",))


def _grid_8(channels: int, pooling: str) -> _Mixed:
    """3x3 as 1x3 beside 3x1 (figure 7)."""

    def both(name: str) -> tuple[Conv, Conv]:
        return (f"{name}a", 384, (1, 3), 1), (f"{name}b", 384, (3, 1), 1)

    return _Mixed(
        channels,
        (_one("branch1x1", 320, 1),),
        (*_chain("branch3x3", (384, 1)), both("branch3x3_2")),
        (*_chain("branch3x3dbl", (448, 1), (384, 3)), both("branch3x3dbl_3")),
        (pooling, _one("branch_pool", 192, 1)),
    )


class InceptionFeatures(nn.Module):
    """uint8 images -> the 2,048 features before the head. In evaluation mode, without gradients, from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, (3, 3), stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, (3, 3))
        self.Conv2d_2b_3x3 = _Conv(32, 64, (3, 3), padding=(1, 1))
        self.Conv2d_3b_1x1 = _Conv(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = _Conv(80, 192, (3, 3))
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _grid_35(192, 32), _grid_35(256, 64), _grid_35(288, 64)
        self.Mixed_6a = _to_grid_17()
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (_grid_17(inner) for inner in (128, 160, 160, 192))
        self.Mixed_7a = _to_grid_8()
        self.Mixed_7b, self.Mixed_7c = _grid_8(1280, "average"), _grid_8(2048, "maximum")
        self.fc = nn.Linear(FEATURE_DIM, CLASSES)
        self.eval().requires_grad_(False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Features (N, 2048) of pictures (N, 3, H, W) in [0, 1]."""
        x = 2 * F.interpolate(x_NCHW, size=(SIDE_PIXELS, SIDE_PIXELS), mode="bilinear", align_corners=False) - 1
        for name, layer in self.named_children():
            if name in ("Conv2d_3b_1x1", "Mixed_5b"):
                x = _pooled(x, "halve")
            if name != "fc":
                x = layer(x)
        return x.mean((2, 3))

    @torch.no_grad()
    def features(self, images_NHWC: np.ndarray | Tensor) -> Tensor:
        """Features (N, 2048), float32 on the processor, of uint8 images (N, H, W, C), grey or RGB."""
        images = torch.as_tensor(images_NHWC)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(f"expected uint8 images (N, H, W, 1 or 3), got {images.dtype} {tuple(images.shape)}")

        def of_batch(batch_NHWC: Tensor) -> Tensor:
            x_NCHW = batch_NHWC.to(self.fc.weight.device).permute(0, 3, 1, 2).float() / LEVELS
            return self(x_NCHW.expand(-1, 3, -1, -1)).cpu()

        return shared(images.split(FEATURE_BATCH), of_batch)


def load_inception(path: Path, sha256: str) -> InceptionFeatures:
    """The network with the weights of a ``.pth`` or ``.safetensors`` file whose hash is known; WeightsError where it cannot be used."""
    remedy = "give the file of weights and its own sha256"
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): {remedy}") from None
    found = hashlib.sha256(content).hexdigest()  # of what is then opened, so that nobody can change it in between
    if found != sha256.lower():
        raise WeightsError(f"{path} has the sha256 {found}, not {sha256.lower()}, and was not opened: {remedy}")
    with torch.random.fork_rng(devices=[]):
        network = InceptionFeatures()
    try:
        if Path(path).suffix == ".safetensors":
            tensors = safetensors.torch.load(content)
        else:
            tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        network.load_state_dict(tensors)
    except Exception as error:  # a damaged file raises whatever its parser comes across
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{path} does not hold the weights of pt_inception-2015-12-05 ({reason}): {remedy}") from None
    return network

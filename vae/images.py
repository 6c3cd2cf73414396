"""Images as bytes and as model input: the one conversion pair. N batch, H height, W width, C channels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LEVELS = 256
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}  # FitConfig.memory_format


def to_model_range(x_NHWC: Tensor, layout: torch.memory_format = torch.channels_last) -> Tensor:
    """uint8 (N, H, W, C) in [0, 255] -> float32 (N, C, H, W) in [-1, 1]; channels_last in memory (no copy but the cast) or contiguous."""
    if x_NHWC.dtype != torch.uint8 or x_NHWC.ndim != 4:
        raise ValueError(f"expected uint8 images (N, H, W, C), got {x_NHWC.dtype} {tuple(x_NHWC.shape)}")
    x_NCHW = x_NHWC.permute(0, 3, 1, 2)
    if layout == torch.contiguous_format:
        # As bytes, which takes half as long as of floats. Not contiguous(): one channel is so in both layouts, and convolutions
        # would go by its strides, which say channels_last.
        x_NCHW = x_NCHW.clone(memory_format=layout)
    return x_NCHW.float().mul_(2 / (LEVELS - 1)).sub_(1)


def model_input(images_NHWC: np.ndarray, device: torch.device | str) -> Tensor:
    """Images of an array, whatever part of another it is, as ``to_model_range`` gives them on a device."""
    return to_model_range(torch.from_numpy(np.ascontiguousarray(images_NHWC)).to(device))


def to_uint8(x_NCHW: Tensor) -> Tensor:
    """float (N, C, H, W) in [-1, 1] (clamped) -> uint8 (N, H, W, C), the nearest of the 256 levels."""
    scaled = x_NCHW.float().add(1).mul((LEVELS - 1) / 2).round().clamp(0, LEVELS - 1)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous()

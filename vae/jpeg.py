"""What JPEG does to a picture, without the bytes: quantisation of 8x8 cosine coefficients, colour at half resolution.

The steps are libjpeg's (ITU-T T.81, T.871): 4:2:0 for colour, tables of annex K scaled by quality, triangular upsampling.
Written here because kornia's codec rounds by a differentiable polynomial, and its last bits depend on the size of the batch.
N batch, C channels, H height, W width, B blocks of 8x8.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8,) * 4,
)  # fmt: skip


def _cosines(device: torch.device) -> Tensor:
    """The orthonormal DCT-II: float64 (frequency, place)."""
    rows = [
        [math.sqrt((2 if k else 1) / BLOCK) * math.cos((2 * i + 1) * k * math.pi / (2 * BLOCK)) for i in range(BLOCK)]
        for k in range(BLOCK)
    ]
    return torch.tensor(rows, dtype=torch.float64, device=device)


def _nearest(x: Tensor) -> Tensor:
    """Rounded, halves away from zero, as libjpeg does."""
    return x.sign() * (x.abs() + 0.5).floor()


def _steps(table: tuple[tuple[int, ...], ...], quality_N: Tensor) -> Tensor:
    """The quantisation steps (N, 8, 8) of a quality from 1 to 100 (jpeg_set_quality, baseline)."""
    scale_N = torch.where(quality_N < 50, (5000 / quality_N).floor(), 200 - 2 * quality_N)
    base = torch.tensor(table, dtype=quality_N.dtype, device=quality_N.device)
    return ((base * scale_N[:, None, None] + 50) / 100).floor().clamp(1, 255)


def _quantised(plane_NHW: Tensor, steps_N88: Tensor) -> Tensor:
    """Levels (N, H, W) after their blocks' coefficients went through whole multiples of the steps; H, W divide by 8."""
    n, h, w = plane_NHW.shape
    blocks = plane_NHW.reshape(n, h // BLOCK, BLOCK, w // BLOCK, BLOCK).transpose(2, 3) - 128
    cosines = _cosines(plane_NHW.device)
    # In doubles and back: how a product of matrices is cut up depends on the batch, and so do its last bits.
    coefficients = (cosines @ blocks.double() @ cosines.T).float()
    steps = steps_N88[:, None, None]
    kept = _nearest(coefficients / steps) * steps
    levels = (cosines.T @ kept.double() @ cosines).float() + 128
    return levels.transpose(2, 3).reshape(n, h, w).round().clamp(0, 255)


def _padded(x_NCHW: Tensor, down: int, across: int) -> Tensor:
    """Right and lower border repeated until the sides divide by ``down`` and ``across``."""
    h, w = x_NCHW.shape[2:]
    return F.pad(x_NCHW, (0, -w % across, 0, -h % down), mode="replicate")


def _halved(plane_NHW: Tensor) -> Tensor:
    """Means of 2x2; halves go down and up in turn (libjpeg: h2v2_downsample)."""
    sums = plane_NHW[:, ::2, ::2] + plane_NHW[:, ::2, 1::2] + plane_NHW[:, 1::2, ::2] + plane_NHW[:, 1::2, 1::2]
    bias = 1 + torch.arange(sums.shape[2], device=sums.device) % 2
    return ((sums + bias) / 4).floor()


def _doubled(plane_NHW: Tensor) -> Tensor:
    """Twice the sides; each new pixel is 3/4 the nearer and 1/4 the farther (libjpeg: h2v2_fancy_upsample)."""
    x = F.pad(plane_NHW[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    rows = torch.stack([3 * x[:, 1:-1] + x[:, :-2], 3 * x[:, 1:-1] + x[:, 2:]], 2).flatten(1, 2)
    left, right = 3 * rows[:, :, 1:-1] + rows[:, :, :-2] + 8, 3 * rows[:, :, 1:-1] + rows[:, :, 2:] + 7
    return (torch.stack([left, right], 3).flatten(2, 3) / 16).floor()


def jpeg(x_NCHW: Tensor, quality_N: Tensor) -> Tensor:
    """float (N, 1 or 3, H, W) in [0, 1] as it comes back from JPEG of the qualities (N,), whole numbers from 1 to 100."""
    h, w = x_NCHW.shape[2:]
    levels = (x_NCHW * 255).round().clamp(0, 255)
    if levels.shape[1] == 1:
        return _quantised(_padded(levels, BLOCK, BLOCK)[:, 0], _steps(LUMINANCE, quality_N))[:, None, :h, :w] / 255
    red, green, blue = _padded(levels, 2, 2 * BLOCK).unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    cb, cr = (((plane - luma) / reach + 128).round().clamp(0, 255) for plane, reach in ((blue, 1.772), (red, 1.402)))
    y = _quantised(_padded(luma.round()[:, None], BLOCK, BLOCK)[:, 0], _steps(LUMINANCE, quality_N))[:, :h, :w]
    halves = _padded(torch.stack([_halved(cb), _halved(cr)], 1), BLOCK, BLOCK)  # rows are repeated at half resolution
    colour = [_quantised(plane, _steps(CHROMINANCE, quality_N)) for plane in halves.unbind(1)]
    cb, cr = (_doubled(plane[:, : -(-h // 2), : -(-w // 2)])[:, :h, :w] - 128 for plane in colour)
    rgb = torch.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], 1)
    return rgb.round().clamp(0, 255) / 255

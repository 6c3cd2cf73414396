"""Operations on batches of pictures, each picture with numbers of its own: geometry, colour, blur, noise, cutout.

Pictures are float32 (N, C, H, W) in [0, 1], colour as RGB; C is 1 (grey), 3 (RGB) or 4 (RGB and alpha). A picture's result must
not depend on its neighbours in the batch, to the last bit. Hence sums run in a fixed order or over whole numbers, and powers go
through doubles; kornia does what is exact in this sense (hue, gamma, brightness), the rest is written out.
"""

from __future__ import annotations

import math
from functools import lru_cache, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from vae.noise import random_bits

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue (ITU-R BT.601), as in JPEG and Pillow
MEAN_STEPS = 2**20  # means are taken over values rounded to 1 / this: whole numbers have one sum in any order
NOISE_BITS = 16
NOISE_STREAM = 2


def corner_colour(x_NCHW: Tensor) -> Tensor:
    """The median colour (N, C, 1, 1) of the four corners' pixels, channel by channel."""
    corners = x_NCHW[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].sort(dim=2).values
    return ((corners[:, :, 1] + corners[:, :, 2]) / 2)[:, :, None, None]


def warp(x_NCHW: Tensor, matrix_N23: Tensor, fill: str) -> Tensor:
    """Each pixel fetched from where its matrix sends it, bicubic; places are (x, y) in pixels from the picture's middle.

    ``fill`` is what lies outside: ``reflect`` (mirrored at the border) or ``corners`` (the corners' median colour).
    """
    h, w = x_NCHW.shape[2:]
    m = matrix_N23[:, :, :, None, None]
    y = torch.arange(h, device=x_NCHW.device)[:, None] - (h - 1) / 2
    x = torch.arange(w, device=x_NCHW.device) - (w - 1) / 2
    places = [(m[:, row, 0] * x + m[:, row, 1] * y + m[:, row, 2]) * (2 / side) for row, side in ((0, w), (1, h))]
    outside = corner_colour(x_NCHW) if fill == "corners" else 0.0
    padding = "zeros" if fill == "corners" else "reflection"
    fetched = F.grid_sample(x_NCHW - outside, torch.stack(places, -1), mode="bicubic", padding_mode=padding, align_corners=False)
    return (fetched + outside).clamp(0, 1)


def luminance(x_NCHW: Tensor) -> Tensor:
    """(N, 1, H, W): the weighted sum of red, green and blue; a grey picture is its own."""
    if x_NCHW.shape[1] == 1:
        return x_NCHW
    red, green, blue = (x_NCHW[:, i : i + 1] * weight for i, weight in enumerate(LUMINANCE))
    return red + green + blue


def mean_level(x_NCHW: Tensor) -> Tensor:
    """The mean (N, C, 1, 1) of each channel, the same in whatever order it is summed."""
    whole = (x_NCHW * MEAN_STEPS).round().long().sum((2, 3), keepdim=True)
    return (whole.double() / (MEAN_STEPS * x_NCHW.shape[2] * x_NCHW.shape[3])).float()


def _each(numbers_N: Tensor) -> Tensor:
    return numbers_N[:, None, None, None]


def brightness(x_NCHW: Tensor, factor_N: Tensor) -> Tensor:
    """x * factor."""
    from kornia.enhance import adjust_brightness_accumulative  # imported where used: kornia takes a fifth of a second

    return adjust_brightness_accumulative(x_NCHW, factor_N)


def contrast(x_NCHW: Tensor, factor_N: Tensor) -> Tensor:
    """mean + (x - mean) * factor, with the picture's mean luminance."""
    mean = mean_level(luminance(x_NCHW))
    return (mean + (x_NCHW - mean) * _each(factor_N)).clamp(0, 1)


def saturation(x_NCHW: Tensor, factor_N: Tensor) -> Tensor:
    """luminance + (x - luminance) * factor; nothing happens to a grey picture."""
    grey = luminance(x_NCHW)
    return (grey + (x_NCHW - grey) * _each(factor_N)).clamp(0, 1)


def hue(x_NCHW: Tensor, degrees_N: Tensor) -> Tensor:
    """HSV's hue turned by ``degrees``; nothing happens to a grey picture."""
    if x_NCHW.shape[1] == 1:
        return x_NCHW
    from kornia.enhance import adjust_hue

    return adjust_hue(x_NCHW, degrees_N * (math.pi / 180))


def gamma(x_NCHW: Tensor, exponent_N: Tensor) -> Tensor:
    """x to the power of ``exponent``."""
    from kornia.enhance import adjust_gamma

    return adjust_gamma(x_NCHW.double(), exponent_N.double()).float()


def grey(x_NCHW: Tensor) -> Tensor:
    """The luminance in every channel."""
    return luminance(x_NCHW).expand_as(x_NCHW)


def blur(x_NCHW: Tensor, sigma_N: Tensor, radius_pixels: int) -> Tensor:
    """Convolved with a Gaussian of standard deviation ``sigma`` pixels, cut off at the radius; the border's pixels go on outside.

    kornia's is a grouped convolution, whose last bits depend on the size of the batch.
    """
    reach = torch.arange(-radius_pixels, radius_pixels + 1, device=x_NCHW.device).double()
    kernel = torch.exp(-0.5 * (reach / sigma_N.double().clamp(min=1e-3)[:, None]) ** 2).float()
    weights = [_each(weight_N) for weight_N in kernel.unbind(1)]
    total = reduce(torch.add, weights)
    h, w = x_NCHW.shape[2:]
    r = radius_pixels
    padded = F.pad(x_NCHW, (r, r, r, r), mode="replicate")
    across = reduce(torch.add, (padded[:, :, :, i : i + w] * weight for i, weight in enumerate(weights))) / total
    return (reduce(torch.add, (across[:, :, i : i + h] * weight for i, weight in enumerate(weights))) / total).clamp(0, 1)


@lru_cache(maxsize=4)
def _normal_quantiles(device: torch.device) -> Tensor:
    """float32 (65536,): the standard normal's quantiles in the middles of as many equal shares."""
    shares = (torch.arange(2**NOISE_BITS, dtype=torch.float64) + 0.5) / 2**NOISE_BITS
    return torch.special.ndtri(shares).float().to(device)


def noise(x_NCHW: Tensor, sigma_N: Tensor, states_N: Tensor) -> Tensor:
    """Normal noise of deviation ``sigma`` added to every value, drawn from each picture's own stream (``vae.noise``).

    Deviates are looked up, not computed: another device or batch has the same, to the last bit.
    """
    n, values = len(x_NCHW), x_NCHW[0].numel()
    words = random_bits(states_N, -(-values // 4), NOISE_STREAM)
    shifts = torch.arange(0, 64, NOISE_BITS, device=words.device)
    places = ((words[:, :, None] >> shifts) & (2**NOISE_BITS - 1)).reshape(n, -1)[:, :values]
    deviates = _normal_quantiles(x_NCHW.device)[places].reshape(x_NCHW.shape)
    return (x_NCHW + deviates * _each(sigma_N)).clamp(0, 1)


def cutout(x_NCHW: Tensor, area_N: Tensor, across_N: Tensor, down_N: Tensor) -> Tensor:
    """A rectangle of the picture's proportions and ``area`` (a share) in its mean colour (DeVries, Taylor 2017).

    Its place, from 0 to 1 across and down, is such that it lies wholly inside. Sides are whole pixels, at least one.
    """
    inside = torch.ones((), dtype=torch.bool, device=x_NCHW.device)
    for dim, place_N in ((2, down_N), (3, across_N)):
        side = x_NCHW.shape[dim]
        length_N = (area_N.double().sqrt() * side).round().clamp(min=1)
        start_N = (place_N.double() * (side + 1 - length_N)).floor().clamp(max=side - length_N)
        along = torch.arange(side, device=x_NCHW.device).view([-1 if d == dim else 1 for d in range(4)])
        inside = inside & (along >= _each(start_N)) & (along < _each(start_N + length_N))
    return torch.where(inside, mean_level(x_NCHW), x_NCHW)

"""The augmentation policy: one implementation for copies on disk and for batches on the device.

The result for an image is a function of (seed, key of the image, number of the copy) and the policy, whatever its batch. Every
number is drawn whether it is used or not, so that switching one operation off leaves the others as they were. The order is
flips, one warp (rotation, translation, scale, crop and shear composed), colour, blur, noise, JPEG, cutout. On RGBA, geometry,
blur and cutout act on all four channels, the rest on colour; HSV is worked on as RGB. N batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae import operations
from vae.config import AugmentConfig
from vae.jpeg import jpeg
from vae.noise import image_states, uniforms

CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4, "HSV": 3}
FLIPS = ("flip", "vertical_flip")
WARPS = ("rotate", "translate", "scale", "crop", "shear")
COLOUR_ONLY = ("saturation", "hue", "grey")  # nothing to do in a greyscale picture
# The order of these two is that of the numbers drawn: a new name goes to the end, or it changes the results of others.
OPERATIONS = (
    *FLIPS, *WARPS, "brightness", "contrast", "saturation", "hue", "gamma", "grey", "blur", "noise", "jpeg", "cutout",
)  # fmt: skip
STRENGTHS = (
    "rotate", "translate_x", "translate_y", "scale", "crop_area", "crop_aspect", "crop_x", "crop_y", "shear_x", "shear_y",
    "brightness", "contrast", "saturation", "hue", "gamma", "blur", "noise", "jpeg", "cutout_area", "cutout_x", "cutout_y",
)  # fmt: skip
WHETHER_STREAM, STRENGTH_STREAM = 0, 1
BLUR_REACH = 3  # standard deviations at which the Gaussian is cut off
TURN = 2 * math.pi  # kornia's hue is an angle; ours, as Pillow's, a share of the circle from 0 to 255 in levels


def image_keys(sha256: Iterable[str]) -> np.ndarray:
    """The key of each image: the first 8 bytes of its hash, uint64 (N,)."""
    return np.array([int(digits[:16], 16) for digits in sha256], np.uint64)


def probability(config: AugmentConfig, operation: str) -> float:
    """How often the policy applies one of ``OPERATIONS``."""
    return getattr(config, f"{operation}_probability")


def alone(config: AugmentConfig, operation: str | None) -> AugmentConfig:
    """The policy that always applies this operation, in its range, and no other; None: that changes nothing."""
    changes: dict[str, Any] = {f"{name}_probability": float(name == operation) for name in OPERATIONS}
    return replace(config, **changes)


def _strengths(config: AugmentConfig, u: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the uniform numbers mean under the policy: degrees, shares, factors."""

    def both(name: str, most: float) -> np.ndarray:
        return (2 * u[name] - 1) * most

    def log_between(name: str, low: float, high: float) -> np.ndarray:
        return low * (high / low) ** u[name]

    qualities = config.jpeg_quality_high - config.jpeg_quality_low + 1
    return {
        "rotate": both("rotate", config.rotate_degrees),
        **{name: both(name, config.translate_share) for name in ("translate_x", "translate_y")},
        "scale": log_between("scale", config.scale_low, config.scale_high),
        "crop_area": config.crop_area_low + (1 - config.crop_area_low) * u["crop_area"],
        "crop_aspect": log_between("crop_aspect", 1 / config.crop_aspect_high, config.crop_aspect_high),
        **{name: both(name, 1.0) for name in ("crop_x", "crop_y")},
        **{name: both(name, config.shear_degrees) for name in ("shear_x", "shear_y")},
        **{name: 1 + both(name, getattr(config, name)) for name in ("brightness", "contrast", "saturation")},
        "hue": both("hue", config.hue_degrees),
        "gamma": log_between("gamma", 1 / config.gamma_high, config.gamma_high),
        "blur": config.blur_sigma_pixels * u["blur"],
        "noise": config.noise_levels / 255 * u["noise"],
        "jpeg": config.jpeg_quality_low + np.floor(qualities * u["jpeg"]),
        "cutout_area": config.cutout_share * u["cutout_area"],
        **{name: u[name] for name in ("cutout_x", "cutout_y")},
    }


def draw(config: AugmentConfig, states_N: Tensor) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Which images each operation falls on, bool (N,), and the strengths it has there, float64 (N,)."""
    whether = uniforms(states_N, len(OPERATIONS), WHETHER_STREAM).numpy().T
    numbers = uniforms(states_N, len(STRENGTHS), STRENGTH_STREAM).numpy().T
    falls = {name: row < probability(config, name) for name, row in zip(OPERATIONS, whether, strict=True)}
    return falls, _strengths(config, dict(zip(STRENGTHS, numbers, strict=True)))


def warp_matrices(falls: dict[str, np.ndarray], strengths: dict[str, np.ndarray], height: int, width: int) -> np.ndarray:
    """float64 (N, 2, 3): from a pixel of the result to its place in the original, (x, y) in pixels from the middle.

    The content is cropped, scaled, sheared, turned (counterclockwise for positive degrees) and moved, in this order.
    """

    def used(name: str, neutral: float) -> np.ndarray:
        return np.where(falls[name.partition("_")[0]], strengths[name], neutral)

    def matrices(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
        return np.stack([np.stack([a, b], -1), np.stack([c, d], -1)], -2)

    angle = np.radians(used("rotate", 0.0))
    ones, zeros = np.ones_like(angle), np.zeros_like(angle)
    turned_back = matrices(np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle))
    shear_x, shear_y = np.tan(np.radians(used("shear_x", 0.0))), np.tan(np.radians(used("shear_y", 0.0)))
    # One shear after the other: together in one matrix they would have no inverse at 45 degrees each.
    sheared_back = matrices(ones, zeros, -shear_y, ones) @ matrices(ones, -shear_x, zeros, ones)
    area, aspect = used("crop_area", 1.0), used("crop_aspect", 1.0)
    sides = np.minimum(1.0, np.sqrt(np.stack([area * aspect, area / aspect], -1)))  # shares of width and height
    free = (1 - sides) / 2 * np.stack([used("crop_x", 0.0), used("crop_y", 0.0)], -1)
    size = np.array([width, height], np.float64)
    linear = sides[:, :, None] * (sheared_back @ turned_back) / used("scale", 1.0)[:, None, None]
    move = np.stack([used("translate_x", 0.0), used("translate_y", 0.0)], -1) * size
    offset = free * size - (linear @ move[:, :, None])[:, :, 0]
    return np.concatenate([linear, offset[:, :, None]], 2)


def _on_colour(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The operation on red, green and blue, alpha left as it is."""

    def applied(x_NCHW: Tensor, *numbers: Tensor) -> Tensor:
        if x_NCHW.shape[1] < 4:
            return operation(x_NCHW, *numbers)
        return torch.cat([operation(x_NCHW[:, :3].contiguous(), *numbers), x_NCHW[:, 3:]], 1)

    return applied


def _on(x_NCHW: Tensor, which_N: np.ndarray, operation: Callable[..., Tensor], *numbers: np.ndarray | Tensor) -> None:
    """Replace the images that ``which_N`` names by ``operation(images, *their numbers)``."""
    rows = torch.from_numpy(np.flatnonzero(which_N))
    if len(rows):
        place = rows.to(x_NCHW.device)
        own = [torch.as_tensor(every)[rows] for every in numbers]
        own = [(every.float() if every.is_floating_point() else every).to(x_NCHW.device) for every in own]
        x_NCHW[place] = operation(x_NCHW[place], *own)


def _rgb_of_hsv(x_NCHW: Tensor) -> Tensor:
    from kornia.color import hsv_to_rgb

    return hsv_to_rgb(x_NCHW * x_NCHW.new_tensor([TURN, 1, 1])[:, None, None])


def _hsv_of_rgb(x_NCHW: Tensor) -> Tensor:
    from kornia.color import rgb_to_hsv

    return rgb_to_hsv(x_NCHW) / x_NCHW.new_tensor([TURN, 1, 1])[:, None, None]


@torch.no_grad()
def augmented(x_NCHW: Tensor, keys_N: np.ndarray, copies_N: np.ndarray, *, config: AugmentConfig, seed: int, mode: str) -> Tensor:
    """Variations of images under the policy, on their device: uint8 in, uint8 out; float in [0, 1] likewise; a new tensor.

    ``keys_N`` (uint64) name the images, ``copies_N`` (whole numbers) the variation of each. An image that no operation falls on
    comes back as it was, to the bit. Raises ValueError where ``mode`` (L, RGB, RGBA, HSV) and channels do not agree.
    """
    if CHANNELS.get(mode) != x_NCHW.shape[1]:
        raise ValueError(f"images of {x_NCHW.shape[1]} channels are not of mode {mode!r}: modes are {CHANNELS}")
    if not len(x_NCHW) == len(keys_N) == len(copies_N):
        raise ValueError(f"{len(x_NCHW)} images, {len(keys_N)} keys, {len(copies_N)} copy numbers: give one of each per image")
    states_N = image_states(seed, keys_N, copies_N)
    falls, strength = draw(config, states_N)
    x = x_NCHW.float() / 255 if x_NCHW.dtype == torch.uint8 else x_NCHW.float().clone()
    x = x.contiguous()
    _on(x, falls["flip"], lambda x: x.flip(3))
    _on(x, falls["vertical_flip"], lambda x: x.flip(2))
    h, w = x.shape[2:]
    warped = np.any([falls[name] for name in WARPS], 0)
    touched = np.any([falls[name] for name in OPERATIONS if name not in FLIPS], 0)  # a flip moves pixels and needs no colours
    if mode == "HSV":
        _on(x, touched, _rgb_of_hsv)
    _on(x, warped, lambda x, m: operations.warp(x, m, config.fill), warp_matrices(falls, strength, h, w))
    for name in ("brightness", "contrast", "saturation", "hue", "gamma"):
        _on(x, falls[name], _on_colour(getattr(operations, name)), strength[name])
    _on(x, falls["grey"], _on_colour(operations.grey))
    radius = max(1, int(np.ceil(BLUR_REACH * config.blur_sigma_pixels)))  # the policy's, not the batch's: neighbours do not count
    _on(x, falls["blur"], lambda x, sigma: operations.blur(x, sigma, radius), strength["blur"])
    _on(x, falls["noise"], _on_colour(operations.noise), strength["noise"], states_N)
    _on(x, falls["jpeg"], _on_colour(jpeg), strength["jpeg"])
    _on(x, falls["cutout"], operations.cutout, *(strength[f"cutout_{name}"] for name in ("area", "x", "y")))
    if mode == "HSV":
        _on(x, touched, _hsv_of_rgb)
    return (x * 255).round().clamp(0, 255).to(torch.uint8) if x_NCHW.dtype == torch.uint8 else x


@dataclass(frozen=True)
class OnTheFly:
    """The policy for a training's own images: ``keys`` (uint64) in the order of their shards, ``mode`` of the images."""

    config: AugmentConfig
    keys: np.ndarray
    mode: str

    def __call__(self, x_NHWC: Tensor, rows_N: np.ndarray, epochs_N: np.ndarray, seed: int) -> Tensor:
        """uint8 (N, H, W, C) of these rows, each the copy whose number is the epoch it is seen in."""
        x_NCHW, keys_N = x_NHWC.permute(0, 3, 1, 2), self.keys[rows_N]
        changed = augmented(x_NCHW, keys_N, epochs_N, config=self.config, seed=seed, mode=self.mode)
        return changed.permute(0, 2, 3, 1).contiguous()

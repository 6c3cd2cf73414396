"""What one asks of a trained model beside samples: ways between images and along latents. D latents, S steps."""

from __future__ import annotations

import base64
import binascii
import difflib
import io
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vae.artefact import Generator
from vae.decode import RejectedError, Rules, pixels
from vae.pictures import pictures

LIGHT = 128  # of 255: what of a mask is white


def between(a_D: Tensor, b_D: Tensor, steps: int) -> Tensor:
    """Points from a to b along the great circle, lengths interpolated: stays where the prior has its mass (White 2016)."""
    t, length_a, length_b = torch.linspace(0, 1, steps)[:, None], a_D.norm(), b_D.norm()
    if min(length_a, length_b) < 1e-6:
        return a_D + t * (b_D - a_D)
    unit_a, unit_b = a_D / length_a, b_D / length_b
    angle = torch.acos(torch.dot(unit_a, unit_b).clamp(-1, 1))
    if torch.sin(angle) < 1e-4:  # the same or the opposite direction: no circle, or too many
        return a_D + t * (b_D - a_D)
    direction = (torch.sin((1 - t) * angle) * unit_a + torch.sin(t * angle) * unit_b) / torch.sin(angle)
    return direction * ((1 - t) * length_a + t * length_b)


def interpolation(a_D: Tensor, b_D: Tensor, steps: int, linear: bool) -> Tensor:
    """Latents (S, D) from a to b, both included: along the great circle, or straight."""
    return a_D + torch.linspace(0, 1, steps)[:, None] * (b_D - a_D) if linear else between(a_D, b_D, steps)


def traversal(z_D: Tensor, dimensions: list[int], low_D: Tensor, high_D: Tensor, steps: int) -> Tensor:
    """Latents (len(dimensions) * S, D): one dimension after the other from low to high, the others as in ``z_D``."""
    z_ND = z_D.repeat(len(dimensions) * steps, 1)
    for row, dimension in enumerate(dimensions):
        z_ND[row * steps : (row + 1) * steps, dimension] = torch.linspace(
            float(low_D[dimension]), float(high_D[dimension]), steps
        )
    return z_ND


def class_number(label: str, generator: Generator) -> int:
    """The number that the model has for a label; ValueError with those it knows."""
    known = generator.contract["labels"] if generator.config.classes else []
    if label not in known:
        close = difflib.get_close_matches(label, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known) or 'none: the model has no classes'}"
        raise ValueError(f"unknown label {label!r}: {hint}")
    return known.index(label)


def rules_of(generator: Generator) -> Rules:
    """How the model's training made pixels of files; ValueError where its artefact does not say."""
    told = generator.contract.get("rules")
    if told is None:
        raise ValueError("the model does not say how files become its pixels, an older commit made it: train it anew")
    return Rules.of(told)


def _read(content: bytes, rules: Rules) -> np.ndarray:
    try:
        return pixels(content, rules)
    except RejectedError as error:
        raise ValueError(f"{error.reason} ({error.detail})") from None


def pixels_of(content: bytes, generator: Generator) -> np.ndarray:
    """A picture's file as the model takes it (H, W, C), uint8; ValueError with the reason where it is none."""
    return _read(content, rules_of(generator))


def mask_of(content: bytes, generator: Generator) -> np.ndarray:
    """Where a mask's file is light (H, W), bool, laid over pictures as the model takes them; ValueError as of a picture."""
    return _read(content, replace(rules_of(generator), mode="L", look="plain"))[..., 0] >= LIGHT


def from_base64(text: str, most_bytes: int) -> bytes:
    """What a base64 text holds; ValueError where it is none, or holds more than ``most_bytes``."""
    if len(text) > 4 * -(-most_bytes // 3):
        raise ValueError(f"the picture has more than {most_bytes} bytes")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the picture is no base64 text") from None


def to_base64_png(image_HWC: np.ndarray, mode: str) -> str:
    """An image as a screen shows it, as the base64 text of a PNG."""
    buffer = io.BytesIO()
    pictures(image_HWC[None], mode)[0].save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()

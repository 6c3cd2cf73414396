"""Frames between frames: along the latents, with what reconstructions lose carried over. N frames, D latents, H, W, C as everywhere.

A frame at the share t of the way from a to b is g((1 - t) z_a + t z_b) + (1 - t) r_a + t r_b, where z are posterior means, g the
decoder and r = x - g(z) what the model cannot draw of a frame. So new frames agree with the given ones at both ends, and what
stands still stays sharp. Neighbours' latents are near, so the way is straight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vae.artefact import Generator


@dataclass(frozen=True)
class Ways:
    """New frames (F, H, W, C), uint8: as the model alone draws them, and with what reconstructions lose carried over; and the
    reconstructions (N, H, W, C) of the given ones.
    """

    redrawn_FHWC: np.ndarray
    carried_FHWC: np.ndarray
    reconstructed_NHWC: np.ndarray


def ways(
    generator: Generator,
    images_NHWC: np.ndarray,
    before_F: Tensor,
    after_F: Tensor,
    share_F: Tensor,
    label_N: Tensor | None = None,
) -> Ways:
    """The frame at the share of the way from image ``before`` to image ``after``, for each of F."""
    z_ND, _ = generator.encode(images_NHWC, label_N)
    reconstructed_NHWC = generator.decode(z_ND, label_N)
    z_FD = z_ND[before_F] + share_F[:, None] * (z_ND[after_F] - z_ND[before_F])
    redrawn_FHWC = generator.decode(z_FD, None if label_N is None else label_N[before_F])
    lost_NHWC = images_NHWC.astype(np.float32) - reconstructed_NHWC
    before, after, share = before_F.numpy(), after_F.numpy(), share_F.numpy()[:, None, None, None]
    lost_FHWC = lost_NHWC[before] + share * (lost_NHWC[after] - lost_NHWC[before])
    return Ways(redrawn_FHWC, (redrawn_FHWC + lost_FHWC).round().clip(0, 255).astype(np.uint8), reconstructed_NHWC)


def inbetween(
    generator: Generator, images_NHWC: np.ndarray, frames: int, label_N: Tensor | None = None, *, redraw: bool = False
) -> np.ndarray:
    """The film (N, H, W, C), uint8, with ``frames`` new ones between each two: ((N - 1) * (frames + 1) + 1, H, W, C).

    The given ones are kept as they are. With ``redraw`` all are as the model draws them, and nothing is carried over.
    """
    before_F = torch.arange(len(images_NHWC) - 1).repeat_interleave(frames)
    share_F = (torch.arange(1, frames + 1) / (frames + 1)).repeat(len(images_NHWC) - 1)
    found, steps = ways(generator, images_NHWC, before_F, before_F + 1, share_F, label_N), frames + 1
    film = np.empty(((len(images_NHWC) - 1) * steps + 1, *images_NHWC.shape[1:]), np.uint8)
    film[::steps] = found.reconstructed_NHWC if redraw else images_NHWC
    film[np.arange(len(film)) % steps > 0] = found.redrawn_FHWC if redraw else found.carried_FHWC
    return film

"""Frames between frames: along the latents, with what reconstructions lose carried over. N frames, D latents, H, W, C as everywhere.

A frame at the share t of the way from a to b is g((1 - t) z_a + t z_b) + (1 - t) r_a + t r_b, where z are posterior means, g the
decoder and r = x - g(z) what the model cannot draw of a frame. So new frames agree with the given ones at both ends, and what
stands still stays sharp. Neighbours' latents are near, so the way is straight.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vae.artefact import Generator


def inbetween(
    generator: Generator, images_NHWC: np.ndarray, frames: int, label_N: Tensor | None = None, *, redraw: bool = False
) -> np.ndarray:
    """The film (N, H, W, C), uint8, with ``frames`` new ones between each two: ((N - 1) * (frames + 1) + 1, H, W, C).

    The given ones are kept as they are. With ``redraw`` all are as the model draws them, and nothing is carried over.
    """
    steps = frames + 1
    z_ND, _ = generator.encode(images_NHWC, label_N)
    # The way at every place: its frame before, that after, and the share of the way.
    place_F = torch.arange((len(z_ND) - 1) * steps + 1)
    before_F, share_F = place_F // steps, (place_F % steps) / steps
    after_F = (before_F + 1).clamp_max(len(z_ND) - 1)
    way_FD = z_ND[before_F] + share_F[:, None] * (z_ND[after_F] - z_ND[before_F])
    labels = None if label_N is None else label_N[before_F]
    drawn_FHWC = generator.decode(way_FD, labels)
    if redraw:
        return drawn_FHWC
    lost_NHWC = images_NHWC.astype(np.float32) - drawn_FHWC[::steps]
    share_F111 = share_F.numpy()[:, None, None, None]
    before, after = before_F.numpy(), after_F.numpy()
    lost_FHWC = lost_NHWC[before] + share_F111 * (lost_NHWC[after] - lost_NHWC[before])
    return (drawn_FHWC + lost_FHWC).round().clip(0, 255).astype(np.uint8)

"""Curves of rate against quality: of ours, of JPEG, and how many bits lie between them. N images, all uint8 (N, H, W, C)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy.interpolate import PchipInterpolator

from vae.metrics.terms import mean_psnr_db
from vae.pictures import pictures

QUALITIES = (2, 5, 8, 12, 18, 25, 35, 50, 65, 80, 90, 95)
SUBSAMPLINGS = {"jpeg": 2, "jpeg 4:4:4": 0}  # of colour: half in both directions, or none
LOSSLESS: dict[str, dict[str, Any]] = {"png": {"optimize": True}, "webp": {"lossless": True, "quality": 100, "method": 6}}
SCAN, END = b"\xff\xda", 2  # the marker before the coded picture, and the length of the one after it


@dataclass(frozen=True)
class Point:
    """One setting of a coder: bytes of a picture, of which ``payload_bytes`` are not headers and tables; PSNR in dB."""

    setting: float
    payload_bytes: float
    file_bytes: float
    psnr_db: float


def jpeg_payload_bytes(content: bytes) -> int:
    """The bytes of a JPEG's coded picture: what comes after the header of its scan. Baseline files have one."""
    start = content.index(SCAN) + 2
    return len(content) - start - int.from_bytes(content[start : start + 2], "big") - END


def jpeg(images_NHWC: np.ndarray, mode: str, subsampling: int) -> list[Point]:
    """Each picture a file with Huffman tables of its own; at each quality the means over the pictures."""
    found = []
    for quality in QUALITIES:
        sizes, payloads, decoded = [], [], []
        for picture in pictures(images_NHWC, mode):
            buffer = io.BytesIO()
            picture.save(buffer, format="JPEG", quality=quality, optimize=True, **_of(picture, subsampling))
            sizes.append(len(buffer.getvalue()))
            payloads.append(jpeg_payload_bytes(buffer.getvalue()))
            decoded.append(np.asarray(Image.open(buffer)).reshape(images_NHWC.shape[1:]))
        psnr = mean_psnr_db(np.stack(decoded), images_NHWC)
        found.append(Point(quality, float(np.mean(payloads)), float(np.mean(sizes)), psnr))
    return found


def jpegs(images_NHWC: np.ndarray, mode: str) -> dict[str, list[Point]]:
    """The curve of JPEG as it is usual, and where there is colour that of colour at full resolution."""
    return {name: jpeg(images_NHWC, mode, how) for name, how in SUBSAMPLINGS.items() if mode == "RGB" or name == "jpeg"}


def _of(picture: Image.Image, subsampling: int) -> dict[str, int]:
    return {} if picture.mode == "L" else {"subsampling": subsampling}


def lossless_bytes(images_NHWC: np.ndarray, mode: str) -> dict[str, float]:
    """The mean size of a picture as PNG and as WebP, a file each, as small as Pillow can make them."""
    found = {}
    for name, how in LOSSLESS.items():
        sizes = []
        for picture in pictures(images_NHWC, mode):
            buffer = io.BytesIO()
            picture.save(buffer, format=name.upper(), **how)
            sizes.append(len(buffer.getvalue()))
        found[name] = float(np.mean(sizes))
    return found


def bd_rate(rates: list[float], psnrs_db: list[float], other_rates: list[float], other_psnrs_db: list[float]) -> float | None:
    """How many per cent the first coder's files are larger than the other's at equal PSNR; None where they have no PSNR in common.

    The mean difference of log rate over the common range of PSNR (Bjontegaard, VCEG-M33, 2001), by monotone cubic interpolation
    in the place of one cubic through all points (which swings between them).
    """
    curves = [_curve(rates, psnrs_db), _curve(other_rates, other_psnrs_db)]
    if any(curve is None for curve in curves):
        return None
    ours, theirs = (curve for curve in curves if curve is not None)
    low, high = max(ours.x[0], theirs.x[0]), min(ours.x[-1], theirs.x[-1])
    if low >= high:
        return None
    difference = (ours.integrate(low, high) - theirs.integrate(low, high)) / (high - low)
    return 100 * (float(np.exp(difference)) - 1)


def _curve(rates: list[float], psnrs_db: list[float]) -> PchipInterpolator | None:
    """log rate as a function of PSNR, through the points that no other one beats in both; one of no bytes (a collapsed model) is none."""
    kept: list[tuple[float, float]] = []
    for psnr, rate in sorted(zip(psnrs_db, rates, strict=True), reverse=True):
        if np.isfinite(psnr) and rate > 0 and (not kept or (rate < kept[-1][1] and psnr < kept[-1][0])):
            kept.append((psnr, rate))
    if len(kept) < 2:
        return None
    x, y = zip(*kept[::-1], strict=True)
    return PchipInterpolator(x, np.log(y))

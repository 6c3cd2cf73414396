"""How small pictures become: ``python -m benchmarks.codec`` writes docs/results/codec.json, and a curve and pictures for each set.

``mnist``: the handwritten digits at 28x28 pixels, ``sprites``: rendered shapes in colour at 32x32; neither was ever a JPEG. A model is
trained by recipes/codec.yaml for each beta, which is the sweep. Of 1,000 test pictures: bytes by every step of quantisation beside JPEG at
every quality, without headers and tables (payload), as whole files of a picture each, and as mosaics of 100; and lossless, beside
PNG and WebP likewise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import recipe, tables
from benchmarks.case import shards, unpacked
from benchmarks.rows import RESULTS, measure
from pipeline.codec_scores import DEVIATIONS, point
from pipeline.plots import draw_rate_distortion
from pipeline.rate_distortion import Point, bd_rate, jpegs, lossless_bytes
from pipeline.sources.sprites import draw_factors, render
from pipeline.train import Choice, configs
from vae.artefact import Generator
from vae.codec.tables import Tables
from vae.compress import compress, compress_lossless, decompress
from vae.pictures import grid, save_png
from vae.samplers import fit_prior
from vae.trainer import fit

BETAS = {"mnist": (1.0, 0.1, 0.01), "sprites": (1.0, 0.1)}
JUDGED, ALONE, SIDE, SPRITES, VALIDATED, REPORT = 1000, 100, 10, 20_000, 500, 20_000
MODES = {"mnist": "L", "sprites": "RGB"}
SHOWN, SHOWN_DEVIATIONS = 12, (3.5, 10.0)


def _images(data: str) -> tuple[np.ndarray, np.ndarray]:
    """Training and test images, the latter in an order of their own."""
    rng = np.random.default_rng(0)
    if data == "sprites":
        images = render(draw_factors(SPRITES, 0, colour=True), 32, colour=True)
        return images[: -JUDGED - VALIDATED], images[-JUDGED - VALIDATED :]
    names, images = unpacked(data)
    training = np.array([name.startswith("train") for name in names])
    return images[training], images[~training][rng.permutation(int((~training).sum()))]


def _trained(data: str, beta: float, training: np.ndarray, validation: np.ndarray, folder: Path) -> Generator:
    values = recipe.values("codec")
    model_config, config = configs(values, training.shape[1:], Choice(beta, values.train.latent_dim, values.fit), classes=0)
    config = replace(config, validate_every_images=REPORT)

    def look(told: dict[str, float], _: Any) -> None:
        print(data, beta, told["images"], round(told["val_elbo_nats"], 1), flush=True)

    sets = shards(folder / "train", training), shards(folder / "val", validation)
    model = fit(model_config, config, *sets, on_report=look).model
    prior = fit_prior(model, training[:64], values.fit.prior_config, 0)  # N(0, I), which nothing here draws of
    spread = training[:: max(1, len(training) // values.train.coding_images)]
    return Generator(model, model_config, prior, {"mode": MODES[data]}, tables=Tables.fit(model, spread))


def _mosaics(images_NHWC: np.ndarray) -> np.ndarray:
    """Pictures of 10 by 10 pictures."""
    _, h, w, c = images_NHWC.shape
    return images_NHWC.reshape(-1, SIDE, SIDE, h, w, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, SIDE * h, SIDE * w, c)


def _row(data: str, folder: Path) -> dict[str, Any]:
    training, test = _images(data)
    images, mode = test[:JUDGED], MODES[data]
    curves, models, lossless = dict[str, list[Point]](), dict[str, Generator](), dict[str, Any]()
    for beta in BETAS[data]:
        begun = time.monotonic()
        name = f"beta {beta:g}"
        models[name] = _trained(data, beta, training, test[JUDGED : JUDGED + VALIDATED], folder / name)
        seconds = time.monotonic() - begun
        curves[name] = _curve(models[name], images, len(images))
        lossless[name] = {"trained_seconds": round(seconds), **_lossless(models[name], images)}
    ours, theirs = _front(curves), jpegs(images, mode)
    draw_rate_distortion({"ours": ours} | theirs, RESULTS / f"codec-{data}-curve.png")
    first = models[f"beta {BETAS[data][0]:g}"]
    shown = [images[:SHOWN], *(compress(first, images[:SHOWN], each).images_NHWC for each in SHOWN_DEVIATIONS)]
    save_png(grid(np.concatenate(shown), columns=SHOWN, mode=mode), RESULTS / f"codec-{data}.png")
    others = {name: {"alone_bytes": size} for name, size in lossless_bytes(images, mode).items()}
    for name, size in lossless_bytes(_mosaics(images), mode).items():
        others[name]["mosaic_bytes"] = size / SIDE**2
    alone = _front({name: _curve(model, images[:ALONE], 1) for name, model in models.items()})
    mosaics = _front({name: _curve(model, images, SIDE**2, _mosaics) for name, model in models.items()})
    return {
        "images": JUDGED,
        "lossy": {name: [asdict(point) for point in points] for name, points in (curves | theirs).items()},
        "bd_rate_percent": {
            "payload": _against(ours, theirs, "payload_bytes"),
            "files": _against(alone, jpegs(images[:ALONE], mode), "file_bytes"),
            "mosaics": _against(mosaics, jpegs(_mosaics(images), mode), "file_bytes"),
        },
        "common_psnr_db": _common(ours, theirs),
        "lossless": lossless,
        "other_lossless": others,
    }


def _curve(
    generator: Generator, images: np.ndarray, at_once: int, view: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> list[Point]:
    """Of files of so many pictures each; with ``view`` the judged pictures are what it makes of them."""
    found = []
    for deviations in DEVIATIONS:
        files = [compress(generator, images[i : i + at_once], deviations) for i in range(0, len(images), at_once)]
        seen = [replace(each, images_NHWC=view(each.images_NHWC)) for each in files]
        found.append(point(deviations, seen, view(images)))
    return found


def _lossless(generator: Generator, images: np.ndarray) -> dict[str, Any]:
    begun = time.monotonic()
    found = compress_lossless(generator, images)
    middle = time.monotonic()
    assert np.array_equal(decompress(generator, found.container), images)
    alone = [len(compress_lossless(generator, images[i : i + 1]).container.pack()) for i in range(ALONE)]
    return {
        "file_bytes": len(found.container.pack()) / len(images),
        "bound_bytes": -float(generator.bound(images).mean()) / np.log(2) / 8,
        "alone_bytes": float(np.mean(alone)),
        "seconds": round(middle - begun, 1),
        "seconds_back": round(time.monotonic() - middle, 1),
    }


def _front(curves: dict[str, list[Point]]) -> list[Point]:
    """The points that none of all the curves beats in both."""
    points = [point for each in curves.values() for point in each]
    return sorted(
        (p for p in points if not any(o.psnr_db >= p.psnr_db and o.payload_bytes < p.payload_bytes for o in points)),
        key=lambda point: point.payload_bytes,
    )


def _against(ours: list[Point], theirs: dict[str, list[Point]], size: str) -> dict[str, float | None]:
    def axes(points: list[Point]) -> tuple[list[float], list[float]]:
        return [getattr(point, size) for point in points], [point.psnr_db for point in points]

    return {name: bd_rate(*axes(ours), *axes(points)) for name, points in theirs.items()}


def _common(ours: list[Point], theirs: dict[str, list[Point]]) -> dict[str, list[float]]:
    """The range of PSNR that both have."""
    found = {}
    for name, points in theirs.items():
        both = [[point.psnr_db for point in each] for each in (ours, points)]
        found[name] = [max(map(min, both)), min(map(max, both))]
    return found


ROWS = {data: partial(_row, data) for data in BETAS}

if __name__ == "__main__":
    measure("codec", ROWS, __doc__)
    tables.write()

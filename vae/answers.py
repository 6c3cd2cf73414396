"""What a model answers to a request: one set of operations, whoever asks (MLflow's pyfunc, the service). H, W, C, D as everywhere.

A request is of rows, column by column; a value that is missing is None:

op           columns of a row                       what comes back
sample       n, seed, and if wanted label           uint8 images (sum of n, H, W, C)
reconstruct  image                                  uint8 images (rows, H, W, C)
denoise      image; setting samples                 uint8 images (rows, H, W, C), of a model that was trained for it
restyle      image, move and make, or one of them   uint8 images (rows, H, W, C): as scale=+0.1, x=-0.2 says; of the label to make
inpaint      image, mask, and if wanted seed        uint8 images (rows, H, W, C), drawn where the mask's picture is white
interpolate  image, other; settings steps, linear   uint8 images (rows * steps, H, W, C)
traverse     image; settings steps, extent          uint8 images (rows * D * steps, H, W, C)
decode       latents: D numbers                     uint8 images (rows, H, W, C)
encode       image                                  float32 latents (rows, D)
score        image, and if wanted seed              float64 bounds (rows,), in nats: low ones are unlike the training images
nearest      image; setting count                   fields name and distance (rows, count): the nearest training images

Pictures come in as base64 texts of PNG, JPEG, ... files of any size. A class-conditional model needs a label in each row, but for
``sample``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vae.artefact import Generator
from vae.denoise import SAMPLES, averaged
from vae.inpaint import inpainted
from vae.restyle import parsed_moves, restyled
from vae.use import class_number, from_base64, interpolation, mask_of, pixels_of, to_base64_png, traversal

MOST_IMAGES = 100_000  # of one request
MOST_NEAREST = 100  # to one image
MOST_BYTES = 32 * 2**20  # of a picture's file
MOST_INPAINTED = 16  # images of a request: each takes hundreds of passes
NO_IMAGES = ("encode", "score", "nearest")  # operations that answer by numbers
Columns = Mapping[str, Sequence[Any]]
Read = Callable[[bytes, Generator], np.ndarray]


@dataclass(frozen=True)
class Settings:
    """What holds for all rows of a request."""

    temperature: float = 1.0
    steps: int = 9
    extent: float = 3.0  # standard deviations of the prior
    linear: bool = False
    count: int = 5
    samples: int = SAMPLES


def answer(generator: Generator, op: str, columns: Columns, settings: Settings) -> np.ndarray:
    """What ``op`` makes of each row; ValueError in a sentence for whatever cannot be done."""
    if op not in OPERATIONS:
        close = difflib.get_close_matches(op, OPERATIONS, n=1)
        raise ValueError(
            f"unknown op {op!r}: " + (f"did you mean {close[0]!r}?" if close else f"known are {', '.join(OPERATIONS)}")
        )
    if not any(len(column) for column in columns.values()):
        raise ValueError("the request has no rows")
    return OPERATIONS[op](generator, columns, settings)


def as_rows(found: np.ndarray) -> list[Any]:
    """Numbers as JSON writes them; where an answer has fields, each a dict of them."""
    if not found.dtype.names:
        return found.tolist()
    return [[dict(zip(found.dtype.names, each, strict=True)) for each in row] for row in found.tolist()]


def as_texts(images_NHWC: np.ndarray, generator: Generator) -> list[str]:
    """Each image as a screen shows it, as the base64 text of a PNG."""
    return [to_base64_png(image, generator.contract["mode"]) for image in images_NHWC]


def _column(columns: Columns, name: str, op: str) -> Sequence[Any]:
    if name not in columns or any(value is None for value in columns[name]):
        raise ValueError(f"{op} needs a column {name!r} with a value in every row")
    return columns[name]


def _images(generator: Generator, columns: Columns, name: str, op: str, read: Read = pixels_of) -> np.ndarray:
    found = []
    for number, text in enumerate(_column(columns, name, op)):
        try:
            found.append(read(from_base64(str(text), MOST_BYTES), generator))
        except ValueError as error:
            raise ValueError(f"{name} of row {number}: {error}") from None
    return np.stack(found)


def _seed(columns: Columns) -> int:
    """The one of the request: the first that is said, or 0."""
    return next((int(seed) for seed in columns.get("seed", ()) if seed is not None), 0)


def _labels(generator: Generator, columns: Columns, op: str) -> torch.Tensor | None:
    if not generator.config.classes:
        return None
    return torch.tensor([class_number(str(label), generator) for label in _column(columns, "label", op)])


def _sample(generator: Generator, columns: Columns, settings: Settings) -> np.ndarray:
    if not 0 <= settings.temperature <= 100:
        raise ValueError(f"temperature {settings.temperature} is not within 0 (the mean) and 100")
    counts = [int(n) for n in _column(columns, "n", "sample")]
    if min(counts) < 1 or sum(counts) > MOST_IMAGES:
        raise ValueError(f"n must be at least 1 in every row and at most {MOST_IMAGES} in all, got {counts[:10]}")
    seeds = [int(seed) for seed in _column(columns, "seed", "sample")]
    labels = columns.get("label", [None] * len(counts))
    found = []
    for n, seed, label in zip(counts, seeds, labels, strict=True):
        label_N = None if label is None else torch.full((n,), class_number(str(label), generator))
        found.append(generator.sample(n, seed, settings.temperature, label_N))
    return np.concatenate(found)


def _reconstruct(generator: Generator, columns: Columns, settings: Settings) -> np.ndarray:
    return generator.reconstruct(_images(generator, columns, "image", "reconstruct"), _labels(generator, columns, "reconstruct"))


def _denoise(generator: Generator, columns: Columns, settings: Settings) -> np.ndarray:
    images, label_N = _images(generator, columns, "image", "denoise"), _labels(generator, columns, "denoise")
    return averaged(generator, images, settings.samples, label_N)


def _restyle(generator: Generator, columns: Columns, settings: Settings) -> np.ndarray:
    images, label_N = _images(generator, columns, "image", "restyle"), _labels(generator, columns, "restyle")
    nothing = [None] * len(images)
    moves = [() if text is None else tuple(str(text).split(",")) for text in columns.get("move", nothing)]
    wanted, found = list(zip(moves, columns.get("make", nothing), strict=True)), np.empty_like(images)
    for move, make in dict.fromkeys(wanted):
        if not move and make is None:
            raise ValueError("restyle needs a column 'move' (as scale=+0.1) or 'make' (a label) with a value in every row")
        rows = [row for row, each in enumerate(wanted) if each == (move, make)]
        own = None if label_N is None else label_N[rows]
        found[rows] = restyled(generator, images[rows], parsed_moves(list(move)), make, own)
    return found


def _inpaint(generator: Generator, columns: Columns, settings: Settings) -> np.ndarray:
    images, label_N = _images(generator, columns, "image", "inpaint"), _labels(generator, columns, "inpaint")
    if len(images) > MOST_INPAINTED:
        raise ValueError(f"inpaint takes at most {MOST_INPAINTED} images, got {len(images)}")
    masks = _images(generator, columns, "mask", "inpaint", mask_of)
    return inpainted(generator, images, masks, label_N, _seed(columns))


def _encode(generator: Generator, columns: Columns, settings: Settings) -> np.ndarray:
    return generator.encode(_images(generator, columns, "image", "encode"), _labels(generator, columns, "encode"))[0].numpy()


def _score(generator: Generator, columns: Columns, settings: Settings) -> np.ndarray:
    images, label_N = _images(generator, columns, "image", "score"), _labels(generator, columns, "score")
    return generator.bound(images, label_N, _seed(columns)).numpy()


def _nearest(generator: Generator, columns: Columns, settings: Settings) -> np.ndarray:
    if not 1 <= settings.count <= MOST_NEAREST:
        raise ValueError(f"count is {settings.count}: 1 to {MOST_NEAREST}")
    images = _images(generator, columns, "image", "nearest")
    return generator.nearest(images, _labels(generator, columns, "nearest"), settings.count)


def _decode(generator: Generator, columns: Columns, settings: Settings) -> np.ndarray:
    latents, wanted = _column(columns, "latents", "decode"), generator.model.latent_dim
    if any(len(each) != wanted for each in latents):
        raise ValueError(f"latents of a row are {wanted} numbers, got {[len(each) for each in latents][:10]}")
    z_ND = torch.tensor([[float(value) for value in each] for each in latents], dtype=torch.float64).float()
    if not z_ND.isfinite().all():
        raise ValueError("latents must be finite numbers")
    return generator.decode(z_ND, _labels(generator, columns, "decode"))


def _steps(settings: Settings, sets: int) -> int:
    if settings.steps < 2:
        raise ValueError(f"steps is {settings.steps}: 2 at least")
    if settings.steps * sets > MOST_IMAGES:
        raise ValueError(f"a request is of 1 to {MOST_IMAGES} images in all, this one of {settings.steps * sets}")
    return settings.steps


def _interpolate(generator: Generator, columns: Columns, settings: Settings) -> np.ndarray:
    label_N = _labels(generator, columns, "interpolate")
    steps = _steps(settings, len(_column(columns, "image", "interpolate")))
    (first_ND, _), (second_ND, _) = (
        generator.encode(_images(generator, columns, name, "interpolate"), label_N) for name in ("image", "other")
    )
    pairs = zip(first_ND, second_ND, strict=True)
    z_ND = torch.cat([interpolation(a_D, b_D, steps, settings.linear) for a_D, b_D in pairs])
    return generator.decode(z_ND, None if label_N is None else label_N.repeat_interleave(steps))


def _traverse(generator: Generator, columns: Columns, settings: Settings) -> np.ndarray:
    latents, extent = generator.model.latent_dim, settings.extent
    if not 0 < extent <= 100:
        raise ValueError(f"extent is {extent}: more than 0, at most 100 standard deviations of the prior")
    label_N = _labels(generator, columns, "traverse")
    steps = _steps(settings, len(_column(columns, "image", "traverse")) * latents)
    mean_ND, _ = generator.encode(_images(generator, columns, "image", "traverse"), label_N)
    end_D = torch.full((latents,), extent)
    z_ND = torch.cat([traversal(z_D, list(range(latents)), -end_D, end_D, steps) for z_D in mean_ND])
    return generator.decode(z_ND, None if label_N is None else label_N.repeat_interleave(latents * steps))


OPERATIONS = {
    "sample": _sample, "reconstruct": _reconstruct, "interpolate": _interpolate, "traverse": _traverse, "decode": _decode,
    "encode": _encode, "score": _score, "nearest": _nearest, "denoise": _denoise,
    "restyle": _restyle, "inpaint": _inpaint,
}  # fmt: skip

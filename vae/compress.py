"""Pictures to a small file and back, by a trained model. N images, all uint8 (N, H, W, C)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np

from vae.artefact import Generator
from vae.codec import bits_back, lossy
from vae.codec.container import LOSSLESS, LOSSY, Container, pixels_of
from vae.codec.tables import LEAST_STEP, MOST_STEP, STEPS, check_model


class OtherModelError(ValueError):
    """The file was made by another model than the one at hand."""


class OtherPixelsError(ValueError):
    """What came out is not what the file says went in."""


@dataclass(frozen=True)
class Compressed:
    """The file, what the entropy model says its payload should take, and the pictures that it will give."""

    container: Container
    estimated_bits: float
    images_NHWC: np.ndarray


def identity(generator: Generator) -> bytes:
    """8 bytes that differ where the network, its tables or its configuration do."""
    told = hashlib.sha256(json.dumps(asdict(generator.config), sort_keys=True).encode())
    tensors = generator.model.state_dict() | ({} if generator.tables is None else generator.tables.tensors)
    for name in sorted(tensors):
        told.update(name.encode() + tensors[name].cpu().contiguous().numpy().tobytes())
    return told.digest()[:8]


def step_number(deviations: float) -> int:
    """The number of a step that is so many posterior standard deviations wide; ValueError where there is none."""
    number = round(deviations * STEPS) if 0 < deviations < MOST_STEP else 0
    if not LEAST_STEP <= number <= MOST_STEP:
        raise ValueError(f"step is {deviations:g}: {LEAST_STEP / STEPS:g} to {MOST_STEP / STEPS:g} standard deviations")
    return number


def _check(generator: Generator, images_NHWC: np.ndarray) -> None:
    check_model(generator.model)
    if tuple(images_NHWC.shape[1:]) != tuple(generator.config.image_shape):
        raise ValueError(f"images are {images_NHWC.shape[1:]}, the model takes {tuple(generator.config.image_shape)} (H, W, C)")
    if not len(images_NHWC):
        raise ValueError("there is no picture to compress")


def compress(
    generator: Generator, images_NHWC: np.ndarray, deviations: float, called: str = "", names: tuple[str, ...] = ()
) -> Compressed:
    """Pictures as latents on a grid of so many posterior standard deviations; ValueError for a model or pictures that do not go."""
    _check(generator, images_NHWC)
    if generator.tables is None:
        raise ValueError("this model has no tables of its latents: train one with train.coding_images (docs/codec.md)")
    step = step_number(deviations)
    coder = lossy.Coder(generator.model, generator.tables, step)
    coded = coder.encode(images_NHWC)
    found = coder.pictures(coded.value_ND)
    shape = (len(found), *generator.config.image_shape)
    container = Container(LOSSY, step, shape, identity(generator), pixels_of(found), 0, coded.words, called, names)
    return Compressed(container, coded.estimated_bits, found)


def compress_lossless(
    generator: Generator, images_NHWC: np.ndarray, called: str = "", names: tuple[str, ...] = (), lanes: int = 0
) -> Compressed:
    """Pictures to the last bit; ValueError for a model or pictures that do not go. ``lanes``: at once; 0: as suits their number."""
    _check(generator, images_NHWC)
    bits_back.check(generator.model)
    lanes = lanes or bits_back.usual_lanes(generator.model, images_NHWC)
    coded = bits_back.encode(generator.model, images_NHWC, lanes)
    shape = (len(images_NHWC), *generator.config.image_shape)
    container = Container(
        LOSSLESS, lanes, shape, identity(generator), pixels_of(images_NHWC), coded.borrowed, coded.words, called, names
    )
    return Compressed(container, coded.estimated_bits, images_NHWC)


def decompress(generator: Generator, container: Container) -> np.ndarray:
    """The pictures of a file; OtherModelError, OtherPixelsError, or ValueError where the payload is not one."""
    if container.model != identity(generator):
        called = f" ({container.called})" if container.called else ""
        raise OtherModelError(
            f"it was made by model {container.model.hex()}{called}, this is {identity(generator).hex()}: name that one with --model"
        )
    if container.way == LOSSY:
        assert generator.tables is not None  # they are part of the identity
        coder = lossy.Coder(generator.model, generator.tables, container.parameter)
        found = coder.decode(container.words, container.shape[0])
    else:
        found = bits_back.decode(generator.model, container.words, container.borrowed, container.shape, container.parameter)
    if not container.holds(found):
        raise OtherPixelsError("its pixels come out otherwise on this machine")
    return found

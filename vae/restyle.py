"""Pictures with one property changed and the others kept (vae/attributes.py says how latents move). N images."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from vae.artefact import Generator
from vae.use import class_number

_MOVE = re.compile(r"\s*([^=]+?)\s*=\s*([+-]?\d*\.?\d+(?:[eE][+-]?\d+)?)\s*")


def parsed_moves(texts: list[str]) -> dict[str, float]:
    """Factors and by how much, of texts as scale=+0.1; ValueError with every one that is none."""
    told = {text: _MOVE.fullmatch(text) for text in texts}
    if wrong := [text for text, found in told.items() if found is None]:
        raise ValueError("\n".join(f"{text!r} is none: write a factor, =, and by how much, as scale=+0.1" for text in wrong))
    return {found[1]: float(found[2]) for found in told.values() if found is not None}


def makes(generator: Generator) -> list[str]:
    """The labels that a picture can be made to be of."""
    if generator.config.classes:
        return list(generator.contract["labels"])
    return generator.attributes.labels if generator.attributes is not None else []


def restyled(
    generator: Generator, images_NHWC: np.ndarray, by: Mapping[str, float], make: str | None, label_N: Tensor | None = None
) -> np.ndarray:
    """Each uint8 image with its factors changed ``by`` so much, and of the label ``make``; ``label_N``: of which they are now.

    ValueError (of a name, UnknownAttributeError) where the model knows no such property, or the change is too large.
    """
    mean_ND, _ = generator.encode(images_NHWC, label_N)
    if generator.config.classes and make is not None:  # what the latents say stays, what the model is told changes
        label_N, make = torch.full((len(images_NHWC),), class_number(make, generator)), None
    if by or make is not None:
        if generator.attributes is None:
            raise ValueError(
                "this model knows no properties of its images: they came without labels and factors, or train.attribute_steps was 0"
            )
        mean_ND = generator.attributes.moved(mean_ND, by, make)
    return generator.decode(mean_ND, label_N)

"""Models by name: one file and one line each. ``build`` is the only constructor that the rest of the house uses."""

from __future__ import annotations

import difflib

from vae.config import ModelConfig
from vae.likelihood import LIKELIHOODS
from vae.models.base import VAE
from vae.models.classifier_encoder import ClassifierEncoderVAE
from vae.models.conv import ConvVAE
from vae.models.ladder import LadderVAE
from vae.models.resnet import ResnetVAE
from vae.models.vq import VectorQuantisedVAE

MODELS: dict[str, type[VAE]] = {
    "conv": ConvVAE, "resnet": ResnetVAE, "ladder": LadderVAE, "vq": VectorQuantisedVAE, "classifier_encoder": ClassifierEncoderVAE,
}  # fmt: skip


def problem(config: ModelConfig) -> str | None:
    """Why no model can be built from this configuration (with the remedy), or None."""
    for kind, name, known in (("model", config.name, MODELS), ("likelihood", config.likelihood, LIKELIHOODS)):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            return f"unknown {kind} {name!r}: {hint}"
    return LIKELIHOODS[config.likelihood].problem(config.image_shape) or MODELS[config.name].problem(config)


def build(config: ModelConfig) -> VAE:
    """The model of ``config`` with fresh weights from torch's global generator; ValueError where it cannot be built."""
    reason = problem(config)
    if reason:
        raise ValueError(reason)
    return MODELS[config.name](config)

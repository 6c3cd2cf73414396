"""Models by name: one file and one line each. ``build`` is the only constructor that the rest of the house uses."""

from __future__ import annotations

from vae.config import ModelConfig
from vae.likelihood import LIKELIHOODS
from vae.models.conv import ConvVAE

MODELS = {"conv": ConvVAE}


def problem(config: ModelConfig) -> str | None:
    """Why no model can be built from this configuration (with the remedy), or None."""
    if config.name not in MODELS:
        return f"unknown model {config.name!r}: known are {', '.join(MODELS)}"
    if config.likelihood not in LIKELIHOODS:
        return f"unknown likelihood {config.likelihood!r}: known are {', '.join(LIKELIHOODS)}"
    return LIKELIHOODS[config.likelihood].problem(config.image_shape) or MODELS[config.name].problem(config)


def build(config: ModelConfig) -> ConvVAE:
    """The model of ``config`` with fresh weights from torch's global generator; ValueError where it cannot be built."""
    reason = problem(config)
    if reason:
        raise ValueError(reason)
    return MODELS[config.name](config)

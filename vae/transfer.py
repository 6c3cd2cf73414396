"""Beginning from another model's weights: layer by layer, whatever its channels, image size, widths or latents.

A tensor is carried over as it is; resized, where the picture or its channels differ; in part, where both have some of its units; or not
at all, and then it begins anew. Layers that were carried whole may be kept still at first, and learn the slower the farther they are
from the latents (discriminative fine-tuning: Howard and Ruder 2018): near the picture they say what is the same in other pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vae.config import ModelConfig
from vae.extractor import Extractor, ExtractorConfig
from vae.models import build
from vae.models.base import VAE
from vae.models.layout import CHANNELS_IN, CHANNELS_OUT, SIDE_IN, SIDE_OUT, UNITS, Place

Origin = ModelConfig | ExtractorConfig  # what tensors to begin with may be of
WHOLE, RESIZED, PART, NEW, UNUSED = "as it is", "resized", "in part", "anew", "not used"


@dataclass(frozen=True)
class Layer:
    """What became of a tensor; ``name`` is that of the new model, or of the old one where nothing takes it."""

    name: str
    outcome: str
    here: tuple[int, ...]
    there: tuple[int, ...]
    depth: int


@dataclass(frozen=True)
class Carried:
    """All tensors of the new model, what became of each, and of those that were carried whole the depth."""

    tensors: dict[str, Tensor]
    layers: list[Layer]

    @property
    def depths(self) -> dict[str, int]:
        return {layer.name: layer.depth for layer in self.layers if layer.outcome in (WHOLE, RESIZED)}


class NothingToCarryError(ValueError):
    """No tensor of the old model fits the new one."""


def origin(told: Mapping[str, Any]) -> Origin:
    """From what a file says of a model or of an extractor; TypeError or ValueError where it says neither."""
    return ExtractorConfig(**told) if "feature_dim" in told else ModelConfig.of(dict(told))


def layout_of(config: Origin) -> dict[str, Place]:
    """What each of its tensors is for; ValueError where there is no such network."""
    with torch.device("meta"):  # shapes, no numbers
        network = Extractor(config) if isinstance(config, ExtractorConfig) else build(config)
    return network.layout()


def _side(there: int, here: int) -> Tensor:
    """The linear map (here, there) from a row of so many pixels to one of another length."""
    rows = torch.eye(there)[:, None]  # each of the old pixels alone, and what it becomes
    if here < there:
        return F.adaptive_avg_pool1d(rows, here)[:, 0].T
    return F.interpolate(rows, size=here, mode="linear", align_corners=False)[:, 0].T


def _along(kind: str, there: int, here: int) -> Tensor | None:
    """The linear map (here, there) of an axis that counts ``kind``, None where there is none."""
    if kind == SIDE_IN:  # the sum over a grid is to stay what it was
        return _side(there, here) * there / here
    if kind == SIDE_OUT:
        return _side(there, here)
    if kind == CHANNELS_IN:  # what a grey picture excites is to stay what it was
        return torch.full((here, there), 1 / here)
    if kind == CHANNELS_OUT:
        return torch.full((here, there), 1 / there)
    return None


def _fitted(old: Tensor, there: Place, new: Tensor, here: Place) -> tuple[Tensor, str] | None:
    """The new tensor with what the old one says, and the outcome; None where the old one says nothing to it."""
    factors = [[factor for axis in place.axes for factor in axis] for place in (there, here)]
    if [kind for kind, _ in factors[0]] != [kind for kind, _ in factors[1]]:
        return None
    found, sizes, outcome = old.float().reshape([size for _, size in factors[0]]), [], WHOLE
    for axis, ((kind, before), (_, after)) in enumerate(zip(*factors, strict=True)):
        if before == after:
            sizes.append(after)
            continue
        if kind == UNITS:
            sizes.append(min(before, after))
            found, outcome = found.narrow(axis, 0, min(before, after)), PART
            continue
        way = _along(kind, before, after)
        if way is None:
            return None
        found = torch.tensordot(way, found, dims=([1], [axis])).movedim(0, axis)
        sizes.append(after)
        outcome = outcome if outcome == PART else RESIZED
    whole = new.clone().reshape([size for _, size in factors[1]])
    whole[tuple(slice(0, size) for size in sizes)] = found.to(new.dtype)
    return whole.reshape(new.shape), outcome


def carry(model: VAE, old: Mapping[str, Tensor], config: Origin) -> Carried:
    """The tensors that ``model``, new as it is, begins with, given those of a network of ``config``.

    NothingToCarryError where no layer's matrix fits.
    """
    layout = layout_of(config)
    by_key = {place.key: name for name, place in layout.items() if name in old}
    state, tensors, layers = model.state_dict(), {}, []
    for name, here in model.layout().items():
        source = by_key.pop(here.key, None)
        fitted = None if source is None else _fitted(old[source], layout[source], state[name], here)
        tensors[name], outcome = (state[name], NEW) if fitted is None else fitted
        there = () if source is None else tuple(old[source].shape)
        layers.append(Layer(name, outcome, tuple(state[name].shape), there, here.depth))
    if all(layer.outcome == NEW for layer in layers if len(layer.here) > 1):
        raise NothingToCarryError(f"no layer of the other model fits this one: {_remedy(config)}")
    layers += [Layer(name, UNUSED, (), tuple(old[name].shape), 0) for name in sorted(by_key.values())]
    return Carried(tensors, layers)


def _remedy(config: Origin) -> str:
    if isinstance(config, ExtractorConfig):
        widths = [config.width, 2 * config.width, 4 * config.width]
        return f"it is a classifier: set fit.model to classifier_encoder, and fit.widths to {widths}"
    return "take a model of the same kind (fit.model)"

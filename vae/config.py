"""Strict, frozen configuration: what a model, a training, an augmentation is, and how a mapping becomes one of them.

A section is a frozen dataclass whose fields carry their legal range (``field(...)`` below). ``parse`` collects every problem
of a mapping instead of stopping at the first. Nothing here reads a file; where a value came from is the caller's to add.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any


def field(
    *, low: float | None = None, high: float | None = None, above: float | None = None, choices: tuple | None = None
) -> Any:
    """A required dataclass field with its range: low <= value <= high, value > above, or value in choices."""
    return dataclasses.field(metadata={"low": low, "high": high, "above": above, "choices": choices})


@dataclass(frozen=True)
class Problem:
    """One fault of a configuration: ``key`` (dotted) and ``message`` (what is wrong, what is allowed)."""

    key: str
    message: str


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything needed to build a model without its data: ``image_shape`` is (height, width, channels) in pixels."""

    name: str
    image_shape: tuple[int, int, int]
    latent_dim: int = field(low=1, high=4096)
    widths: tuple[int, ...] = field(low=1, high=4096)
    hidden_units: int = field(low=1, high=65536)
    likelihood: str


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """What is sampled from: a density over latents, fitted after training."""

    name: str
    mixture_components: int = field(low=1, high=4096)


EXACTNESS = ("off", "run", "resume", "elastic")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a training is done, whatever it is to reach: what a search and the final training share."""

    global_batch_size: int = field(low=1, high=2**20)
    learning_rate: float = field(above=0, high=1)
    warmup_images: int = field(low=0)
    weight_decay: float = field(low=0, high=10)
    clip_norm: float = field(above=0)
    ema_decay: float = field(low=0, high=0.999999)
    beta_start: float = field(above=0, high=1e4)
    beta_anneal_share: float = field(low=0, high=1)
    precision: str = field(choices=("float32", "bfloat16"))
    memory_format: str = field(choices=("channels_last", "contiguous"))
    compile: bool
    recompute: bool
    micro_batch_size: int = field(low=0, high=2**20)
    exactness: str = field(choices=EXACTNESS)
    virtual_shards: int = field(low=1, high=4096)
    skip_nonfinite_steps: int = field(low=0, high=10_000)

    def problems(self) -> list[tuple[str, str]]:
        if self.exactness != "elastic":
            return []
        found = []
        if self.micro_batch_size:
            found.append(("micro_batch_size", "must be 0 with exactness elastic, which cuts each batch into virtual_shards"))
        if self.virtual_shards > self.global_batch_size:
            found.append(
                ("virtual_shards", f"{self.virtual_shards} are more than the {self.global_batch_size} images of a batch")
            )
        return found


@dataclass(frozen=True, kw_only=True)
class FitConfig(Recipe):
    """One training: progress and periods are counted in images, so they survive a change of batch size or world size."""

    seed: int = field(low=0, high=2**31 - 1)
    beta: float = field(above=0, high=1e4)
    total_images: int = field(low=1)
    validate_every_images: int = field(low=1)
    checkpoint_every_images: int = field(low=1)
    keep_checkpoints: int = field(low=1, high=1000)
    patience_reports: int = field(low=0)

    @property
    def total_steps(self) -> int:
        return math.ceil(self.total_images / self.global_batch_size)

    def steps(self, images: int) -> int:
        """A period or position given in images, as a count of steps (at least 1)."""
        return max(1, round(images / self.global_batch_size))


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """An augmentation policy: of every operation how often (a probability per image) and how far (its range).

    ``fill`` is what comes in from outside of the picture: the picture mirrored at its border, or its corners' median colour.
    """

    fill: str = field(choices=("reflect", "corners"))
    flip_probability: float = field(low=0, high=1)
    vertical_flip_probability: float = field(low=0, high=1)
    rotate_probability: float = field(low=0, high=1)
    rotate_degrees: float = field(low=0, high=180)
    translate_probability: float = field(low=0, high=1)
    translate_share: float = field(low=0, high=1)
    scale_probability: float = field(low=0, high=1)
    scale_low: float = field(low=0.1, high=10)
    scale_high: float = field(low=0.1, high=10)
    crop_probability: float = field(low=0, high=1)
    crop_area_low: float = field(low=0.01, high=1)
    crop_aspect_high: float = field(low=1, high=10)
    shear_probability: float = field(low=0, high=1)
    shear_degrees: float = field(low=0, high=60)
    brightness_probability: float = field(low=0, high=1)
    brightness: float = field(low=0, high=1)
    contrast_probability: float = field(low=0, high=1)
    contrast: float = field(low=0, high=1)
    saturation_probability: float = field(low=0, high=1)
    saturation: float = field(low=0, high=1)
    hue_probability: float = field(low=0, high=1)
    hue_degrees: float = field(low=0, high=180)
    gamma_probability: float = field(low=0, high=1)
    gamma_high: float = field(low=1, high=10)
    grey_probability: float = field(low=0, high=1)
    blur_probability: float = field(low=0, high=1)
    blur_sigma_pixels: float = field(low=0, high=16)
    noise_probability: float = field(low=0, high=1)
    noise_levels: float = field(low=0, high=255)
    jpeg_probability: float = field(low=0, high=1)
    jpeg_quality_low: int = field(low=1, high=100)
    jpeg_quality_high: int = field(low=1, high=100)
    cutout_probability: float = field(low=0, high=1)
    cutout_share: float = field(low=0, high=1)

    def problems(self) -> list[tuple[str, str]]:
        pairs = (("scale_low", "scale_high"), ("jpeg_quality_low", "jpeg_quality_high"))
        wrong = [(low, high) for low, high in pairs if getattr(self, low) > getattr(self, high)]
        return [
            (low, f"{getattr(self, low)} is greater than {high} {getattr(self, high)}: the range is empty") for low, high in wrong
        ]


def _typed(value: Any, annotation: Any) -> tuple[Any, str | None]:
    """``value`` as ``annotation`` (int, float, str, bool, tuple[x, ...]); the second item says why not, or None."""
    origin = typing.get_origin(annotation)
    if origin is tuple:
        if not isinstance(value, list | tuple) or not value:
            return None, f"expected a non-empty list, got {value!r}"
        arguments = typing.get_args(annotation)
        if arguments[-1] is not Ellipsis and len(arguments) != len(value):
            return None, f"expected {len(arguments)} values, got {len(value)}"
        items = [_typed(item, arguments[0]) for item in value]
        wrong = next((reason for _, reason in items if reason), None)
        return tuple(item for item, _ in items), wrong
    if isinstance(annotation, types.UnionType):
        choices = [a for a in typing.get_args(annotation) if a is not type(None)]
        if value is None and len(choices) < len(typing.get_args(annotation)):
            return None, None
        answers = [_typed(value, choice) for choice in choices]
        good = next((answer for answer in answers if answer[1] is None), None)
        return good or (None, ", or ".join(dict.fromkeys(reason for _, reason in answers if reason)))
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value), None
        except OverflowError:
            return None, "the number is too large"
    if isinstance(value, annotation) and (annotation is bool or not isinstance(value, bool)):
        if isinstance(value, float) and not math.isfinite(value):
            return None, f"expected a finite number, got {value!r}"
        return value, None
    if annotation is float and isinstance(value, str):
        try:
            float(value)
            hint = f" (write {float(value)!r}: YAML reads {value!r} as text)"
        except ValueError:
            hint = ""
        return None, f"expected a number, got the text {value!r}{hint}"
    return None, f"expected {annotation.__name__}, got {value!r}"


def _out_of_range(value: Any, metadata: Mapping[str, Any]) -> str | None:
    choices, low, high, above = (metadata.get(k) for k in ("choices", "low", "high", "above"))
    values = value if isinstance(value, tuple) else (value,)
    if choices is not None and value not in choices:
        close = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"{value!r} is not one of {', '.join(map(str, choices))}{hint}"
    if (low is not None and min(values) < low) or (high is not None and max(values) > high):
        return f"{value!r} is out of range: allowed {'any' if low is None else low} to {'any' if high is None else high}"
    if above is not None and min(values) <= above:
        return f"{value!r} is out of range: must be greater than {above}"
    return None


def parse(section: type, mapping: Any, where: str) -> tuple[Any, list[Problem]]:
    """Build ``section`` from ``mapping``; returns (instance or None, all problems found), keys prefixed by ``where``."""
    if not isinstance(mapping, Mapping):
        return None, [Problem(where, f"expected a section with keys, got {mapping!r}")]
    hints = typing.get_type_hints(section)
    fields = {f.name: f for f in dataclasses.fields(section)}
    problems, values = [], {}
    for key in mapping:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(fields)}"
            problems.append(Problem(f"{where}.{key}", f"unknown key{hint}"))
    for name, spec in fields.items():
        if name not in mapping:
            if spec.default is MISSING:
                problems.append(Problem(f"{where}.{name}", "missing key"))
            continue
        value, reason = _typed(mapping[name], hints[name])
        reason = reason or (None if value is None else _out_of_range(value, spec.metadata))
        if reason:
            problems.append(Problem(f"{where}.{name}", reason))
        values[name] = value
    if problems:
        return None, problems
    instance = section(**values)
    check = getattr(instance, "problems", None)
    problems = [Problem(f"{where}.{key}", message) for key, message in check()] if check else []
    return (None if problems else instance), problems

"""What a model, a training, an augmentation and a prior are: strict, frozen configuration, each value with its legal range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vae.schema import field


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The size and kind of a model, whatever images it is for: each model takes of it what it knows."""

    widths: tuple[int, ...] = field(low=1, high=4096)
    hidden_units: int = field(low=1, high=65536)
    blocks: int = field(low=1, high=64)
    stochastic_layers: int = field(low=2, high=12)
    codes: int = field(low=2, high=65536)
    likelihood: str
    sigma: float = field(above=0, high=10)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Architecture):
    """Everything needed to build a model without its data: ``image_shape`` is (height, width, channels) in pixels.

    ``latent_dim`` counts latents; in a model with grids of them, those at each place of a layer. ``classes``: how many kinds of
    images it is told apart; 0: it is told nothing.
    """

    name: str
    image_shape: tuple[int, int, int]
    latent_dim: int = field(low=1, high=4096)
    classes: int = 0

    @classmethod
    def of(cls, told: dict[str, Any]) -> ModelConfig:
        """From what a file says of a model, where tuples are lists; TypeError for other fields than these."""
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """What is sampled from: a density over latents, fitted after training."""

    name: str
    mixture_components: int = field(low=1, high=4096)
    hidden_units: int = field(low=1, high=65536)
    steps: int = field(low=1, high=10_000_000)


EXTRACTOR_GROUPS = 8  # of channels, in each normalisation of the networks that FCD looks through
EXACTNESS = ("off", "run", "resume", "elastic")
OBJECTIVES = ("elbo", "importance", "tc", "mmd", "deterministic")
ACROSS_IMAGES = ("tc", "mmd")  # objectives that compare the images of a batch with one another


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a training is done, whatever it is to reach: what a search and the final training share."""

    global_batch_size: int = field(low=1, high=2**20)
    learning_rate: float = field(above=0, high=1)
    warmup_images: int = field(low=0)
    weight_decay: float = field(low=0, high=10)
    clip_norm: float = field(above=0)
    ema_decay: float = field(low=0, high=0.999999)
    shuffle_images: int = field(low=0, high=10**12)
    objective: str = field(choices=OBJECTIVES)
    beta_schedule: str = field(choices=("geometric", "linear", "cyclical"))
    beta_start: float = field(low=0, high=1e4)
    beta_anneal_share: float = field(low=0, high=1)
    beta_cycles: int = field(low=1, high=1000)
    capacity_nats: float = field(low=0, high=1e6)
    free_bits_nats: float = field(low=0, high=1e4)
    regulariser_weight: float = field(low=0, high=1e6)
    importance_samples: int = field(low=1, high=1024)
    denoise_levels: float = field(low=0, high=255)
    smoothness: float = field(low=0, high=1e6)
    adversary_weight: float = field(low=0, high=100)
    adversary_start_share: float = field(low=0, high=1)
    feature_weight: float = field(low=0, high=1e6)
    critic_width: int = field(low=1, high=1024)
    critic_learning_rate: float = field(above=0, high=1)
    precision: str = field(choices=("float32", "bfloat16"))
    memory_format: str = field(choices=("channels_last", "contiguous"))
    compile: bool
    recompute: bool
    micro_batch_size: int = field(low=0, high=2**20)
    exactness: str = field(choices=EXACTNESS)
    virtual_shards: int = field(low=1, high=4096)
    skip_nonfinite_steps: int = field(low=0, high=10_000)

    def problems(self) -> list[tuple[str, str]]:
        return self._objective_problems() + self._elastic_problems()

    def _objective_problems(self) -> list[tuple[str, str]]:
        found = []
        if self.beta_schedule == "geometric" and self.beta_anneal_share > 0 and self.beta_start == 0:
            found.append(("beta_start", "must be more than 0 with beta_schedule geometric: a factor leads nowhere from 0"))
        if self.objective in ACROSS_IMAGES and self.micro_batch_size:
            found.append(("micro_batch_size", f"must be 0 with objective {self.objective}, which needs its whole batch at once"))
        if self.objective in ACROSS_IMAGES and self.exactness == "elastic":
            found.append(("exactness", f"elastic shares nothing between images, objective {self.objective} does: set resume"))
        if self.objective != "elbo" and (self.capacity_nats or self.free_bits_nats):
            key = "capacity_nats" if self.capacity_nats else "free_bits_nats"
            found.append((key, f"must be 0 with objective {self.objective}: it belongs to elbo"))
        if self.smoothness and self.denoise_levels:
            found.append(("smoothness", "must be 0 with denoise_levels: frames would be compared with noisy ones"))
        if self.adversary_weight and (self.objective == "importance" or self.compile):
            key, wrong = (
                ("objective", "importance has many copies of an image") if self.objective == "importance" else ("compile", "true")
            )
            found.append((key, f"{wrong}: not with adversary_weight above 0, whose push is of one backward pass within another"))
        if self.objective != "importance" and self.importance_samples > 1:
            found.append(("importance_samples", f"must be 1 with objective {self.objective}: set objective importance"))
        return found

    def _elastic_problems(self) -> list[tuple[str, str]]:
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
class Schedule:
    """How long the final training is, and what happens on the way: counted in images, so it survives a change of batch or world size."""

    total_images: int = field(low=1)
    validate_every_images: int = field(low=1)
    checkpoint_every_images: int = field(low=1)
    keep_checkpoints: int = field(low=1, high=1000)
    patience_reports: int = field(low=0)
    frozen_images: int = field(low=0)
    layer_decay: float = field(above=0, high=1)
    epsilon: float = field(low=0, high=1000)
    delta: float = field(above=0, high=0.1)
    sample_norm: float = field(above=0, high=1e6)


@dataclass(frozen=True, kw_only=True)
class FitConfig(Recipe, Schedule):
    """One training."""

    seed: int = field(low=0, high=2**31 - 1)
    beta: float = field(above=0, high=1e4)

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

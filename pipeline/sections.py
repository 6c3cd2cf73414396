"""The sections of params.yaml: one frozen dataclass each, with the legal range of every value. What they mean is in the file."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

from pipeline import constraints, space
from pipeline.doctor import FINDINGS
from pipeline.download_section import Download
from pipeline.evaluate_section import Evaluate
from pipeline.train_section import Train
from vae.config import EXTRACTOR_GROUPS as GROUPS
from vae.config import Architecture, AugmentConfig, FitConfig, ModelConfig, PriorConfig, Recipe
from vae.schema import field


def image_shape(image_size: int | tuple[int, int], mode: str) -> tuple[int, int, int]:
    """(height, width, channels) of every image after preprocess."""
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    return height, width, len(mode)


MOST_TRIALS = 10_000


@dataclass(frozen=True, kw_only=True)
class Base:
    """Shared by several stages; each stage names the keys that it reads."""

    seed: int = field(low=0, high=2**31 - 1)
    image_size: int | tuple[int, int] = field(low=8, high=1024)
    mode: str = field(choices=("L", "RGB", "RGBA", "HSV"))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image after preprocess."""
        return image_shape(self.image_size, self.mode)


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    val_fraction: float = field(above=0, high=0.5)
    test_fraction: float = field(above=0, high=0.5)
    split_by: str = field(choices=("image", "folder"))
    fit: str = field(choices=("crop", "centre", "pad", "stretch"))
    filter: str = field(choices=("lanczos", "bicubic", "bilinear", "box", "nearest"))
    background: tuple[int, int, int] = field(low=0, high=255)
    max_pixels: int = field(low=64)
    min_side_pixels: int = field(low=1)
    max_aspect_ratio: float = field(low=1)
    min_deviation_levels: float = field(low=0, high=255)
    min_sharpness_levels: float = field(low=0, high=2000)
    min_brightness_levels: float = field(low=0, high=255)
    max_brightness_levels: float = field(low=0, high=255)
    require_label: bool
    look: str = field(choices=("plain", "cartoon", "vintage"))
    duplicates: str = field(choices=("near", "exact"))
    shard_images: int = field(low=1)

    def problems(self) -> list[tuple[str, str]]:
        if self.min_brightness_levels > self.max_brightness_levels:
            wrong = f"{self.min_brightness_levels} is greater than max_brightness_levels: nothing would pass"
            return [("min_brightness_levels", wrong)]
        return []


@dataclass(frozen=True, kw_only=True)
class Augment(AugmentConfig):
    """The policy, and where it is applied: once into ``copies``, or anew in every epoch of a training."""

    copies: int = field(low=0, high=64)
    on_the_fly: bool

    @property
    def policy(self) -> AugmentConfig:
        """The policy alone: what decides a copy, wherever it is made."""
        return AugmentConfig(**{f.name: getattr(self, f.name) for f in fields(AugmentConfig)})


@dataclass(frozen=True, kw_only=True)
class Extractor:
    total_images: int = field(low=1)
    batch_size: int = field(low=1)
    learning_rate: float = field(above=0, high=1)
    width: int = field(low=8, high=1024)
    second_width: int = field(low=8, high=1024)
    feature_dim: int = field(low=8, high=2048)

    def problems(self) -> list[tuple[str, str]]:
        wrong = [name for name in ("width", "second_width") if getattr(self, name) % GROUPS]
        return [(name, f"{getattr(self, name)} does not divide by {GROUPS}, the groups of its normalisation") for name in wrong]


@dataclass(frozen=True, kw_only=True)
class Fit(Recipe, Architecture):
    """What a training is, but for what tune searches: read by tune and train alike, so both run the same thing."""

    model: str
    class_conditional: bool
    prior: str = field(choices=("normal", "mixture", "flow", "second_stage"))
    mixture_components: int = field(low=1, high=4096)
    prior_hidden_units: int = field(low=1, high=65536)
    prior_steps: int = field(low=1, high=10_000_000)

    def model_config(self, image_shape: tuple[int, int, int], latent_dim: int, classes: int = 0) -> ModelConfig:
        shared = {f.name: getattr(self, f.name) for f in fields(Architecture)}
        return ModelConfig(name=self.model, image_shape=image_shape, latent_dim=latent_dim, classes=classes, **shared)

    @property
    def prior_config(self) -> PriorConfig:
        return PriorConfig(
            name=self.prior,
            mixture_components=self.mixture_components,
            hidden_units=self.prior_hidden_units,
            steps=self.prior_steps,
        )

    def fit_config(self, **rest: Any) -> FitConfig:
        return FitConfig(**{f.name: getattr(self, f.name) for f in fields(Recipe)}, **rest)


@dataclass(frozen=True, kw_only=True)
class Tune:
    trials: int = field(low=1, high=MOST_TRIALS)
    rungs: int = field(low=1, high=10)
    reduction_factor: int = field(low=2, high=10)
    images_per_trial: int = field(low=1)
    beta_min: float = field(above=0)
    beta_max: float = field(above=0, high=1e4)
    latent_dim_min: int = field(low=1)
    latent_dim_max: int = field(low=1, high=4096)
    score: str = field(choices=("fcd", "kid", "elbo_nats", "mig", "sap", "factor_vae_score", "dci_disentanglement"))
    score_samples: int = field(low=1)
    choice: str = field(choices=("best", "knee"))
    workers_per_trial: int = field(low=1, high=1024)
    space: dict
    searcher: str = field(choices=("gp", "tpe", "sobol", "random", "grid"))
    round_trials: int = field(low=1, high=MOST_TRIALS)
    objectives: str = field(choices=("score", "latent_dim_and_score", "rate_and_distortion"))
    grid_points: int = field(low=2, high=100)
    constraints: list
    scheduler: str = field(choices=("hyperband", "asha", "pbt", "none"))

    @property
    def reports(self) -> int:
        """Of a trial that nothing stops."""
        return self.reduction_factor ** (self.rungs - 1)

    @property
    def learns(self) -> bool:
        """Whether what is proposed depends on the scores of earlier trials."""
        return self.searcher in ("gp", "tpe")

    @property
    def round_size(self) -> int:
        """How many trials are proposed from the same scores; 0: all. HyperBand's brackets fill before any of their trials ends."""
        return self.round_trials if self.learns and self.scheduler != "hyperband" else 0

    def problems(self) -> list[tuple[str, str]]:
        found = []
        if self.beta_min > self.beta_max:
            found.append(("beta_min", f"{self.beta_min} is greater than beta_max {self.beta_max}: the range is empty"))
        if self.latent_dim_min > self.latent_dim_max:
            wrong = f"{self.latent_dim_min} is greater than latent_dim_max {self.latent_dim_max}: the range is empty"
            found.append(("latent_dim_min", wrong))
        if self.objectives != "score" and (self.searcher, self.scheduler) != ("tpe", "none"):
            wrong = (
                "needs tune.searcher tpe, which proposes for two objectives, and tune.scheduler none: others stop by one score"
            )
            found.append(("objectives", f"{self.objectives} {wrong}"))
        if self.scheduler == "pbt":
            found += self._population_problems()
        wrong_space = space.problems(self.space, Fit)
        if not wrong_space:
            ranges = [name for name, dimension in space.dimensions(self.space).items() if dimension.choices is None]
            found += constraints.problems(self.constraints, ranges)
            if self.searcher == "grid" and not found:
                points = math.prod(map(len, space.grid_axes(SimpleNamespace(**vars(self)), Fit).values()))
                if points > MOST_TRIALS:
                    wrong = f"make a grid of {points} points, {MOST_TRIALS} at most: search fewer keys or take fewer points"
                    found.append(("grid_points", wrong))
        return found + wrong_space

    def _population_problems(self) -> list[tuple[str, str]]:
        found = []
        if self.learns:
            wrong = f"{self.searcher} learns from trials that ended, with scheduler pbt all do at once: set sobol, random or grid"
            found.append(("searcher", wrong))
        if self.searcher != "grid" and self.trials < 2:
            found.append(("trials", "must be 2 at least with scheduler pbt: one goes on from the other"))
        if self.rungs < 2:
            found.append(
                ("rungs", "must be 2 at least with scheduler pbt: trials go on from others at every report but the last")
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Register:
    name: str
    margin: float = field(low=0, high=1e6)
    gates: list

    def problems(self) -> list[tuple[str, str]]:
        found = [
            (f"gates.{number}", f"{gate!r} is no finding of the doctor: {', '.join(FINDINGS)}")
            for number, gate in enumerate(self.gates)
            if gate not in FINDINGS
        ]
        if not self.name.strip() or set(self.name) & set("/:.%\"'"):
            found.append(("name", f"{self.name!r} cannot name a registered model: use letters, digits, - and _"))
        return found


@dataclass(frozen=True, kw_only=True)
class Report:
    title: str


@dataclass(frozen=True, kw_only=True)
class Retrain:
    new_share: float = field(above=0, high=1)
    drift_deviations: float = field(low=0, high=1000)
    max_age_days: float = field(low=0, high=36500)
    cooldown_hours: float = field(low=0, high=87600)
    begin: str = field(choices=("anew", "champion", "both"))
    search: bool


SECTIONS: dict[str, type] = {
    "base": Base, "download": Download, "preprocess": Preprocess, "augment": Augment, "extractor": Extractor,
    "fit": Fit, "tune": Tune, "train": Train, "evaluate": Evaluate, "register": Register,
    "report": Report, "retrain": Retrain,
}  # fmt: skip

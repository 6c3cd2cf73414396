"""params.yaml as frozen, typed sections; the only reader of YAML. All errors of a file are reported at once, with their line.

A stage names the keys that it reads (``PARAMS``) and gets these and no others, so that what dvc.yaml lists as the stage's
``params`` is all that can change its result.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from pipeline.errors import BadConfigError, InputMissingError
from vae.config import FitConfig, ModelConfig, Problem, field, parse


@dataclass(frozen=True, kw_only=True)
class Base:
    """Shared by several stages; each stage names the keys that it reads."""

    seed: int = field(low=0, high=2**31 - 1)
    image_size: int = field(low=8, high=1024)
    mode: str = field(choices=("L", "RGB"))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.image_size, self.image_size, len(self.mode)


@dataclass(frozen=True, kw_only=True)
class Download:
    source: str = field(choices=("sprites", "path"))
    path: str
    sprite_images: int = field(low=100, high=10_000_000)

    def problems(self) -> list[tuple[str, str]]:
        if self.source == "path" and not self.path:
            return [("path", "is empty, but download.source is path: name a folder, .zip, .tar or .tar.gz")]
        return []


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    val_fraction: float = field(above=0, high=0.5)
    test_fraction: float = field(above=0, high=0.5)
    fit: str = field(choices=("crop", "pad", "stretch"))
    min_side_pixels: int = field(low=1)
    max_pixels: int = field(low=64)
    shard_images: int = field(low=1)


@dataclass(frozen=True, kw_only=True)
class Augment:
    copies: int = field(low=0, high=64)
    flip_probability: float = field(low=0, high=1)
    shift_pixels: int = field(low=0)
    rotate_degrees: float = field(low=0, high=180)
    brightness: float = field(low=0, high=0.9)
    contrast: float = field(low=0, high=0.9)


@dataclass(frozen=True, kw_only=True)
class Extractor:
    total_images: int = field(low=1)
    batch_size: int = field(low=1)
    learning_rate: float = field(above=0, high=1)
    width: int = field(low=8, high=1024)
    feature_dim: int = field(low=8, high=2048)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a training is, but for what tune searches: read by tune and train alike, so both run the same thing."""

    model: str
    widths: tuple[int, ...] = field(low=1, high=4096)
    hidden_units: int = field(low=1, high=65536)
    likelihood: str
    global_batch_size: int = field(low=1, high=2**20)
    learning_rate: float = field(above=0, high=1)
    warmup_images: int = field(low=0)
    weight_decay: float = field(low=0, high=10)
    clip_norm: float = field(above=0)
    ema_decay: float = field(low=0, high=0.999999)
    precision: str = field(choices=("float32", "bfloat16"))

    def model_config(self, image_shape: tuple[int, int, int], latent_dim: int) -> ModelConfig:
        return ModelConfig(
            name=self.model,
            image_shape=image_shape,
            latent_dim=latent_dim,
            widths=self.widths,
            hidden_units=self.hidden_units,
            likelihood=self.likelihood,
        )

    def fit_config(self, **rest: Any) -> FitConfig:
        own = {f.name for f in fields(FitConfig)} & {f.name for f in fields(self)}
        return FitConfig(**{name: getattr(self, name) for name in own}, **rest)


@dataclass(frozen=True, kw_only=True)
class Tune:
    trials: int = field(low=1, high=10_000)
    rungs: int = field(low=1, high=10)
    reduction_factor: int = field(low=2, high=10)
    images_per_trial: int = field(low=1)
    beta_min: float = field(above=0)
    beta_max: float = field(above=0, high=1e4)
    latent_dim_min: int = field(low=1)
    latent_dim_max: int = field(low=1, high=4096)
    score: str = field(choices=("fcd", "elbo_nats"))
    score_samples: int = field(low=1)
    workers_per_trial: int = field(low=1, high=1024)

    def problems(self) -> list[tuple[str, str]]:
        found = []
        if self.beta_min > self.beta_max:
            found.append(("beta_min", f"{self.beta_min} is greater than beta_max {self.beta_max}: the range is empty"))
        if self.latent_dim_min > self.latent_dim_max:
            found.append(
                (
                    "latent_dim_min",
                    f"{self.latent_dim_min} is greater than latent_dim_max {self.latent_dim_max}: the range is empty",
                )
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Train:
    use_tuned: bool
    beta: float = field(above=0, high=1e4)
    latent_dim: int = field(low=1, high=4096)
    total_images: int = field(low=1)
    validate_every_images: int = field(low=1)
    checkpoint_every_images: int = field(low=1)
    max_failures: int = field(low=0, high=100)
    prior: str = field(choices=("normal", "mixture"))
    mixture_components: int = field(low=1, high=4096)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    samples: int = field(low=1)
    importance_samples: int = field(low=1)
    importance_images: int = field(low=1)


@dataclass(frozen=True, kw_only=True)
class Register:
    name: str

    def problems(self) -> list[tuple[str, str]]:
        if self.name.strip() and not set(self.name) & set("/:.%\"'"):
            return []
        return [("name", f"{self.name!r} cannot name a registered model: use letters, digits, - and _")]


SECTIONS: dict[str, type] = {
    "base": Base, "download": Download, "preprocess": Preprocess, "augment": Augment, "extractor": Extractor,
    "fit": Fit, "tune": Tune, "train": Train, "evaluate": Evaluate, "register": Register,
}  # fmt: skip


def _lines(node: yaml.Node | None, prefix: str = "") -> dict[str, int]:
    """The line of every key of a YAML mapping, by dotted name."""
    found: dict[str, int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            found[name] = key.start_mark.line + 1
            found |= _lines(value, name + ".")
    return found


def _repeated(node: yaml.Node | None, prefix: str = "") -> list[Problem]:
    """YAML keeps the last of two equal keys without a word; here it is an error."""
    if not isinstance(node, yaml.MappingNode):
        return []
    names = [key.value for key, _ in node.value]
    found = [Problem(f"{prefix}{n}", "key given twice") for n in dict.fromkeys(names) if names.count(n) > 1]
    for key, value in node.value:
        found += _repeated(value, f"{prefix}{key.value}.")
    return found


def _document(text: str, source: str) -> tuple[yaml.Node | None, dict[str, Any]]:
    try:
        node, document = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadConfigError(f"{source} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise BadConfigError(f"{source} holds no sections")
    return node, document


def _refuse(problems: list[Problem], node: yaml.Node | None, source: str) -> None:
    """BadConfigError with every problem as ``source:line: key: what``, in the order of the lines."""
    if problems:
        lines = _lines(node)
        placed = [(lines.get(p.key, lines.get(p.key.split(".")[0], 1)), p) for p in problems]
        placed.sort(key=lambda pair: pair[0])
        raise BadConfigError("\n".join(f"{source}:{line}: {p.key}: {p.message}" for line, p in placed))


def check(text: str, source: str) -> SimpleNamespace:
    """All sections of a params file's text, or BadConfigError naming every problem."""
    node, document = _document(text, source)
    problems, values = _repeated(node), {}
    for name in document:
        if name not in SECTIONS:
            close = difflib.get_close_matches(str(name), SECTIONS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(SECTIONS)}"
            problems.append(Problem(str(name), f"unknown section{hint}"))
    for name, section in SECTIONS.items():
        if name not in document:
            problems.append(Problem(name, "missing section"))
            continue
        values[name], found = parse(section, document[name], name)
        problems += found
    _refuse(problems or _across(SimpleNamespace(**values)), node, source)
    return SimpleNamespace(**values)


def _across(sections: SimpleNamespace) -> list[Problem]:
    """Combinations that cannot work, found before anything runs."""
    # Imported by name, so that it is no dependency of stages that build no model: it can refuse, but changes no result.
    problem = importlib.import_module("vae.models").problem
    found = []
    reason = problem(sections.fit.model_config(sections.base.image_shape, sections.train.latent_dim))
    if reason:
        found.append(Problem("fit", reason))
    if sections.preprocess.val_fraction + sections.preprocess.test_fraction >= 1:
        found.append(Problem("preprocess.val_fraction", "with test_fraction leaves nothing to train on: make both smaller"))
    if sections.tune.reduction_factor ** (sections.tune.rungs - 1) > sections.tune.trials:
        found.append(
            Problem(
                "tune.trials",
                f"is too small for {sections.tune.rungs} rungs that each keep 1 in {sections.tune.reduction_factor}",
            )
        )
    return found


def read_text(path: Path) -> str:
    """A UTF-8 file's text, or the error that says what to do."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputMissingError(
            f"{path} does not exist: run in the project's folder, or restore it with `git checkout`"
        ) from None
    except UnicodeDecodeError as error:
        raise BadConfigError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from None


def load_section(path: Path, section: type, name: str) -> Any:
    """A YAML file that is one section (a cluster profile), or BadConfigError with every problem."""
    node, document = _document(read_text(path), path.name)
    value, problems = parse(section, document, name)
    _refuse([Problem(p.key.removeprefix(f"{name}."), p.message) for p in problems], node, path.name)
    return value


def edited(text: str, values: dict[str, Any]) -> str:
    """``text`` with the scalars of dotted keys replaced where they stand; comments and order stay."""
    spans: dict[str, tuple[int, int]] = {}

    def walk(node: yaml.Node | None, prefix: str = "") -> None:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            spans[f"{prefix}{key.value}"] = value.start_mark.index, value.end_mark.index
            walk(value, f"{prefix}{key.value}.")

    walk(yaml.compose(text, Loader=yaml.SafeLoader))
    for key in sorted(values, key=lambda k: spans[k], reverse=True):
        start, stop = spans[key]
        scalar = yaml.safe_dump(values[key], width=10**6, allow_unicode=True).removesuffix("\n").removesuffix("\n...")
        text = text[:start] + scalar + text[stop:]
    return text


def load(path: Path, keys: tuple[str, ...]) -> SimpleNamespace:
    """The sections (``train``) and single keys (``base.seed``) of ``keys`` from a params file that is valid as a whole."""
    everything = check(read_text(path), path.name)
    wanted = SimpleNamespace()
    for key in keys:
        section, _, name = key.partition(".")
        if not name:
            setattr(wanted, section, getattr(everything, section))
            continue
        if not hasattr(wanted, section):
            setattr(wanted, section, SimpleNamespace())
        setattr(getattr(wanted, section), name, getattr(getattr(everything, section), name))
    return wanted

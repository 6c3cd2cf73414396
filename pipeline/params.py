"""params.yaml as frozen, typed sections; all errors of a file are reported at once, with their line. With checked.py all that reads YAML.

A stage names the keys that it reads (``PARAMS``) and gets these and no others, so that what dvc.yaml lists as the stage's
``params`` is all that can change its result.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from pipeline import checked, space
from pipeline.errors import BadConfigError, InputMissingError
from pipeline.sections import SECTIONS
from vae.schema import Problem, parse


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
    except (yaml.YAMLError, ValueError) as error:
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


def _of_fit(sections: SimpleNamespace, fit: Any) -> list[Problem]:
    """Why this model, objective and prior cannot be, for such images."""
    # Imported by name, so that it is no dependency of stages that build no model: it can refuse, but changes no result.
    models, found = importlib.import_module("vae.models"), []
    reason = models.problem(fit.model_config(sections.base.image_shape, sections.train.latent_dim))
    if reason:
        found.append(Problem("fit", reason))
    if fit.smoothness and fit.model in models.MODELS and not models.MODELS[fit.model].normal_posterior:
        found.append(Problem("fit.smoothness", f"needs a normal posterior, model {fit.model} has codes: set it to 0"))
    if fit.adversary_weight and fit.likelihood == "bernoulli":
        found.append(Problem("fit.adversary_weight", "must be 0 with likelihood bernoulli, whose two levels no drawn image has"))
    if fit.model in models.MODELS and not models.MODELS[fit.model].vector_latents:
        wrong = f"needs a vector of latents; model {fit.model} has its own prior"
        if fit.prior != "normal":
            found.append(Problem("fit.prior", f"{fit.prior} {wrong}: set fit.prior to normal"))
        if fit.objective in ("tc", "deterministic"):
            found.append(Problem("fit.objective", f"{fit.objective} {wrong}: set fit.objective to elbo"))
        elif fit.objective != "elbo" and not models.MODELS[fit.model].normal_posterior:
            found.append(
                Problem("fit.objective", f"{fit.objective} needs a normal posterior, model {fit.model} has codes: set elbo")
            )
    return found


def _of_space(sections: SimpleNamespace) -> list[Problem]:
    """Why a combination of choices that a search may come to cannot be: the first of them."""
    fit = sections.fit
    for changes in space.combinations(sections.tune.space, type(fit)) if sections.tune.space else ():
        changed = replace(fit, **changes)
        wrong = [problem.message for problem in _of_fit(sections, changed)] + [message for _, message in changed.problems()]
        if wrong:
            point = ", ".join(f"{name} {value}" for name, value in changes.items())
            return [Problem("tune.space", f"{point}: {wrong[0]}")]
    return []


def _across(sections: SimpleNamespace) -> list[Problem]:
    """Combinations that cannot work, found before anything runs."""
    found = _of_fit(sections, sections.fit) or _of_space(sections)
    alone = sections.preprocess.split_by == "folder" and not sections.augment.copies and not sections.augment.on_the_fly
    if sections.fit.smoothness and not alone:
        remedy = "set preprocess.split_by to folder, augment.copies to 0 and augment.on_the_fly to false"
        found.append(Problem("fit.smoothness", f"is about neighbouring frames: {remedy}"))
    found += _private(sections)
    if sections.train.coding_images and (sections.fit.class_conditional or sections.fit.model == "vq"):
        found.append(
            Problem("train.coding_images", "must be 0 with fit.class_conditional or model vq: such a model cannot compress")
        )
    if sections.preprocess.val_fraction + sections.preprocess.test_fraction >= 1:
        found.append(Problem("preprocess.val_fraction", "with test_fraction leaves nothing to train on: make both smaller"))
    tune = sections.tune
    if tune.scheduler in ("hyperband", "asha") and tune.reduction_factor ** (tune.rungs - 1) > tune.trials:
        found.append(Problem("tune.trials", f"is too small for {tune.rungs} rungs that each keep 1 in {tune.reduction_factor}"))
    return found


# What else would take something of the training images into the model: nothing of it is private.
NOT_PRIVATE: dict[str, dict[str, tuple[Any, ...]]] = {
    "augment": {"copies": (0,)},
    "fit": {
        "model": ("conv", "resnet", "ladder", "classifier_encoder"),
        "likelihood": ("logistic", "logistic_mixture", "gaussian", "gaussian_fixed", "bernoulli"),
        "objective": ("elbo", "importance", "deterministic"), "prior": ("normal",), "smoothness": (0.0,), "compile": (False,),
        "adversary_weight": (0.0,), "recompute": (False,),
        "precision": ("float32",), "skip_nonfinite_steps": (0,), "exactness": ("off", "run", "resume"),
        "shuffle_images": (0,),
    },
    "train": {
        "use_tuned": (False,), "warm_start": ("",), "patience_reports": (0,), "known_images": (0,), "attribute_steps": (0,),
        "coding_images": (0,),
    },
}  # fmt: skip


def _private(sections: SimpleNamespace) -> list[Problem]:
    """What a training with train.epsilon must not have."""
    if not sections.train.epsilon:
        return []
    found = []
    for section, keys in NOT_PRIVATE.items():
        for key, allowed in keys.items():
            value = getattr(getattr(sections, section), key)
            if value not in allowed:
                wanted = " or ".join(str(each) or "''" for each in allowed)
                found.append(Problem(f"{section}.{key}", f"is {value}: with train.epsilon it must be {wanted} (docs/private.md)"))
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
    problems += [Problem(f"{name}.{p.key}", p.message) for p in _repeated(node)]
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
        value = values[key]
        plain = not isinstance(value, str) or value.isprintable()  # YAML would read some unprintable characters as line ends
        scalar = yaml.safe_dump(value, width=10**6, allow_unicode=plain, default_flow_style=True)
        scalar = scalar.removesuffix("\n").removesuffix("\n...")
        text = text[:start] + scalar + text[stop:]
    return text


def overlay(path: Path, text: str) -> dict[str, Any]:
    """What a YAML file changes in a params file's ``text``, by dotted key; BadConfigError with every key that is not there."""
    node, document = _document(read_text(path), path.name)
    problems, known, values = _repeated(node), _document(text, "params.yaml")[1], {}
    for section, inside in document.items():
        if not isinstance(inside, dict):
            problems.append(Problem(str(section), "is no section with keys in it"))
            continue
        there = known.get(section, {})
        for key, value in inside.items():
            name = f"{section}.{key}"
            if key in there:
                if there[key] != value:
                    values[name] = value
                continue
            close = difflib.get_close_matches(str(key), list(there), n=1)
            problems.append(Problem(name, "unknown key" + (f"; did you mean {close[0]!r}?" if close else "")))
    _refuse(problems, node, path.name)
    return values


def load(path: Path, keys: tuple[str, ...], work: Path | None = None) -> SimpleNamespace:
    """The sections (``train``) and keys (``base.seed``) of ``keys`` from a file that is valid as a whole, which ``work`` remembers."""
    text = read_text(path)
    everything = checked.known(text, work)
    if everything is None:
        everything = check(text, path.name)
        checked.remember(text, work)
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

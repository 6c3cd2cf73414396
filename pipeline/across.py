"""Combinations of parameters, each of which is legal alone, that cannot work: found before anything runs."""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from pipeline import space
from vae.schema import Problem


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


def problems(sections: SimpleNamespace) -> list[Problem]:
    """All that cannot work, each with the key to change; none where every one can."""
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

"""What a training begins from: nothing, the search's weights, a registered version's or a file's; whole, or layer by layer."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline import reference
from pipeline.errors import BadConfigError, BadDataError, InputMissingError
from pipeline.paths import SECOND, Paths
from pipeline.train_section import FILE, TUNED
from vae.artefact import CONFIG, WEIGHTS
from vae.config import ModelConfig
from vae.extractor import CONFIG as CLASSIFIER
from vae.extractor import WEIGHTS as JUDGE
from vae.extractor import ExtractorConfig
from vae.files import canonical_json, read_json, read_manifest, sha256_file
from vae.models import build
from vae.transfer import NothingToCarryError, Origin, carry, layout_of, origin

TRANSFER = "transfer.csv"
REMEDY = "set train.warm_start to '', and the training begins anew"
log = logging.getLogger("pipeline.warm_start")


@dataclass(frozen=True)
class Start:
    """The file of ``weights`` to begin with and what names it; ``config`` and ``layers`` where it is carried over layer by layer."""

    told: str
    weights: str | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    layers: pd.DataFrame | None = None


def _found(wanted: str, paths: Paths) -> tuple[Path, dict[str, Any], str]:
    """The weights' file, the configuration beside it (a model's, or a classifier's), and what to call them."""
    if wanted == TUNED:
        folder = paths.tuned
        read_manifest(folder)
        told = read_json(folder / CONFIG)
        what = f"trial {told['trial']}"
        if not (folder / WEIGHTS).exists():
            raise BadConfigError(f"train.warm_start: {what} was stopped early and left no weights: {REMEDY}")
        return folder / WEIGHTS, told["model"], what
    if wanted.endswith(FILE):
        weights = paths.root / wanted
        if weights.is_file() and weights.with_name(CLASSIFIER).is_file():
            return weights, read_json(weights.with_name(CLASSIFIER)), wanted
        beside = weights.with_name(CONFIG)
        missing = [str(path) for path in (weights, beside) if not path.is_file()]
        if missing:
            raise InputMissingError(
                f"train.warm_start: {' and '.join(missing)} do not exist; the file of weights lies beside its {CONFIG}, that of a "
                f"classifier beside its {CLASSIFIER}: {REMEDY}"
            )
        return weights, read_json(beside)["model"], wanted
    folder = reference.kept(wanted, paths)
    return folder / WEIGHTS, read_json(folder / CONFIG)["model"], wanted


def _config(told: dict[str, Any], what: str) -> Origin:
    try:
        config = origin(told)
        layout_of(config)
    except (KeyError, TypeError, ValueError) as error:
        raise BadDataError(f"train.warm_start: the configuration of {what} is not one of this code ({error}): {REMEDY}") from None
    return config


def _refuse_judges(weights: Path, told: dict[str, Any], paths: Paths, transfer: bool) -> None:
    """BadConfigError where a classifier is to be carried whole, or is one of those that will judge what comes out."""
    if not isinstance(_config(told, str(weights)), ExtractorConfig):
        return
    if not transfer:
        raise BadConfigError(
            f"train.warm_start: {weights} is of a classifier, with which only an encoder can begin: set train.transfer to true"
        )
    judges = [folder / JUDGE for folder in (paths.extractor, paths.extractor / SECOND)]
    if sha256_file(weights) in [sha256_file(judge) for judge in judges if judge.is_file()]:
        raise BadConfigError(
            f"train.warm_start: FCD looks at this project's pictures through {weights}: a model that began with it would be judged by "
            f"what it came from. Take the classifier of another project, or {REMEDY}"
        )


def _carried(weights: Path, told: dict[str, Any], what: str, model: ModelConfig) -> pd.DataFrame:
    """What becomes of each tensor; said in a line too."""
    try:
        with torch.random.fork_rng(devices=[]):
            found = carry(build(model), load_file(weights), _config(told, what))
    except NothingToCarryError as error:
        raise BadConfigError(f"train.warm_start: {what}: {error}") from None
    except (SafetensorError, RuntimeError) as error:
        raise BadDataError(f"train.warm_start: {weights} is damaged or not of its {CONFIG} ({error}): {REMEDY}") from None
    shape = "x".join
    table = pd.DataFrame(
        [{**asdict(layer), "here": shape(map(str, layer.here)), "there": shape(map(str, layer.there))} for layer in found.layers]
    )
    counts = table["outcome"].value_counts(sort=False)
    log.info("tensors of %s: %s", what, ", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return table


def start(values: SimpleNamespace, model: ModelConfig, paths: Paths) -> Start:
    """What ``train.warm_start`` asks for; BadConfigError where tune did not leave it, or it is of another model and not to be carried."""
    wanted = values.train.warm_start
    if not wanted:
        return Start("begun anew")
    weights, told, what = _found(wanted, paths)
    begun = "begun from the weights of " + ("the search's chosen trial" if wanted == TUNED else wanted)
    _refuse_judges(weights, told, paths, values.train.transfer)
    names = {"warm_start": sha256_file(weights)}
    if values.train.transfer:
        layers = _carried(weights, told, what, model)
        return Start(f"{begun}, layer by layer", str(weights), {**names, "transfer": told}, told, layers)
    ours = json.loads(canonical_json(asdict(model)))
    differing = [f"{key} is {told.get(key)} there and {ours[key]} here" for key in ours if told.get(key) != ours[key]]
    if differing:
        raise BadConfigError(
            f"train.warm_start: the weights of {what} fit another model ({'; '.join(differing)}): set train.transfer to true, "
            f"and they are carried over layer by layer, or {REMEDY}"
        )
    return Start(begun, str(weights), names)

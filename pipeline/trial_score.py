"""What the trials of a search are ranked by: a score without beta in it, computed at every report by the trial itself.

``settings`` is what a trial needs for that as plain data; the features of real images lie in its ``reference``, so that no trial
computes them again. N images, D features or latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import BadDataError
from pipeline.paths import FACTOR, INDEX, Paths
from vae.artefact import Generator
from vae.config import ModelConfig, PriorConfig
from vae.data import ImageShards, Selection
from vae.extractor import load_extractor
from vae.metrics import kernel
from vae.metrics.factors import dci, factor_vae_score, mutual_information_gap, sap
from vae.metrics.frechet import TooFewSamplesError, frechet_distance, moments
from vae.models.base import VAE
from vae.samplers import fit_prior
from vae.samplers.normal import Normal

# Training images whose latents a trial's prior is fitted to. Of 2,000 it says of a good model less than of a bad one: samples of one and
# the same trained model had an FCD of 2.1 by those, 0.6 by 8,000 and 0.2 by all, as train fits its own (docs/search.md).
LATENTS = 8_000

OF_SAMPLES: dict[str, Callable[[Tensor, Tensor, int], float]] = {
    "fcd": lambda real_ND, made_ND, _: frechet_distance(moments(real_ND), moments(made_ND)),
    "kid": lambda real_ND, made_ND, seed: kernel.kernel_distance(real_ND, made_ND, seed).value,
}
OF_FACTORS: dict[str, Callable[[np.ndarray, np.ndarray, int], float]] = {
    "mig": lambda mean_ND, known_NF, _: mutual_information_gap(mean_ND, known_NF),
    "sap": lambda mean_ND, known_NF, _: sap(mean_ND, known_NF),
    "factor_vae_score": factor_vae_score,
    "dci_disentanglement": lambda mean_ND, known_NF, seed: dci(mean_ND, known_NF, seed).disentanglement,
}
SCORES = {name: (f"val_{name}", "min") for name in OF_SAMPLES} | {"elbo_nats": ("val_elbo_nats", "max")}
SCORES |= {name: (f"val_{name}", "max") for name in OF_FACTORS}  # the metric of a report, and which way is better


def of_samples(values: SimpleNamespace, extractor: Path, train: Path, real_ND: Tensor, state: Path) -> dict[str, Any]:
    """Settings for a distance of samples to images of these features, which go into ``state``; ``train``: the prior's images."""
    state.mkdir(parents=True, exist_ok=True)
    path = state / "reference.safetensors"
    save_file({"real_ND": real_ND.contiguous()}, path)
    return {
        "name": values.tune.score,
        "extractor": str(extractor),
        "reference": str(path),
        "images": str(train),
        "samples": values.tune.score_samples,
        "prior": asdict(values.fit.prior_config),
        "seed": values.base.seed,
    }


def _known(index: Path) -> np.ndarray:
    """The known factors (N, F) of the validation images; none of them where one is not known."""
    import pandas as pd  # not above: every worker of a training imports this module, and most read no factors

    table = pd.read_parquet(index)
    known = table.loc[table["split"] == "val", [column for column in table if column.startswith(FACTOR)]]
    return known.dropna(axis=1).to_numpy(np.float64)


def settings(values: SimpleNamespace, paths: Paths, state: Path) -> dict[str, Any] | None:
    """What trials need for ``tune.score``, None for the bound; BadDataError where validation images do not support it."""
    name, seed = values.tune.score, values.base.seed
    if name not in {*OF_SAMPLES, *OF_FACTORS}:
        return None
    images = ImageShards(paths.processed / "val")
    try:
        if name in OF_SAMPLES:
            real_ND = load_extractor(paths.extractor)[0].features(images.spread(values.tune.score_samples))
            OF_SAMPLES[name](real_ND, real_ND, seed)
            return of_samples(values, paths.extractor, paths.processed / "train", real_ND.cpu(), state)
        known_NF = _known(paths.processed / INDEX)
        if not known_NF.shape[1]:
            raise TooFewSamplesError("it needs images with known factors, these have none")
        OF_FACTORS[name](np.zeros((len(known_NF), 2)), known_NF, seed)
        return {"name": name, "index": str(paths.processed / INDEX), "images": str(paths.processed / "val"), "seed": seed}
    except TooFewSamplesError as error:
        enough = name != "kid" and min(len(images), values.tune.score_samples) >= kernel.minimum_samples()
        others = "kid or elbo_nats" if enough else "elbo_nats"
        raise BadDataError(
            f"tune.score {name} on the validation split: {error}; add images, or set tune.score in params.yaml to {others}"
        ) from None


class Scorer:
    """One trial's score, by its settings: of samples drawn as the finished model draws them, or of validation images' latents."""

    def __init__(self, score: dict[str, Any], model: ModelConfig) -> None:
        self._score, self._model, self._name = score, model, score["name"]
        images = ImageShards(Path(score["images"]))
        places = images.places(LATENTS if self._name in OF_SAMPLES else len(images))
        self._images, self._labels = Selection(images, places), images.labels(places)
        if self._name in OF_SAMPLES:
            self._extractor, _ = load_extractor(Path(score["extractor"]))
            self._real_ND = load_file(score["reference"])["real_ND"]
        else:
            self._known_NF = _known(Path(score["index"]))

    @torch.no_grad()
    def __call__(self, model: VAE) -> dict[str, float]:
        of = self._of_samples if self._name in OF_SAMPLES else self._of_factors
        return {SCORES[self._name][0]: of(model, self._score["seed"])}

    def _of_samples(self, model: VAE, seed: int) -> float:
        prior = fit_prior(model, self._images, PriorConfig(**self._score["prior"]), seed, self._labels)
        drawn_NHWC = Generator(model, self._model, prior, {}).sample(self._score["samples"], seed)
        return OF_SAMPLES[self._name](self._real_ND, self._extractor.features(drawn_NHWC).cpu(), seed)

    def _of_factors(self, model: VAE, seed: int) -> float:
        if not model.vector_latents:
            raise ValueError(f"tune.score {self._name} needs one vector of latents: choose fit.model conv or resnet")
        unfitted = Normal({"latent_dim": torch.tensor(model.latent_dim)})  # nothing is drawn
        mean_ND, _ = Generator(model, self._model, unfitted, {}).encode(self._images, self._labels)
        return OF_FACTORS[self._name](mean_ND.numpy(), self._known_NF, seed)

"""All that is told of a model: its scores, their intervals and protocol, what is wrong with it, and pictures. N images, D latents."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline import best_of_curve, codec_scores, denoise_scores, evaluate_pictures, film_scores
from pipeline.doctor import diagnose
from pipeline.errors import TrainingFailedError
from pipeline.judgement import MOST_TRAINING_IMAGES, extremes, intervals, remembered, slices
from pipeline.paths import DOCTOR, FACTOR, INDEX, INTERVALS, METRICS, PROTOCOL, SECOND, SLICES, Paths
from pipeline.plots import draw_information, draw_shares
from pipeline.scores import (
    BLUR_SIGMA_PIXELS,
    NOISE_LEVELS,
    Featured,
    Scores,
    aggregate_scores,
    feature_scores,
    fid_scores,
    inception,
    label_scores,
)
from vae.artefact import Generator, load_artefact
from vae.data import ImageShards
from vae.extractor import load_extractor
from vae.files import MANIFEST, canonical_json, read_manifest, sha256_file, write_text
from vae.images import to_model_range
from vae.metrics.bounds import bits_per_dim, importance_weighted_nll, shuffled_gain
from vae.metrics.factors import FACTOR_SCORES, factor_scores, information
from vae.metrics.frechet import TooFewSamplesError
from vae.metrics.intervals import LEVEL, RESAMPLES
from vae.metrics.kernel import SUBSET_IMAGES
from vae.metrics.manifold import NEIGHBOURS
from vae.metrics.neighbours import NEAR_QUANTILE
from vae.metrics.terms import active_units, psnr_db
from vae.validation import image_terms, observed

BATCH = 256
log = logging.getLogger("pipeline.assessment")


def _likelihood(
    values: SimpleNamespace, generator: Generator, test: ImageShards, terms_N2: torch.Tensor
) -> tuple[dict[str, float], torch.Tensor]:
    """Scores of the bound and of the likelihood; and the latter of each of ``evaluate.importance_images``, in nats."""
    section, seed, model = values.evaluate, values.base.seed, generator.model
    images, label_N = test.labelled(section.importance_images)
    some = observed(model, to_model_range(torch.from_numpy(images)), seed, 0)
    nll_N = importance_weighted_nll(model, some, section.importance_samples, seed, label_N)
    nll, (distortion, rate) = float(nll_N.mean()), terms_N2.mean(0).tolist()
    return {
        "elbo_nats": -(distortion + rate),
        "distortion_nats": distortion,
        "rate_nats": rate,
        "nll_nats": nll,
        "nll_standard_error_nats": float(nll_N.std() / len(nll_N) ** 0.5) if len(nll_N) > 1 else 0.0,
        "bits_per_dim": bits_per_dim(nll, test.image_shape),
        "shuffled_gain_nats": float(shuffled_gain(model, some, seed, label_N).mean()),
    }, nll_N


def _factor_scores(mean_ND: np.ndarray, factors: pd.DataFrame, seed: int) -> tuple[dict[str, float | None], pd.DataFrame | None]:
    """Scores of the latents against known ``factors``, and their information: rows factors, columns latents. None: too few images."""
    known_NF = factors.to_numpy(np.float64)
    try:
        scores: dict[str, float | None] = {**factor_scores(mean_ND, known_NF, seed)}
    except TooFewSamplesError as error:
        log.warning("no scores of known factors: %s", error)
        return dict.fromkeys(FACTOR_SCORES), None
    names = [name.removeprefix(FACTOR) for name in factors]
    return scores, pd.DataFrame(information(mean_ND, known_NF), index=pd.Index(names, name="factor"))


def _latent_scores(
    generator: Generator, mean_ND: torch.Tensor, index: pd.DataFrame, seed: int
) -> tuple[dict[str, float | None], pd.DataFrame | None]:
    """Scores of the test images' posterior means; where these come with known factors also what each latent of a vector tells of each."""
    scores: dict[str, float | None] = {"active_units": active_units(mean_ND), "latent_dim": generator.config.latent_dim}
    columns = [column for column in index if column.startswith(FACTOR)]
    known = index.loc[index["split"] == "test", columns]
    if not columns or known.isna().any(axis=None) or not generator.model.vector_latents:
        return scores, None
    of_factors, told = _factor_scores(mean_ND.numpy(), known, seed)
    return scores | of_factors, told


def protocol(values: SimpleNamespace, generator: Generator, hashes: tuple[str, str], paths: Paths) -> dict[str, Any]:
    """How the scores came about; scores of different protocols are not compared."""
    return {
        "split": "test",
        "data_manifest_sha256": sha256_file(paths.processed / MANIFEST),
        "fcd_extractor_sha256": hashes[0],
        "fcd_second_extractor_sha256": hashes[1],
        "fcd_generated_images": values.evaluate.samples,
        "fcd_reference": "all test images",
        "fcd_blur_sigma_pixels": BLUR_SIGMA_PIXELS,
        "fcd_noise_levels": NOISE_LEVELS,
        "kid_features": "fcd_extractor",
        "kid_subset_images": SUBSET_IMAGES,
        "coverage_neighbours": NEIGHBOURS,
        "fid_weights_sha256": values.evaluate.inception_sha256 or None,
        "quantisation": "uint8",
        "near_quantile_of_test_images": NEAR_QUANTILE,
        "near_most_training_images": MOST_TRAINING_IMAGES,
        "interval_level": LEVEL,
        "interval_resamples": RESAMPLES,
        "prior": generator.prior.name,
        "temperature": 1.0,
        "classes": generator.config.classes,
        "importance_samples": values.evaluate.importance_samples,
        "importance_images": values.evaluate.importance_images,
        "seed": values.base.seed,
    }


def _finite(generator: Generator, terms_N2: torch.Tensor) -> None:
    """TrainingFailedError where a model's bound, or its fitted prior, is not a number: nothing of it is scored or registered."""
    bad = int((~torch.isfinite(terms_N2)).any(1).sum())
    if bad:
        raise TrainingFailedError(
            f"the bound of {bad} of {len(terms_N2)} test images is not finite: remove models/vae, lower fit.learning_rate and run again"
        )
    wrong = [name for name, tensor in generator.prior.tensors.items() if not tensor.isfinite().all()]
    if wrong:
        raise TrainingFailedError(
            f"the fitted prior {generator.prior.name} is not finite ({', '.join(wrong)}): choose another fit.prior, as normal"
        )


def assess(values: SimpleNamespace, paths: Paths, report: Path) -> None:
    """Score, draw and judge models/vae on the test split, and write all of it into the folder ``report``.

    Where ranks share work, each must call this: the files are the same.
    """
    facts, seed = read_manifest(paths.processed), values.base.seed
    fid_network = inception(values, paths)  # first: a wrong file is told before minutes of work
    generator = load_artefact(paths.model)
    network, extractor_hash = load_extractor(paths.extractor)
    second, second_hash = load_extractor(paths.extractor / SECOND)
    test, train = ImageShards(paths.processed / "test"), ImageShards(paths.processed / "train")
    index = pd.read_parquet(paths.processed / INDEX)
    log.info("likelihood of %d test images", len(test))
    terms_N2 = image_terms(generator.model, test, BATCH, seed)
    _finite(generator, terms_N2)
    likelihood, nll_N = _likelihood(values, generator, test, terms_N2)
    images, label_N = test.labelled(len(test))
    mean_ND, _ = generator.encode(images, label_N)
    copies = generator.decode(mean_ND, label_N)
    psnr_N = psnr_db(torch.from_numpy(images), torch.from_numpy(copies))
    scores, told = _latent_scores(generator, mean_ND, index, seed)
    metrics: Scores = {**likelihood, "psnr_db": float(psnr_N.mean()), **scores}
    metrics |= aggregate_scores(values, generator, test)
    log.info("FCD, kernel distance and coverage of %d samples", values.evaluate.samples)
    unseen = Featured.by(network, images)
    asked_N = generator.classes(values.evaluate.samples, seed)
    drawn = Featured.by(network, generator.sample(values.evaluate.samples, seed, label_N=asked_N))
    metrics |= feature_scores(values, generator, drawn, unseen, (network, second), paths)
    of_labels, shares = label_scores(network, (drawn.images_NHWC, asked_N), (images, label_N), train, facts["labels"])
    metrics |= of_labels
    metrics |= best_of_curve.write(values, generator, network, unseen.features_ND, report)
    metrics |= denoise_scores.write(generator, test, seed, report) | film_scores.write(generator, test, report)
    metrics |= codec_scores.write(generator, test, report)
    if fid_network is not None:
        log.info("FID of %d samples", values.evaluate.samples)
        metrics |= fid_scores(values, drawn.images_NHWC, fid_network, facts["mode"], paths)
    evaluate_pictures.write(report, generator, test, seed)
    extremes(images, copies, psnr_N, terms_N2, facts["mode"], report)
    metrics |= remembered(drawn, unseen, network, train, facts["mode"], report / "neighbours.png")
    bounds = intervals(metrics, terms_N2, psnr_N, nll_N, (unseen.features_ND, drawn.features_ND), seed)
    found = diagnose(metrics, generator.prior.name)
    draw_information(told, report / "factors.png")
    draw_shares(shares, report / "labels.png")
    if told is not None:
        told.to_csv(report / "factors.csv")
    slices(index[index["split"] == "test"], terms_N2, psnr_N).to_csv(report / SLICES, index=False)
    for name, content in (
        (METRICS, metrics),
        (INTERVALS, bounds),
        (DOCTOR, [asdict(finding) for finding in found]),
        (PROTOCOL, protocol(values, generator, (extractor_hash, second_hash), paths)),
    ):
        write_text(report / name, canonical_json(content))

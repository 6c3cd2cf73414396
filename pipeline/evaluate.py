"""Stage evaluate: judges models/vae on the test split, which neither tune nor train has seen.

In: data/processed, models/vae, models/extractor, reports/train/run.json. Out: reports/evaluate/{metrics.json, protocol.json,
latents.csv, samples.png, classes.png, reconstructions.png, interpolations.png, traversals.png, latents.png, factors.png}; where the
images come with known factors also factors.csv.
"""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline import evaluate_pictures, stage
from pipeline.outbox import connect
from pipeline.paths import INDEX, METRICS, RUN, SECOND, Paths
from pipeline.plots import draw_information
from pipeline.scores import (
    BLUR_SIGMA_PIXELS,
    NOISE_LEVELS,
    aggregate_scores,
    class_scores,
    feature_scores,
    fid_scores,
    inception,
)
from vae.artefact import Generator, load_artefact
from vae.data import ImageShards
from vae.extractor import load_extractor
from vae.files import MANIFEST, canonical_json, read_json, read_manifest, replaced_directory, sha256_file, write_text
from vae.images import to_model_range
from vae.metrics.bounds import bits_per_dim, importance_weighted_nll
from vae.metrics.factors import FACTOR_SCORES, factor_scores, information
from vae.metrics.frechet import TooFewSamplesError
from vae.metrics.kernel import SUBSET_IMAGES
from vae.metrics.manifold import NEIGHBOURS
from vae.metrics.terms import active_units, psnr_db
from vae.validation import bound, observed

PARAMS = ("base.seed", "evaluate")
THREADS = 2  # fixed: the number of threads changes the last bits of the result
BATCH = 256
log = logging.getLogger("pipeline.evaluate")


def _likelihood(values: SimpleNamespace, generator: Generator, test: ImageShards) -> dict[str, float]:
    section, seed = values.evaluate, values.base.seed
    terms, (images, label_N) = bound(generator.model, test, BATCH, seed), test.labelled(section.importance_images)
    some = observed(generator.model, to_model_range(torch.from_numpy(images)), seed, 0)
    nll_N = importance_weighted_nll(generator.model, some, section.importance_samples, seed, label_N)
    nll = float(nll_N.mean())
    return {
        **terms,
        "nll_nats": nll,
        "nll_standard_error_nats": float(nll_N.std() / len(nll_N) ** 0.5) if len(nll_N) > 1 else 0.0,
        "bits_per_dim": bits_per_dim(nll, test.image_shape),
    }


def _factor_scores(mean_ND: np.ndarray, factors: pd.DataFrame, seed: int) -> tuple[dict[str, float | None], pd.DataFrame | None]:
    """Scores of the latents against known ``factors``, and their information: rows factors, columns latents. None: too few images."""
    known_NF = factors.to_numpy(np.float64)
    try:
        scores: dict[str, float | None] = {**factor_scores(mean_ND, known_NF, seed)}
    except TooFewSamplesError as error:
        log.warning("no scores of known factors: %s", error)
        return dict.fromkeys(FACTOR_SCORES), None
    names = [name.removeprefix("factor_") for name in factors]
    return scores, pd.DataFrame(information(mean_ND, known_NF), index=pd.Index(names, name="factor"))


def _latent_scores(
    generator: Generator, test: ImageShards, index: pd.DataFrame, seed: int
) -> tuple[dict[str, float | None], pd.DataFrame | None]:
    """Scores of the posterior means, and where the images come with known factors what each latent of a vector tells of each."""
    images, label_N = test.labelled(len(test))
    mean_ND, _ = generator.encode(images, label_N)
    scores: dict[str, float | None] = {
        "psnr_db": psnr_db(torch.from_numpy(images), torch.from_numpy(generator.decode(mean_ND, label_N))),
        "active_units": active_units(mean_ND),
        "latent_dim": generator.config.latent_dim,
    }
    columns = [column for column in index if column.startswith("factor_")]
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
        "prior": generator.prior.name,
        "importance_samples": values.evaluate.importance_samples,
        "importance_images": values.evaluate.importance_images,
        "seed": values.base.seed,
    }


def evaluate(values: SimpleNamespace, paths: Paths) -> None:
    """Score, draw, write the report and add it to the training's MLflow run."""
    torch.set_num_threads(THREADS)
    facts = read_manifest(paths.processed)
    fid_network = inception(values, paths)  # first: a wrong file is told before minutes of work
    generator = load_artefact(paths.model)
    network, extractor_hash = load_extractor(paths.extractor)
    second, second_hash = load_extractor(paths.extractor / SECOND)
    test = ImageShards(paths.processed / "test")
    index = pd.read_parquet(paths.processed / INDEX)
    metrics: dict[str, float | None] = {}
    log.info("likelihood of %d test images", len(test))
    metrics |= _likelihood(values, generator, test)
    scores, told = _latent_scores(generator, test, index, values.base.seed)
    metrics |= scores
    metrics |= aggregate_scores(values, generator, test)
    log.info("FCD, kernel distance and coverage of %d samples", values.evaluate.samples)
    drawn_NHWC = generator.sample(values.evaluate.samples, values.base.seed)
    metrics |= feature_scores(values, generator, drawn_NHWC, (network, second), paths)
    metrics |= class_scores(generator, network, drawn_NHWC, test, values.base.seed)
    if fid_network is not None:
        log.info("FID of %d samples", values.evaluate.samples)
        metrics |= fid_scores(drawn_NHWC, fid_network, test, facts["mode"])
    tracker = connect(paths)
    run_id = read_json(paths.train_report / RUN)["run_id"]
    with replaced_directory(paths.evaluate_report) as report:
        evaluate_pictures.write(report, generator, test, values.base.seed)
        draw_information(told, report / "factors.png")
        if told is not None:
            told.to_csv(report / "factors.csv")
        write_text(report / METRICS, canonical_json(metrics))
        write_text(report / "protocol.json", canonical_json(protocol(values, generator, (extractor_hash, second_hash), paths)))
        if tracker.exists(run_id):
            tracker.metrics(run_id, {f"test_{name}": value for name, value in metrics.items() if value is not None})
            tracker.artifacts(run_id, report, "evaluate")
        else:
            log.warning("the training's run %s is not in %s: metrics are in %s only", run_id, tracker.uri, report)
    shown = ("elbo_nats", "nll_nats", "bits_per_dim", "fcd", "kid", "coverage", "psnr_db", "active_units")
    log.info("%s", ", ".join(f"{k} {metrics[k]:.4g}" for k in shown if metrics[k] is not None))


if __name__ == "__main__":
    stage.main("evaluate", PARAMS, evaluate, __doc__)

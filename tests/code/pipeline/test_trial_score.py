"""trial_score: each score of planted samples or latents is that of the metric itself, and images that do not support it are refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from configs import model_config, prior_config
from pipeline import trial_score
from pipeline.errors import BadDataError
from pipeline.trial_score import LATENTS, OF_FACTORS, OF_SAMPLES, SCORES, Scorer, settings
from vae.artefact import Generator
from vae.data import ImageShards, ShardWriter
from vae.metrics.factors import FACTOR_SCORES, factor_scores
from vae.metrics.frechet import frechet_distance, moments
from vae.metrics.kernel import kernel_distance
from vae.models import build
from vae.samplers import fit_prior

NETWORK = SimpleNamespace(features=lambda images: torch.as_tensor(np.array(images))[:, ::3, ::3].flatten(1).double() / 255)
COUNT = 450


def values(name: str, samples: int = COUNT) -> SimpleNamespace:
    tune = SimpleNamespace(score=name, score_samples=samples)
    return SimpleNamespace(
        tune=tune, base=SimpleNamespace(seed=3), fit=SimpleNamespace(prior_config=prior_config(name="mixture", steps=10))
    )


def write(folder, count: int) -> ImageShards:
    writer = ShardWriter(folder, (8, 8, 1), 1000)
    rng = np.random.default_rng(count)
    writer.add_all(rng.integers(0, 256, (count, 8, 8, 1)).astype(np.uint8))
    writer.close()
    return ImageShards(folder)


def write_index(project, count: int, **known: np.ndarray) -> None:
    """Rows of the training split stand before those of the validation split, as in data/processed."""
    rows = {"split": ["train"] * 600 + ["val"] * count}
    rows |= {f"factor_{name}": np.concatenate([np.full(600, -1.0), each]) for name, each in known.items()}
    pd.DataFrame(rows).to_parquet(project.paths.processed / "index.parquet")


@pytest.fixture
def filled(project, monkeypatch):
    """600 training and 450 validation images; the extractor is a fixed map of the pixels."""
    monkeypatch.setattr(trial_score, "load_extractor", lambda path: (NETWORK, "hash"))
    for split, count in (("train", 600), ("val", COUNT)):
        write(project.paths.processed / split, count)
    n = np.arange(COUNT)
    write_index(project, COUNT, shape=n % 3.0, size=np.sin(n))
    return project


def model():
    torch.manual_seed(0)
    return build(model_config(latent_dim=3)).eval()


@pytest.mark.parametrize("name", OF_SAMPLES)
def test_score_of_samples_is_that_of_the_finished_model(filled, name):
    told = settings(values(name), filled.paths, filled.paths.work / "state")
    train, val = (ImageShards(filled.paths.processed / split) for split in ("train", "val"))
    found = Scorer(told, model_config(latent_dim=3))(model())
    assert COUNT < len(train) < LATENTS  # so the prior is of all of them, not of as many as are drawn
    prior = fit_prior(model(), train.spread(LATENTS), prior_config(name="mixture", steps=10), 3)
    made_ND = NETWORK.features(Generator(model(), model_config(latent_dim=3), prior, {}).sample(COUNT, 3))
    real_ND = NETWORK.features(val.spread(COUNT))
    expected = {
        "fcd": frechet_distance(moments(real_ND), moments(made_ND)), "kid": kernel_distance(real_ND, made_ND, 3).value,
    }  # fmt: skip
    assert found == {SCORES[name][0]: pytest.approx(expected[name], rel=1e-9)} and expected[name] > 0


@pytest.mark.parametrize("name", OF_FACTORS)
def test_score_of_factors_is_that_of_the_validation_images_latents(filled, name):
    told = settings(values(name), filled.paths, filled.paths.work / "state")
    found = Scorer(told, model_config(latent_dim=3))(model())
    val, n = ImageShards(filled.paths.processed / "val"), np.arange(COUNT)
    with torch.no_grad():
        mean_ND = Generator(model(), model_config(latent_dim=3), None, {}).encode(val.slice(0, COUNT))[0]
    expected = factor_scores(mean_ND.numpy(), np.stack([n % 3.0, np.sin(n)], 1), 3)[name]
    assert found == {SCORES[name][0]: pytest.approx(expected, rel=1e-6, abs=1e-9)}
    assert set(OF_FACTORS) <= set(FACTOR_SCORES)


def test_bound_needs_no_settings(filled):
    assert settings(values("elbo_nats"), filled.paths, filled.paths.work / "state") is None


@pytest.mark.parametrize(
    ("name", "samples", "parts"),
    [
        ("fcd", 30, ("needs 36 images, there are 30", "to elbo_nats")),
        ("kid", 399, ("needs 400 images, there are 399", "to elbo_nats")),
        ("mig", COUNT, ("needs images with known factors, these have none", "to kid or elbo_nats")),
    ],
)
def test_images_that_do_not_support_a_score_are_refused_with_the_number_and_another(filled, name, samples, parts):
    write_index(filled, COUNT)
    with pytest.raises(BadDataError) as caught:
        settings(values(name, samples), filled.paths, filled.paths.work / "state")
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_too_few_images_with_factors_are_refused(filled):
    write_index(filled, 150, shape=np.arange(150) % 3.0)
    with pytest.raises(BadDataError, match="need 200 images, there are 150"):
        settings(values("mig"), filled.paths, filled.paths.work / "state")


def test_hierarchy_has_no_latents_to_tell_factors_by(filled):
    told = settings(values("mig"), filled.paths, filled.paths.work / "state")
    ladder = build(model_config(name="ladder"))
    with pytest.raises(ValueError, match="needs one vector of latents"):
        Scorer(told, model_config(name="ladder"))(ladder)

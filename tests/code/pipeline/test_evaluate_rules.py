"""Evaluate's rules: interpolation, which scores are given when, and the protocol they carry."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.evaluate import _between, _fcd_scores, _latent_scores, _likelihood, protocol
from vae.config import ModelConfig
from vae.data import ImageShards, ShardWriter
from vae.files import sha256_file, write_manifest
from vae.metrics.factors import FACTOR_SCORES
from vae.models import build


def angle(a: torch.Tensor, b: torch.Tensor) -> float:
    return math.acos(max(-1.0, min(1.0, float(torch.nn.functional.cosine_similarity(a, b, dim=0)))))


def pair(degrees: float, length_a: float, length_b: float) -> tuple[torch.Tensor, torch.Tensor]:
    radians = math.radians(degrees)
    a = torch.tensor([length_a, 0.0, 0.0], dtype=torch.float64)
    return a, torch.tensor([math.cos(radians), math.sin(radians), 0.0], dtype=torch.float64) * length_b


@pytest.mark.parametrize("degrees", [0.0, 1e-4, 30, 90, 150, 179])
def test_between_begins_and_ends_at_the_given_points(degrees):
    a, b = pair(degrees, 2.0, 3.0)
    points = _between(a, b, 9)
    assert points.shape == (9, 3)
    torch.testing.assert_close(points[0].double(), a, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(points[-1].double(), b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("degrees", [10, 60, 120, 170])
def test_between_points_of_equal_length_keep_it_at_equal_angles(degrees):
    a, b = pair(degrees, 2.0, 2.0)
    points = _between(a, b, 7).double()
    torch.testing.assert_close(points.norm(dim=1), torch.full((7,), 2.0, dtype=torch.float64), atol=1e-4, rtol=1e-4)
    steps = [math.degrees(angle(points[i], points[i + 1])) for i in range(6)]
    np.testing.assert_allclose(steps, degrees / 6, atol=0.02)


@pytest.mark.parametrize("degrees", [20, 90, 135, 160, 175])
@pytest.mark.parametrize("length", [1.5, 3.0])
def test_between_length_stays_between_those_of_the_ends(degrees, length):
    """Where the prior has its mass: a path that shoots out decodes to what no sample looks like."""
    points = _between(*pair(degrees, 1.0, length), 11)
    lengths = points.norm(dim=1)
    assert lengths.min() >= 0.999 and lengths.max() <= length * 1.001
    assert (lengths.diff() > -1e-4).all()


def test_between_equal_points_stay_where_they_are():
    a = torch.tensor([0.3, -0.4])
    torch.testing.assert_close(_between(a, a, 5), a.repeat(5, 1))


def test_between_origin_and_opposite_points_give_numbers():
    a = torch.tensor([1.0, 2.0])
    for start, end in ((torch.zeros(2), a), (a, torch.zeros(2)), (torch.zeros(2), torch.zeros(2)), (a, -a)):
        assert torch.isfinite(_between(start, end, 9)).all()


def shards(folder, images: np.ndarray) -> ImageShards:
    writer = ShardWriter(folder, images.shape[1:], 1000)
    for image in images:
        writer.add(image)
    writer.close()
    return ImageShards(folder)


class Planted:
    """A generator whose latents are two known numbers of each image, and whose samples are given."""

    def __init__(self, samples: np.ndarray) -> None:
        self._samples = samples
        self.config, self.prior = SimpleNamespace(latent_dim=3), SimpleNamespace(name="normal")

    def encode(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        flat = torch.from_numpy(images).flatten(1).float() / 255
        return torch.stack([flat[:, 0], flat[:, 1], torch.zeros(len(flat))], 1), torch.zeros(len(flat), 3)

    def decode(self, z_ND: torch.Tensor) -> np.ndarray:
        return self._samples[: len(z_ND)]

    def sample(self, n: int, seed: int) -> np.ndarray:
        return self._samples[:n]


NETWORK = SimpleNamespace(features=lambda images: torch.as_tensor(images).flatten(1)[:, :2].double())


def noise(count: int, seed: int, high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, (count, 2, 2, 1)).astype(np.uint8)


def planted(count: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Images whose first two pixels are known factors, and their index; before them a training image without any."""
    images = noise(count, 0)
    index = pd.DataFrame(images.reshape(count, 4)[:, :2], columns=["factor_a", "factor_b"]).assign(split="test")
    train = pd.DataFrame({"factor_a": [np.nan], "factor_b": [np.nan], "split": ["train"]})
    return images, pd.concat([train, index])


def test_latent_scores_known_factors_are_found_and_dead_units_do_not_count(tmp_path):
    images, index = planted(400)
    scores, told = _latent_scores(Planted(images), shards(tmp_path, images), index, 0)
    assert scores["latent_dim"] == 3 and scores["active_units"] == 2
    assert scores["mig"] > 0.7  # each factor is one latent; 20 bins of 400 values leave some chance information
    assert all(scores[name] > 0.95 for name in FACTOR_SCORES if name != "mig"), scores
    assert scores["psnr_db"] == pytest.approx(10 * math.log10(255**2 * 12))
    assert list(told.index) == ["a", "b"] and told.shape == (2, 3)
    np.testing.assert_allclose(np.diag(told), 1)
    assert (told[2] == 0).all()


def test_latent_scores_unknown_factors_give_none(tmp_path):
    images = noise(50, 0)
    test = shards(tmp_path, images)
    index = pd.DataFrame({"split": ["test"] * 50, "factor_a": [np.nan, *range(49)]})
    for known in (index, index[["split"]]):
        scores, told = _latent_scores(Planted(images), test, known, 0)
        assert not set(FACTOR_SCORES) & set(scores) and told is None


def test_latent_scores_few_images_say_nothing_about_factors(tmp_path):
    images, index = planted(50)
    scores, told = _latent_scores(Planted(images), shards(tmp_path, images), index, 0)
    assert all(scores[name] is None for name in FACTOR_SCORES) and told is None
    assert scores["active_units"] == 2


def values(samples: int) -> SimpleNamespace:
    section = SimpleNamespace(samples=samples, importance_samples=16, importance_images=7)
    return SimpleNamespace(base=SimpleNamespace(seed=0), evaluate=section)


def test_fcd_scores_copies_of_the_test_images_are_at_no_distance(project):
    real = noise(300, 1)
    shards(project.paths.processed / "test", real)
    shards(project.paths.processed / "train", noise(300, 2))
    same = _fcd_scores(values(300), Planted(real), NETWORK, project.paths)
    other = _fcd_scores(values(300), Planted(noise(300, 3, high=100)), NETWORK, project.paths)
    assert same["fcd"] == pytest.approx(0, abs=1e-6)
    assert same["fcd_real_floor"] == other["fcd_real_floor"] > 0
    assert other["fcd"] > 10 * same["fcd_real_floor"]


def test_fcd_scores_are_refused_below_the_minimum(project):
    few = noise(2, 1)
    shards(project.paths.processed / "test", few)
    shards(project.paths.processed / "train", few)
    assert _fcd_scores(values(2), Planted(few), NETWORK, project.paths) == {"fcd": None, "fcd_real_floor": None}


def test_likelihood_bits_and_errors_follow_from_nats(tmp_path):
    torch.manual_seed(0)
    model = build(
        ModelConfig(
            name="conv",
            image_shape=(8, 8, 1),
            latent_dim=2,
            widths=(8,),
            hidden_units=8,
            blocks=1,
            stochastic_layers=2,
            sigma=0.1,
            likelihood="logistic",
        )
    ).eval()
    test = shards(tmp_path, np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8))
    found = _likelihood(values(1), SimpleNamespace(model=model), test)
    assert found["bits_per_dim"] == pytest.approx(found["nll_nats"] / math.log(2) / 64)
    assert found["nll_standard_error_nats"] > 0
    whole = values(1)
    whole.evaluate.importance_images = 1000
    tighter = _likelihood(whole, SimpleNamespace(model=model), test)
    assert tighter["nll_nats"] <= -tighter["elbo_nats"] + 0.5  # more samples bound more tightly
    assert tighter["elbo_nats"] == found["elbo_nats"]
    single = values(1)
    single.evaluate.importance_images = 1
    assert _likelihood(single, SimpleNamespace(model=model), test)["nll_standard_error_nats"] == 0.0


def test_protocol_names_what_the_scores_depend_on(project):
    project.paths.processed.mkdir(parents=True)
    write_manifest(project.paths.processed, some="fact")
    found = protocol(values(123), Planted(noise(1, 0)), "abc", project.paths)
    assert found["data_manifest_sha256"] == sha256_file(project.paths.processed / "MANIFEST.json")
    assert found["fcd_extractor_sha256"] == "abc" and found["fcd_generated_images"] == 123
    assert (found["importance_samples"], found["importance_images"], found["seed"]) == (16, 7, 0)
    assert (found["split"], found["prior"]) == ("test", "normal")

"""Evaluate's rules: interpolation, which scores are given when, and the protocol they carry."""

from __future__ import annotations

import math
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from configs import model_config
from pipeline import scores
from pipeline.assessment import _latent_scores, _likelihood, protocol
from pipeline.errors import BadConfigError, BadDataError
from pipeline.scores import Featured, aggregate_scores, feature_scores, fid_scores, inception
from vae import artefact
from vae.data import ImageShards, ShardWriter
from vae.files import sha256_file, write_manifest
from vae.metrics.factors import FACTOR_SCORES
from vae.metrics.frechet import frechet_distance, minimum_samples, moments
from vae.metrics.inception import FEATURE_DIM
from vae.metrics.kernel import kernel_distance
from vae.metrics.manifold import density_and_coverage
from vae.models import build
from vae.use import between
from vae.validation import bound, image_terms


def angle(a: torch.Tensor, b: torch.Tensor) -> float:
    return math.acos(max(-1.0, min(1.0, float(torch.nn.functional.cosine_similarity(a, b, dim=0)))))


def pair(degrees: float, length_a: float, length_b: float) -> tuple[torch.Tensor, torch.Tensor]:
    radians = math.radians(degrees)
    a = torch.tensor([length_a, 0.0, 0.0], dtype=torch.float64)
    return a, torch.tensor([math.cos(radians), math.sin(radians), 0.0], dtype=torch.float64) * length_b


@pytest.mark.parametrize("degrees", [0.0, 1e-4, 30, 90, 150, 179])
def test_between_begins_and_ends_at_the_given_points(degrees):
    a, b = pair(degrees, 2.0, 3.0)
    points = between(a, b, 9)
    assert points.shape == (9, 3)
    torch.testing.assert_close(points[0].double(), a, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(points[-1].double(), b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("degrees", [10, 60, 120, 170])
def test_between_points_of_equal_length_keep_it_at_equal_angles(degrees):
    a, b = pair(degrees, 2.0, 2.0)
    points = between(a, b, 7).double()
    torch.testing.assert_close(points.norm(dim=1), torch.full((7,), 2.0, dtype=torch.float64), atol=1e-4, rtol=1e-4)
    steps = [math.degrees(angle(points[i], points[i + 1])) for i in range(6)]
    np.testing.assert_allclose(steps, degrees / 6, atol=0.02)


@pytest.mark.parametrize("degrees", [20, 90, 135, 160, 175])
@pytest.mark.parametrize("length", [1.5, 3.0])
def test_between_length_stays_between_those_of_the_ends(degrees, length):
    """Where the prior has its mass: a path that shoots out decodes to what no sample looks like."""
    points = between(*pair(degrees, 1.0, length), 11)
    lengths = points.norm(dim=1)
    assert lengths.min() >= 0.999 and lengths.max() <= length * 1.001
    assert (lengths.diff() > -1e-4).all()


def test_between_equal_points_stay_where_they_are():
    a = torch.tensor([0.3, -0.4])
    torch.testing.assert_close(between(a, a, 5), a.repeat(5, 1))


def test_between_origin_and_opposite_points_give_numbers():
    a = torch.tensor([1.0, 2.0])
    for start, end in ((torch.zeros(2), a), (a, torch.zeros(2)), (torch.zeros(2), torch.zeros(2)), (a, -a)):
        assert torch.isfinite(between(start, end, 9)).all()


def shards(folder, images: np.ndarray) -> ImageShards:
    writer = ShardWriter(folder, images.shape[1:], 1000)
    for image in images:
        writer.add(image)
    writer.close()
    return ImageShards(folder)


class Planted:
    """A generator whose latents are two known numbers of each image, and whose samples are given; images come back as they are."""

    device, vector_latents = torch.device("cpu"), True

    def __init__(self, samples: np.ndarray) -> None:
        self._samples, self.model = samples, self
        self.config, self.prior = SimpleNamespace(latent_dim=3, classes=0), SimpleNamespace(name="normal")

    def encode(self, images: np.ndarray, label_N: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        flat = torch.from_numpy(images).flatten(1).float() / 255
        return torch.stack([flat[:, 0], flat[:, 1], torch.zeros(len(flat))], 1), torch.zeros(len(flat), 3)

    def decode(self, z_ND: torch.Tensor, label_N: torch.Tensor | None = None) -> np.ndarray:
        return self._samples[: len(z_ND)]

    def sample(self, n: int, seed: int) -> np.ndarray:
        return self._samples[:n]

    def reconstruct(self, images: np.ndarray, label_N: torch.Tensor | None = None) -> np.ndarray:
        return images


class Hierarchy(Planted):
    """... whose second layer's posterior would depend on the sample of the first."""

    vector_latents = False


def pixels(some: slice) -> SimpleNamespace:
    """A network whose features are some pixels."""
    return SimpleNamespace(features=lambda images: torch.as_tensor(images).flatten(1)[:, some].double())


NETWORK, SECOND = pixels(slice(2)), pixels(slice(2, None))


def noise(count: int, seed: int, high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, (count, 2, 2, 1)).astype(np.uint8)


def planted(count: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Images whose first two pixels are known factors, and their index; before them a training image without any."""
    images = noise(count, 0)
    index = pd.DataFrame(images.reshape(count, 4)[:, :2], columns=["factor_a", "factor_b"]).assign(split="test")
    train = pd.DataFrame({"factor_a": [np.nan], "factor_b": [np.nan], "split": ["train"]})
    return images, pd.concat([train, index])


def test_latent_scores_known_factors_are_found_and_dead_units_do_not_count():
    images, index = planted(400)
    scores, told = _latent_scores(Planted(images), Planted(images).encode(images)[0], index, 0)
    assert scores["latent_dim"] == 3 and scores["active_units"] == 2
    assert scores["mig"] > 0.7  # each factor is one latent; 20 bins of 400 values leave some chance information
    assert all(scores[name] > 0.95 for name in FACTOR_SCORES if name != "mig"), scores
    assert list(told.index) == ["a", "b"] and told.shape == (2, 3)
    np.testing.assert_allclose(np.diag(told), 1)
    assert (told[2] == 0).all()


def test_latent_scores_unknown_factors_give_none():
    images = noise(50, 0)
    index = pd.DataFrame({"split": ["test"] * 50, "factor_a": [np.nan, *range(49)]})
    for known in (index, index[["split"]]):
        scores, told = _latent_scores(Planted(images), Planted(images).encode(images)[0], known, 0)
        assert not set(FACTOR_SCORES) & set(scores) and told is None


def test_latent_scores_few_images_say_nothing_about_factors():
    images, index = planted(50)
    scores, told = _latent_scores(Planted(images), Planted(images).encode(images)[0], index, 0)
    assert all(scores[name] is None for name in FACTOR_SCORES) and told is None
    assert scores["active_units"] == 2


def values(samples: int, weights: str = "", sha256: str = "") -> SimpleNamespace:
    section = SimpleNamespace(
        samples=samples, importance_samples=16, importance_images=7, inception_weights=weights, inception_sha256=sha256
    )
    return SimpleNamespace(base=SimpleNamespace(seed=0), evaluate=section)


@pytest.fixture
def split(project):
    """500 real test images, of which the generator in a test may make copies, and 900 for training."""
    real = noise(500, 1)
    shards(project.paths.processed / "test", real)
    shards(project.paths.processed / "train", noise(900, 2))
    return real


FLOORS = ("fcd_real_floor", "fcd_half_floor", "fcd_blurred", "fcd_noised", "fcd_reconstructions", "kid_real_floor")
FLOORS += ("fcd_second_real_floor", "density_real", "coverage_real", "precision_real")


def scored(project, samples: int, drawn: np.ndarray) -> scores.Scores:
    """Scores of the first ``samples`` of ``drawn``, as its generator draws them; the second network sees other pixels."""
    generator = Planted(drawn)
    test = ImageShards(project.paths.processed / "test")
    drawn, unseen = (Featured.by(NETWORK, each) for each in (generator.sample(samples, 0), test.slice(0, len(test))))
    return feature_scores(values(samples), generator, drawn, unseen, (NETWORK, SECOND), project.paths)


def test_feature_scores_copies_are_at_no_distance_and_others_beyond_what_real_images_score(project, split):
    same = scored(project, 500, split)
    other = scored(project, 500, noise(500, 3, high=100))
    assert same["fcd"] == pytest.approx(0, abs=1e-6)
    assert other["fcd"] > 10 * same["fcd_real_floor"]
    assert same["kid"] < same["kid_real_floor"] + 4 * same["kid_standard_error"] < other["kid"]
    assert (same["density"], same["coverage"], same["precision"]) == (pytest.approx(1, abs=0.05), 1.0, 1.0)
    assert other["coverage"] < 0.5 < same["coverage_real"] < 1
    assert 0.9 < same["precision_real"] < 1
    assert other["density_real"] == pytest.approx(1, abs=0.2)


def test_feature_scores_of_real_and_spoilt_images_do_not_depend_on_the_generator(project, split):
    found = [scored(project, 500, each) for each in (split, noise(500, 3, high=9))]
    assert {name: found[0][name] for name in FLOORS} == {name: found[1][name] for name in FLOORS}
    assert found[0]["fcd_real_floor"] > 0 and found[0]["fcd_half_floor"] > 0
    assert found[0]["fcd_reconstructions"] == pytest.approx(0, abs=1e-6)  # this generator's are exact
    # Noise upon noise changes little; blurring four unrelated pixels takes most of their spread.
    assert 0 < found[0]["fcd_noised"] < 0.1 * found[0]["fcd_blurred"]


def test_feature_scores_are_those_of_the_metrics(project, split):
    made = noise(500, 3, high=200)
    found = scored(project, 450, made)
    real, fake = NETWORK.features(split), NETWORK.features(made[:450])
    assert found["fcd"] == frechet_distance(moments(real), moments(fake))
    kernel = kernel_distance(real, fake, 0)
    assert (found["kid"], found["kid_standard_error"]) == (kernel.value, kernel.standard_error)
    rows = np.linspace(0, 499, 450).round().astype(int)  # coverage rises with the number of generated images: equal counts
    manifold = density_and_coverage(real[rows], fake)
    assert (found["density"], found["coverage"]) == (manifold.density, manifold.coverage)
    assert found["precision"] == manifold.precision


def test_feature_scores_below_their_own_minimum_are_refused_each_with_a_reason(project, caplog):
    few = noise(100, 1)
    shards(project.paths.processed / "test", few)
    shards(project.paths.processed / "train", few)
    found = scored(project, 100, few)
    given = {name for name, value in found.items() if value is not None}
    assert given == {"fcd", "fcd_second", *(name for name in FLOORS if name.startswith("fcd"))}
    assert "no kid, kid_standard_error, kid_real_floor: a kernel distance in subsets of 200 needs 400 images" in caplog.text
    assert (
        "no density, density_real, coverage, coverage_real, precision, precision_real: density and coverage need 400 images"
        in caplog.text
    )
    nothing = scored(project, 2, few)
    assert {nothing[name] for name in ("fcd", "fcd_real_floor", "fcd_half_floor", "fcd_second", "fcd_second_real_floor")} == {
        None
    }


def test_second_network_sees_what_the_first_overlooks(project, split):
    drawn = split.copy()
    drawn.reshape(len(drawn), 4)[:, 2:] //= 3
    found = scored(project, 500, drawn)
    assert found["fcd"] == pytest.approx(0, abs=1e-6)
    assert found["fcd_second"] == frechet_distance(moments(SECOND.features(split)), moments(SECOND.features(drawn)))
    assert 0 < found["fcd_second_real_floor"] < found["fcd_second"] / 10


def test_spoilt_images_are_spoilt_by_the_stated_strength(tmp_path):
    flat = np.full((40, 32, 32, 3), 128, np.uint8)
    np.testing.assert_array_equal(scores.blurred(flat), flat)
    errors = scores.noised(flat, 0).numpy() - 128.0
    assert errors.std() == pytest.approx(16, rel=0.02) and abs(errors.mean()) < 0.2
    np.testing.assert_array_equal(scores.noised(flat, 0), scores.noised(flat, 0))
    assert not np.array_equal(scores.noised(flat, 0), scores.noised(flat, 1))
    spot = np.zeros((1, 33, 33, 1), np.uint8)
    spot[0, 16, 16] = 255
    spread = scores.blurred(spot).numpy()[0, :, :, 0].astype(float)
    distances = np.add.outer((np.arange(33) - 16) ** 2, (np.arange(33) - 16) ** 2)
    assert (spread * distances).sum() / spread.sum() / 2 == pytest.approx(1, rel=0.1)  # the variance along each side


def test_aggregate_scores_parts_add_up_and_a_hierarchy_has_none(tmp_path, caplog):
    images = noise(300, 0)
    test = shards(tmp_path, images)
    found = aggregate_scores(values(300), Planted(images), test)
    mean, logvar = Planted(images).encode(images)
    rate = float((0.5 * (mean.double() ** 2 + logvar.double().exp() - 1 - logvar.double())).sum(1).mean())
    assert found["aggregate_kl_nats"] + found["mutual_information_nats"] == pytest.approx(rate)
    assert found["mutual_information_ceiling_nats"] == pytest.approx(math.log(300))
    assert found["aggregate_moment_gap_nats"] <= found["aggregate_kl_nats"] + 0.05
    assert aggregate_scores(values(50), Planted(images), test)["mutual_information_ceiling_nats"] == pytest.approx(math.log(50))
    assert set(aggregate_scores(values(300), Hierarchy(images), test).values()) == {None}
    assert "hierarchy" in caplog.text


def test_aggregate_scores_of_a_real_model_are_numbers(tmp_path):
    test = shards(tmp_path, np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8))
    generator = artefact.Generator(small_model(), SimpleNamespace(latent_dim=2, image_shape=(8, 8, 1)), None, {})
    assert all(math.isfinite(value) for value in aggregate_scores(values(20), generator, test).values())


def test_no_weights_of_inception_no_network(project):
    assert inception(values(1), project.paths) is None


def test_wrong_weights_of_inception_are_bad_data_and_name_the_parameters(project):
    (project.root / "weights.pth").write_text("no weights")
    with pytest.raises(BadDataError, match=r"weights.pth has the sha256 .*evaluate.inception_sha256 of params.yaml"):
        inception(values(1, "weights.pth", "0" * 64), project.paths)


@pytest.mark.parametrize(
    ("weights", "sha256", "message"),
    [
        ("a.pth", "", "evaluate.inception_sha256: is empty"),
        ("", "0" * 64, "evaluate.inception_weights: is empty"),
        ("a.pth", "0" * 63, "is not 64 hexadecimal digits"),
        ("a.pkl", "0" * 64, "neither a .pth nor a .safetensors file"),
    ],
)
def test_parameters_of_inception_go_together(project, weights, sha256, message):
    with pytest.raises(BadConfigError, match=message):
        project.values(("evaluate",), evaluate__inception_weights=weights, evaluate__inception_sha256=sha256)
    whole = project.values(("evaluate",), evaluate__inception_weights="a.pth", evaluate__inception_sha256="0" * 64)
    assert whole.evaluate.inception_weights == "a.pth"


def put_test_images(project, images: np.ndarray) -> None:
    """data/processed with these test images."""
    shutil.rmtree(project.paths.processed, ignore_errors=True)
    shards(project.paths.processed / "test", images)
    write_manifest(project.paths.processed)


class SixFeatures:
    """Stands for Inception: sees RGB only, and counts what it was shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def features(self, images: np.ndarray) -> torch.Tensor:
        self.seen.append(images.shape)
        return torch.as_tensor(images).flatten(1)[:, :6].double()


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4), ("HSV", 3)])
def test_fid_is_of_pictures_as_they_are_seen(project, monkeypatch, mode, channels):
    monkeypatch.setattr(scores, "FEATURE_DIM", 6)
    images = np.random.default_rng(0).integers(0, 256, (60, 2, 4, channels)).astype(np.uint8)
    network, seen = SixFeatures(), (60, 2, 4, 1 if mode == "L" else 3)
    put_test_images(project, images)
    assert fid_scores(values(60), images, network, mode, project.paths)["fid"] == pytest.approx(0, abs=1e-6)
    assert network.seen == [seen] * 2
    again = fid_scores(values(60), images[::-1].copy(), network, mode, project.paths)
    assert again["fid"] == pytest.approx(0, abs=1e-6) and network.seen == [seen] * 3  # the test images' moments are known


def test_fid_is_that_of_these_images_and_these_weights(project, monkeypatch):
    monkeypatch.setattr(scores, "FEATURE_DIM", 6)
    images, network = noise(60, 0), SixFeatures()
    put_test_images(project, images)
    first = fid_scores(values(60), images, network, "L", project.paths)
    put_test_images(project, noise(60, 5))
    other = fid_scores(values(60), images, network, "L", project.paths)
    fid_scores(values(60, sha256="b" * 64), images, network, "L", project.paths)
    assert len(network.seen) == 6 and other["fid"] > first["fid"]
    for file in (project.paths.work / "reference").iterdir():
        file.write_bytes(file.read_bytes()[:50])
    assert fid_scores(values(60), images, network, "L", project.paths) == other and len(network.seen) == 8


def test_fid_of_too_few_images_is_refused_before_any_feature(project, caplog):
    images, network = noise(60, 0), SixFeatures()
    put_test_images(project, images)
    assert fid_scores(values(60), images, network, "L", project.paths) == {"fid": None}
    assert network.seen == []
    assert f"no fid: FID needs {minimum_samples(FEATURE_DIM)} test images and evaluate.samples, there are 60" in caplog.text


def small_model():
    torch.manual_seed(0)
    return build(model_config(latent_dim=2, widths=(8,), hidden_units=8)).eval()


def test_likelihood_bits_and_errors_follow_from_nats(tmp_path):
    generator = SimpleNamespace(model=small_model())
    test = shards(tmp_path, np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8))
    terms_N2 = image_terms(generator.model, test, 8, 0)
    found, nll_N = _likelihood(values(1), generator, test, terms_N2)
    assert found["nll_nats"] == pytest.approx(float(nll_N.mean())) and len(nll_N) == 7
    for name, value in bound(generator.model, test, 8, 0).items():
        assert found[name] == pytest.approx(value, rel=1e-12)
    assert found["bits_per_dim"] == pytest.approx(found["nll_nats"] / math.log(2) / 64)
    assert found["nll_standard_error_nats"] > 0
    whole = values(1)
    whole.evaluate.importance_images = 1000
    tighter, _ = _likelihood(whole, generator, test, terms_N2)
    assert tighter["nll_nats"] <= -tighter["elbo_nats"] + 0.5  # more samples bound more tightly
    assert tighter["elbo_nats"] == found["elbo_nats"]
    single = values(1)
    single.evaluate.importance_images = 1
    assert _likelihood(single, generator, test, terms_N2)[0]["nll_standard_error_nats"] == 0.0


def test_protocol_names_what_the_scores_depend_on(project):
    project.paths.processed.mkdir(parents=True)
    write_manifest(project.paths.processed, some="fact")
    found = protocol(values(123), Planted(noise(1, 0)), ("abc", "def"), project.paths)
    assert found["data_manifest_sha256"] == sha256_file(project.paths.processed / "MANIFEST.json")
    assert (found["fcd_extractor_sha256"], found["fcd_second_extractor_sha256"]) == ("abc", "def")
    assert found["fcd_generated_images"] == 123
    assert (found["importance_samples"], found["importance_images"], found["seed"]) == (16, 7, 0)
    assert (found["split"], found["prior"], found["classes"]) == ("test", "normal", 0)
    assert (found["kid_subset_images"], found["coverage_neighbours"]) == (200, 5)
    assert (found["fcd_blur_sigma_pixels"], found["fcd_noise_levels"]) == (1.0, 16.0)
    assert found["fid_weights_sha256"] is None
    assert (
        protocol(values(1, "w.pth", "f" * 64), Planted(noise(1, 0)), ("abc", "def"), project.paths)["fid_weights_sha256"]
        == "f" * 64
    )

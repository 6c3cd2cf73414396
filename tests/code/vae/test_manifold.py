"""manifold: density and coverage against scikit-learn's neighbours, closed forms, and planted clouds, doubles and outliers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from vae.metrics import manifold
from vae.metrics.frechet import TooFewSamplesError
from vae.metrics.manifold import MINIMUM_IMAGES, density_and_coverage


def cloud(count: int, dim: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + shift


def by_scikit_learn(real: np.ndarray, generated: np.ndarray, k: int) -> tuple[float, float, float]:
    radii = NearestNeighbors(n_neighbors=k + 1).fit(real).kneighbors(real)[0][:, k]
    inside = np.linalg.norm(generated[:, None] - real[None], axis=2) < radii[None]
    return inside.sum() / (k * len(generated)), inside.any(0).mean(), inside.any(1).mean()


@pytest.mark.parametrize("k", [1, 5, 9])
@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_scores_equal_those_by_scikit_learn(k: int, shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifold, "BLOCK_VALUES", 7 * 450)  # blocks that do not divide the counts
    real, generated = cloud(450, 6, 0), cloud(611, 6, 1, shift)
    found = density_and_coverage(real, generated, k)
    density, coverage, precision = by_scikit_learn(real.double().numpy(), generated.double().numpy(), k)
    assert found.density == pytest.approx(density, rel=1e-12)
    assert found.coverage == pytest.approx(coverage, rel=1e-12)
    assert found.precision == pytest.approx(precision, rel=1e-12)


@pytest.mark.parametrize("dim", [2, 64])
def test_fresh_sample_has_the_expected_density_and_coverage_in_any_dimension(dim: int) -> None:
    # Lemma 1 and 2 of Naeem et al.: 1, and 1 - (N-1)...(N-k) / (2N-1)...(2N-k), whatever the distribution.
    n, k = 2000, 5
    found = density_and_coverage(cloud(n, dim, 0), cloud(n, dim, 1), k)
    expected = 1 - np.prod([(n - i) / (2 * n - i) for i in range(1, k + 1)])
    assert found.density == pytest.approx(1, abs=0.06)
    assert found.coverage == pytest.approx(expected, abs=0.015)


def test_identical_sets_score_one_and_disjoint_ones_zero() -> None:
    real = cloud(500, 8, 0)
    same, apart = density_and_coverage(real, real), density_and_coverage(real, real + 100)
    assert (same.density, same.coverage, same.precision) == (
        1.0,
        1.0,
        1.0,
    )  # a ball without its border: the image and k - 1 neighbours
    assert (apart.density, apart.coverage, apart.precision) == (0.0, 0.0, 0.0)


def test_lost_modes_lower_coverage_by_their_share_and_leave_density() -> None:
    centres = 50 * torch.eye(10)
    real = centres.repeat(100, 1) + cloud(1000, 10, 0)
    generated = centres[:3].repeat(400, 1)[:1000] + cloud(1000, 10, 1)
    found = density_and_coverage(real, generated)
    assert 0.25 < found.coverage <= 0.3
    assert found.density > 0.9


def test_collapse_onto_one_real_image_is_dense_and_covers_almost_nothing() -> None:
    real = cloud(800, 4, 0)
    neighbours = (
        NearestNeighbors(n_neighbors=5).fit(real).kneighbors(real, return_distance=False)
    )  # itself and four: inside its ball
    most_often = np.bincount(neighbours.ravel()).argmax()
    found = density_and_coverage(real, real[most_often] + 1e-4 * cloud(800, 4, 1))
    assert found.density > 1
    assert found.coverage < 0.05


def test_outlier_among_the_real_images_does_not_make_noise_look_good() -> None:
    # Its ball is enormous: whoever counts images that lie in any ball (precision) would be content with anything.
    real = cloud(1000, 4, 0)
    real[0] = 100.0
    generated = cloud(1000, 4, 1, 40.0)
    distances = torch.cdist(generated.double(), real.double())
    radius = torch.cdist(real[:1].double(), real.double()).sort().values[0, 5]
    assert (distances[:, 0] < radius).all()  # precision: 1
    found = density_and_coverage(real, generated)
    assert found.density == pytest.approx(1 / 5, abs=1e-9)  # one ball of the k that are expected
    assert found.coverage == pytest.approx(1 / 1000, abs=1e-9)


def test_outliers_among_the_generated_images_lower_density_by_their_share_and_leave_coverage() -> None:
    real, generated = cloud(1000, 4, 0), cloud(1000, 4, 1)
    before = density_and_coverage(real, torch.cat([generated, generated]))
    after = density_and_coverage(real, torch.cat([generated, generated + 1000]))
    assert after.density == pytest.approx(before.density / 2)
    assert after.coverage == before.coverage


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_doubles_are_no_neighbours_of_rounding_and_their_copies_are_inside(offset: float) -> None:
    # Eight doubles of each image: no ball has a radius, and only copies are in it.
    real = (cloud(60, 16, 0) + offset).repeat(8, 1)
    copies, fresh = density_and_coverage(real, real.flip(0)), density_and_coverage(real, cloud(480, 16, 1) + offset)
    assert (copies.density, copies.coverage) == (8 / 5, 1.0)
    assert (fresh.density, fresh.coverage) == (0.0, 0.0)
    half = density_and_coverage(real, real[torch.arange(480) % 60 // 2])
    assert half.coverage == 0.5


def test_scores_do_not_depend_on_place_scale_rotation_or_order() -> None:
    real, generated = cloud(500, 6, 0).double(), cloud(500, 6, 1, 0.3).double()
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    found = density_and_coverage(real, generated)
    for moved in (lambda x: x + 1000, lambda x: 1e-4 * x, lambda x: x @ rotation, lambda x: x.flip(0)):
        assert density_and_coverage(moved(real), moved(generated)) == found


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = cloud(450, 6, 0), cloud(420, 6, 1)
    whole = density_and_coverage(real, generated)
    monkeypatch.setattr(manifold, "BLOCK_VALUES", 1)  # a row at a time
    assert density_and_coverage(real, generated) == whole


@pytest.mark.parametrize(("left", "right"), [(MINIMUM_IMAGES - 1, 1000), (1000, MINIMUM_IMAGES - 1)])
def test_too_few_images_on_either_side_are_refused_with_both_numbers(left: int, right: int) -> None:
    with pytest.raises(TooFewSamplesError, match=rf"need {MINIMUM_IMAGES} images, there are {MINIMUM_IMAGES - 1}$"):
        density_and_coverage(cloud(left, 2, 0), cloud(right, 2, 1))
    density_and_coverage(cloud(MINIMUM_IMAGES, 2, 0), cloud(MINIMUM_IMAGES, 2, 1))

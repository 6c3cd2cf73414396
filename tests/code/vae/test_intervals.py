"""intervals: as often right as they say, against distances and means that are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from vae.metrics.frechet import frechet_distance, moments
from vae.metrics.intervals import _weighted, frechet_difference, frechet_interval, mean_interval


def cloud(count: int, dim: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + shift


def test_weighted_moments_are_those_of_repeated_rows() -> None:
    features_ND = cloud(40, 5, 0).double() + 3
    picked = torch.randint(0, 40, (60,), generator=torch.Generator().manual_seed(1))
    found, expected = _weighted(features_ND, torch.bincount(picked, minlength=40).double()), moments(features_ND[picked])
    torch.testing.assert_close(found.mean_D, expected.mean_D)
    torch.testing.assert_close(found.cov_DD, expected.cov_DD)
    assert found.count == expected.count == 60


def test_frechet_interval_holds_the_true_distance_about_as_often_as_it_says() -> None:
    # Of N(0, I) and N(0.2, I) in 8 dimensions the distance is 8 * 0.04; that of 400 samples is biased upwards.
    inside, above = 0, 0
    for seed in range(40):
        a, b = cloud(400, 8, 2 * seed), cloud(400, 8, 2 * seed + 1, 0.2)
        value = frechet_distance(moments(a), moments(b))
        low, high = frechet_interval(a, b, value, seed, resamples=100)
        inside += low <= 0.32 <= high
        above += value > 0.32
        assert 0 <= low < high
    assert above > 25  # the bias is there
    assert inside >= 34  # 38 are expected; 33 or fewer would have a chance of 1 in 100


def test_frechet_interval_shrinks_with_the_number_of_images() -> None:
    widths = []
    for count in (200, 3200):
        a, b = cloud(count, 4, 0), cloud(count, 4, 1, 1.0)
        low, high = frechet_interval(a, b, frechet_distance(moments(a), moments(b)), 0, resamples=100)
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.4)


def test_frechet_interval_is_a_function_of_its_arguments() -> None:
    a, b = cloud(100, 3, 0), cloud(120, 3, 1)
    first, second, other = (frechet_interval(a, b, 0.3, seed, resamples=20) for seed in (0, 0, 1))
    assert first == second != other


def test_mean_interval_is_that_of_the_normal_distribution_for_many_values() -> None:
    values = torch.from_numpy(np.random.default_rng(0).gamma(2.0, 3.0, 3000))
    low, high = mean_interval(values, 0)
    half = scipy.stats.norm.ppf(0.975) * float(values.std()) / 3000**0.5
    assert low == pytest.approx(float(values.mean()) - half, abs=0.25 * half)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.25 * half)


def test_difference_of_two_models_is_told_more_exactly_than_their_distances() -> None:
    real, noise = cloud(1500, 4, 0), cloud(1500, 4, 1)
    a, b = noise * 1.10, noise * 1.12  # of the same latents
    value, (low, high) = frechet_difference(real, a, b, 0)
    assert value == pytest.approx(frechet_distance(moments(real), moments(a)) - frechet_distance(moments(real), moments(b)))
    of_a, of_b = (frechet_interval(real, each, frechet_distance(moments(real), moments(each)), 0) for each in (a, b))
    assert low < high < 0 and of_a[1] > of_b[0]  # apart beyond doubt, which their own intervals do not show
    assert frechet_difference(real, b, a, 0)[0] == -value
    assert frechet_difference(real, a, b, 0) == (value, (low, high))
    with pytest.raises(ValueError, match="1500 and 1499 samples cannot be paired"):
        frechet_difference(real, a, b[1:], 0)


@pytest.mark.parametrize("seed", range(3))
def test_difference_of_equally_good_models_has_zero_within(seed: int) -> None:
    _, (low, high) = frechet_difference(*(cloud(800, 4, first + seed) for first in (10, 20, 30)), 0)
    assert low < 0 < high

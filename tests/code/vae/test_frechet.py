"""frechet: the distance against scipy's matrix root, its axioms, and its refusal."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from vae.metrics.frechet import BLOCK_COLUMNS, Moments, TooFewSamplesError, frechet_distance, minimum_samples, moments


def cloud(count: int, dim: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64) @ mixing + shift


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root.real))


@pytest.mark.parametrize("dim", [2, 7, 20])
def test_distance_equals_scipy_matrix_root(dim: int) -> None:
    a, b = cloud(200, dim, 0), cloud(150, dim, 1, shift=0.7)
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(by_scipy(a.numpy(), b.numpy()), rel=1e-7)


def test_distance_of_one_dimension_follows_the_closed_form() -> None:
    one = torch.eye(1, dtype=torch.float64)
    a, b = Moments(torch.tensor([1.0]), 9 * one, 10), Moments(torch.tensor([3.0]), 4 * one, 10)
    assert frechet_distance(a, b) == pytest.approx((1 - 3) ** 2 + (3 - 2) ** 2)


def test_moments_equal_numpy_whatever_the_float_type() -> None:
    features = cloud(100, 5, 0, shift=1000.0).float()  # a large mean: single precision would lose the covariance
    found = moments(features)
    np.testing.assert_allclose(found.mean_D, features.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.cov_DD, np.cov(features.double().numpy(), rowvar=False), rtol=1e-9, atol=1e-9)
    assert found.count == 100 and found.cov_DD.dtype == torch.float64


def test_moments_of_more_columns_than_a_block_equal_numpy() -> None:
    dim = BLOCK_COLUMNS + 30
    features = torch.randn(minimum_samples(dim), dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(1)
    np.testing.assert_allclose(moments(features).cov_DD, np.cov(features.numpy(), rowvar=False), rtol=1e-9, atol=1e-9)


def test_distance_is_the_same_by_a_root_where_there_is_no_cholesky_factor() -> None:
    a, b = moments(cloud(200, 6, 0)), moments(cloud(200, 6, 1))
    singular = a.cov_DD.clone()
    singular[5], singular[:, 5] = 0, 0
    assert int(torch.linalg.cholesky_ex(singular).info)
    nearly = singular + 1e-13 * torch.eye(6, dtype=torch.float64)
    assert not int(torch.linalg.cholesky_ex(nearly).info)
    found = [frechet_distance(Moments(a.mean_D, cov_DD, 200), b) for cov_DD in (singular, nearly)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_distance_of_a_set_to_itself_is_zero() -> None:
    a = moments(cloud(200, 8, 0))
    assert 0 <= frechet_distance(a, a) < 1e-9


def test_distance_of_a_shifted_set_is_the_squared_shift() -> None:
    a = cloud(200, 8, 0)
    shift = torch.arange(8, dtype=torch.float64)
    assert frechet_distance(moments(a), moments(a + shift)) == pytest.approx(float(shift.square().sum()), rel=1e-9)


def test_distance_is_symmetric() -> None:
    a, b = moments(cloud(200, 8, 0)), moments(cloud(100, 8, 3, shift=-1))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_distance_of_singular_covariances_is_finite_and_right() -> None:
    # Features that never vary on one side: the roots of tiny negative eigenvalues must not turn up as NaN.
    a, b = cloud(200, 6, 0), cloud(200, 6, 1)
    a[:, 3:] = 0
    b[:, :3] = 0
    expected = np.trace(np.cov(a.numpy(), rowvar=False)) + np.trace(np.cov(b.numpy(), rowvar=False))
    expected += float((a.mean(0) - b.mean(0)).square().sum())
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(expected, rel=1e-6)


def test_distance_of_other_features_is_far_above_that_of_a_fresh_sample() -> None:
    a = cloud(4000, 4, 0)
    assert frechet_distance(moments(a[:2000]), moments(a[2000:])) < 0.1 * frechet_distance(moments(a), moments(cloud(2000, 4, 1)))


@pytest.mark.parametrize("dim", [3, 64])
def test_moments_below_the_minimum_are_refused_with_both_numbers(dim: int) -> None:
    needed = minimum_samples(dim)
    assert needed > dim  # else the covariance is singular
    with pytest.raises(TooFewSamplesError, match=rf"needs {needed} images, there are {needed - 1}$"):
        moments(torch.randn(needed - 1, dim))
    assert moments(torch.randn(needed, dim)).count == needed

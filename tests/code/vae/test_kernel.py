"""kernel: the distance against sums over pairs written out, its lack of bias, its error against many draws, its refusal."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel

from vae.metrics.frechet import TooFewSamplesError
from vae.metrics.kernel import kernel_distance, minimum_samples, two_samples


def cloud(count: int, dim: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + shift


def by_pairs(a: np.ndarray, b: np.ndarray) -> float:
    """The estimator of Gretton et al. 2012, one pair at a time."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3

    own = sum(np.mean([kernel(x, y) for x, y in itertools.permutations(each, 2)]) for each in (a, b))
    return own - 2 * np.mean([kernel(x, y) for x, y in itertools.product(a, b)])


def test_distance_and_error_equal_sums_over_the_pairs_of_each_subset() -> None:
    a, b = cloud(12, 3, 0).double(), cloud(12, 3, 1, 0.5).double()
    found = kernel_distance(a, b, seed=0, subset_images=6)
    generator = torch.Generator().manual_seed(0)
    order_a, order_b = torch.randperm(12, generator=generator), torch.randperm(12, generator=generator)
    halves = [by_pairs(a[order_a[rows]].numpy(), b[order_b[rows]].numpy()) for rows in (slice(0, 6), slice(6, 12))]
    assert found.value == pytest.approx(np.mean(halves), rel=1e-12)
    assert found.standard_error == pytest.approx(abs(halves[0] - halves[1]) / 2, rel=1e-12)
    assert found.subsets == 2


def test_mean_over_subsets_agrees_with_all_pairs_by_scikit_learn() -> None:
    a, b = cloud(3000, 16, 0), cloud(2400, 16, 1, 0.3)
    found = kernel_distance(a, b, seed=3)
    kernels = [polynomial_kernel(x.double(), y.double(), degree=3, gamma=1 / 16, coef0=1) for x, y in ((a, a), (b, b), (a, b))]
    own = sum((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in kernels[:2])
    assert found.subsets == 12
    assert found.value == pytest.approx(own - 2 * kernels[2].mean(), abs=4 * found.standard_error)
    assert found.standard_error < 0.2 * found.value


def test_distance_is_unbiased_and_its_error_is_the_spread_of_many_draws() -> None:
    found = [kernel_distance(cloud(400, 4, 2 * i), cloud(400, 4, 2 * i + 1, 0.4), seed=i, subset_images=40) for i in range(200)]
    truth = kernel_distance(cloud(80_000, 4, 901), cloud(80_000, 4, 902, 0.4), seed=0, subset_images=1000)
    values = np.array([each.value for each in found])
    error = values.std() / len(values) ** 0.5
    assert values.mean() == pytest.approx(truth.value, abs=4 * error + 4 * truth.standard_error)
    assert np.mean([each.standard_error for each in found]) == pytest.approx(values.std(), rel=0.2)


def test_value_does_not_depend_on_the_size_of_subsets_or_the_count_of_images() -> None:
    # What FCD cannot say: with fewer images it is larger.
    a, b = cloud(8000, 4, 0), cloud(8000, 4, 1, 0.5)
    found = [kernel_distance(a[:n], b[:n], seed=0, subset_images=size) for n, size in ((8000, 500), (8000, 50), (1000, 50))]
    for each in found[1:]:
        assert each.value == pytest.approx(found[0].value, abs=4 * (each.standard_error + found[0].standard_error))


def test_fresh_sample_of_the_same_is_at_no_distance_and_another_is() -> None:
    a = cloud(2000, 64, 0)
    same, other = kernel_distance(a, cloud(2000, 64, 1), seed=0), kernel_distance(a, cloud(2000, 64, 1, 0.3), seed=0)
    assert abs(same.value) < 4 * same.standard_error
    assert other.value > 20 * other.standard_error


def test_lost_mode_is_seen_and_sorted_images_are_mixed() -> None:
    centres = 3 * torch.eye(10)
    full = torch.cat([centres[i % 10].repeat(200, 1) for i in range(10)]) + 0.1 * cloud(2000, 10, 0)  # sorted by mode
    half = torch.cat([centres[i % 5].repeat(200, 1) for i in range(10)]) + 0.1 * cloud(2000, 10, 1)
    again = torch.cat([centres[i % 10].repeat(200, 1) for i in range(10)]) + 0.1 * cloud(2000, 10, 2)
    same, lost = kernel_distance(full, again, seed=0), kernel_distance(full, half, seed=0)
    assert abs(same.value) < 0.05 * lost.value
    assert lost.value > 10 * lost.standard_error


def test_distance_is_a_function_of_its_arguments_and_leaves_the_global_generator_alone() -> None:
    a, b = cloud(500, 4, 0), cloud(600, 4, 1)
    torch.manual_seed(5)
    first = kernel_distance(a, b, seed=7)
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert kernel_distance(a, b, seed=7) == first != kernel_distance(a, b, seed=8)
    assert torch.equal(torch.rand(1), drawn)


def test_single_precision_costs_nothing() -> None:
    a, b = cloud(400, 2048, 0), cloud(400, 2048, 1)
    assert kernel_distance(a, b, 0).value == pytest.approx(kernel_distance(a.double(), b.double(), 0).value, rel=1e-12)


@pytest.mark.parametrize(("left", "right"), [(399, 400), (400, 399), (0, 1000)])
def test_too_few_images_on_either_side_are_refused_with_both_numbers(left: int, right: int) -> None:
    with pytest.raises(TooFewSamplesError, match=rf"subsets of 200 needs 400 images, there are {min(left, right)}$"):
        kernel_distance(cloud(left, 2, 0), cloud(right, 2, 1), seed=0)
    assert kernel_distance(cloud(minimum_samples(), 2, 0), cloud(minimum_samples(), 2, 1), seed=0).subsets == 2


def test_two_samples_is_the_kernel_sum_over_pairs() -> None:
    a_ND, b_MD = cloud(7, 3, 0), cloud(9, 3, 1, 0.2)
    assert two_samples(a_ND, b_MD, 0).value == pytest.approx(by_pairs(a_ND.double().numpy(), b_MD.double().numpy()), rel=1e-10)


def test_two_samples_of_one_kind_differ_by_chance_alone_and_others_by_more() -> None:
    chance = [two_samples(cloud(150, 8, seed), cloud(400, 8, 100 + seed), seed).deviations for seed in range(60)]
    assert abs(np.mean(chance)) < 0.4 and 0.7 < np.std(chance) < 1.4  # standard deviations, as they are called
    assert two_samples(cloud(150, 8, 0, 0.3), cloud(400, 8, 1), 0).deviations > 8


def test_two_samples_needs_two_images_of_each() -> None:
    with pytest.raises(TooFewSamplesError, match="2 images each"):
        two_samples(torch.zeros(1, 3), torch.zeros(5, 3), 0)

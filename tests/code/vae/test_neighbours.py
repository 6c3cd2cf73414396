"""neighbours: nearest training images against scikit-learn's, planted copies, and clouds that remember nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from vae.metrics import manifold
from vae.metrics.frechet import TooFewSamplesError
from vae.metrics.neighbours import MINIMUM_IMAGES, near_share, nearest


def cloud(count: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_nearest_equals_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifold, "BLOCK_VALUES", 5 * 301)  # blocks that do not divide the counts
    queries, training = cloud(97, 6, 0) + 100, cloud(301, 6, 1) + 100  # far from the origin, where squares cancel
    found = nearest(queries, training)
    distances, indices = NearestNeighbors(n_neighbors=1).fit(training.double().numpy()).kneighbors(queries.double().numpy())
    np.testing.assert_allclose(found.distance_M, distances[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(found.index_M, indices[:, 0])


def test_a_copy_is_at_distance_zero_of_its_original() -> None:
    training = cloud(500, 64, 0) * 7 + 3
    found = nearest(training[[17, 499]], training)
    assert found.distance_M.tolist() == [0, 0] and found.index_M.tolist() == [17, 499]


@pytest.mark.parametrize("dim", [2, 32])
def test_fresh_samples_are_as_near_as_unseen_images(dim: int) -> None:
    training = cloud(2000, dim, 0)
    share = near_share(nearest(cloud(2000, dim, 1), training), nearest(cloud(2000, dim, 2), training))
    assert share == pytest.approx(0.05, abs=0.02)


def test_copies_count_and_samples_far_away_do_not() -> None:
    training = cloud(2000, 16, 0)
    unseen = nearest(cloud(1000, 16, 2), training)
    copied = torch.cat([training[:300], cloud(700, 16, 1) + 20])
    assert near_share(nearest(copied, training), unseen) == pytest.approx(0.3)
    crowded = training[:1000] + 0.1 * cloud(1000, 16, 3)
    assert near_share(nearest(crowded, training), unseen) > 0.95


def test_copies_count_where_unseen_images_are_copies_too() -> None:
    training = cloud(1000, 4, 0)
    unseen = nearest(training[:500], training)
    assert near_share(unseen, unseen) == 1
    assert near_share(nearest(cloud(500, 4, 1) + 9, training), unseen) == 0


@pytest.mark.parametrize("side", [0, 1])
def test_too_few_images_are_refused_with_the_number_needed(side: int) -> None:
    training, counts = cloud(300, 3, 0), [MINIMUM_IMAGES, MINIMUM_IMAGES]
    counts[side] -= 1
    with pytest.raises(TooFewSamplesError, match="needs 200 images, there are 199"):
        near_share(*(nearest(cloud(n, 3, n), training) for n in counts))

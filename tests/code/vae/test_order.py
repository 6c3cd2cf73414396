"""order: a stream that is a function of (seed, position) alone, of all images or in windows of shards."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from vae.order import Windows, stream_indices


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_stream_covers_each_image_exactly_once_per_epoch(count: int) -> None:
    for epoch in range(5):
        indices = stream_indices(count, 0, epoch * count, (epoch + 1) * count)
        np.testing.assert_array_equal(np.sort(indices), np.arange(count))


def test_stream_order_differs_between_epochs_and_seeds() -> None:
    orders = [tuple(stream_indices(50, seed, epoch * 50, epoch * 50 + 50)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == len(orders)


def test_stream_order_is_shuffled_not_stored_order() -> None:
    order = stream_indices(1000, 0, 0, 1000)
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.15  # standard error 0.03


def test_stream_is_the_same_however_it_is_cut() -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        count, seed = int(rng.integers(1, 40)), int(rng.integers(0, 5))
        whole = stream_indices(count, seed, 0, 200)
        cuts = np.unique(np.concatenate([[0, 200], rng.integers(1, 200, rng.integers(0, 12))]))
        pieces = [stream_indices(count, seed, int(a), int(b)) for a, b in pairwise(cuts)]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_stream_is_not_changed_by_writing_into_a_slice_of_it() -> None:
    before = stream_indices(10, 0, 0, 10).copy()
    stream_indices(10, 0, 0, 10)[:] = 0  # the permutation is cached
    np.testing.assert_array_equal(stream_indices(10, 0, 0, 10), before)


def test_stream_data_set_smaller_than_a_batch_repeats_every_image() -> None:
    indices = stream_indices(3, 0, 16, 32)
    assert indices.shape == (16,)
    assert set(np.bincount(indices, minlength=3)) <= {5, 6}  # 16 positions are at least 4 whole epochs and two part ones


LENGTHS = [(7,), (5, 5, 5, 2), (4, 9, 1, 6, 6, 3, 8), (3,) * 40]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("among", [1, 6, 10, 1000])
def test_windows_show_each_image_once_per_epoch_in_another_order_each_time(lengths, among) -> None:
    windows, count = Windows(lengths, 3, among), sum(lengths)
    orders = [windows.indices(epoch * count, (epoch + 1) * count) for epoch in range(4)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(count))
    assert len({tuple(order) for order in orders}) == 4
    assert not np.array_equal(orders[0], Windows(lengths, 4, among).indices(0, count))


@pytest.mark.parametrize("lengths", LENGTHS)
def test_windows_are_the_same_however_the_stream_is_cut(lengths) -> None:
    windows, rng = Windows(lengths, 0, 9), np.random.default_rng(2)
    whole = windows.indices(0, 300)
    for _ in range(20):
        cuts = np.unique(np.concatenate([[0, 300], rng.integers(1, 300, 8)]))
        pieces = [Windows(lengths, 0, 9).indices(int(a), int(b)) for a, b in pairwise(cuts)]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("among", [1, 6, 10])
def test_only_the_shards_of_a_window_are_read_at_once(lengths, among) -> None:
    windows, ends, seen = Windows(lengths, 1, among), np.cumsum(lengths), []
    for position in range(3 * sum(lengths)):
        window = windows.at(position)
        if not seen or seen[-1] != window:
            assert not seen or windows.after(*seen[-1]) == window
            seen.append(window)
        shard = int(np.searchsorted(ends, windows.indices(position, position + 1)[0], side="right"))
        assert shard in windows.shards(*window)
    for window in seen:
        assert sum(lengths[shard] for shard in windows.shards(*window)) < among + max(lengths)


def test_images_of_a_window_are_shuffled_together() -> None:
    windows = Windows((100,) * 10, 0, 500)
    shards = windows.indices(0, 500) // 100
    assert (
        len(set(shards)) == 5 and np.bincount(shards[:100], minlength=10).max() < 40
    )  # a fifth of them, give or take four deviations

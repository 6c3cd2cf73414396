"""pace: a rank is slow by comparison with the others, and only where there is something to compare."""

from __future__ import annotations

import math

import pytest

from vae.pace import slower


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1.0, 1.0, 1.0, 1.0], {}),
        ([1.0, 1.4, 0.9, 1.2], {}),
        ([1.0, 1.0, 1.0, 3.0], {3: 3.0}),
        ([1.0, 2.0], {1: 2.0}),
        ([4.0, 1.0, 4.0, 1.0, 1.0], {0: 4.0, 2: 4.0}),
        ([math.nan, 1.0, 2.0], {2: 2.0}),
        ([math.nan, math.nan, 2.0], {}),
        ([2.0], {}),
    ],
)
def test_ranks_that_take_longer_than_the_median_of_the_others(seconds, expected):
    assert slower(seconds) == expected

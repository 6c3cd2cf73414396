"""nodes: a clock is wrong only where no message in time explains what it shows."""

from __future__ import annotations

import pytest

from pipeline.errors import BadConfigError
from pipeline.nodes import CLOCK_SECONDS, _check_clocks

ASKED, ANSWERED = 1000.0, 1050.0  # a node that took long to answer may have looked at its clock at any time between


@pytest.mark.parametrize("told", [ASKED, ANSWERED, 1025.0, ASKED - CLOCK_SECONDS, ANSWERED + CLOCK_SECONDS])
def test_clock_that_may_be_right_is_left_alone(told):
    _check_clocks([("10.0.0.2", told)], ASKED, ANSWERED)


def test_every_clock_that_cannot_be_right_is_named_with_its_error():
    times = [("10.0.0.2", ASKED - 31), ("10.0.0.3", 1020.0), ("10.0.0.2", ANSWERED + 3600), ("10.0.0.4", ASKED)]
    with pytest.raises(BadConfigError, match=r"10\.0\.0\.2 is -31 s off; 10\.0\.0\.2 is \+3600 s off; set them") as told:
        _check_clocks(times, ASKED, ANSWERED)
    assert "10.0.0.3" not in str(told.value) and "10.0.0.4" not in str(told.value)

"""failures: the same error at the same step twice is final, anything else is worth another try."""

from __future__ import annotations

import pytest

from pipeline.failures import Failures
from vae.errors import StepError


def step_error(step: int, cause: Exception) -> StepError:
    error = StepError(step, cause)
    error.__cause__ = cause
    return error


def test_same_error_at_the_same_step_twice_is_the_verdict(tmp_path):
    failures = Failures(tmp_path)
    failures.note(1, step_error(7, KeyError("lost")))
    assert failures.verdict() is None
    failures.note(1, step_error(7, KeyError("lost")))
    assert "twice at step 7 on rank 1" in failures.verdict() and "lost" in failures.verdict()
    failures.clear()
    assert failures.verdict() is None


@pytest.mark.parametrize(
    ("rank", "second"), [(1, step_error(8, KeyError("lost"))), (1, step_error(7, KeyError("other"))), (0, step_error(7, KeyError("lost")))]
)  # fmt: skip
def test_another_step_error_or_rank_is_no_verdict(tmp_path, rank, second):
    failures = Failures(tmp_path)
    failures.note(1, step_error(7, KeyError("lost")))
    failures.note(rank, second)
    assert failures.verdict() is None


@pytest.mark.parametrize(
    "text", ["[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:9", "NCCL error: unhandled"]
)
def test_what_a_lost_peer_causes_is_never_a_verdict(tmp_path, text):
    failures = Failures(tmp_path)
    for _ in range(3):
        failures.note(0, step_error(7, RuntimeError(text)))
    assert failures.verdict() is None

"""Faults of training processes at 1 to 4 ranks: whatever happens at whatever step, the same command ends in the same weights."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ranks import STEPS, Group

FIRST, MIDDLE, LAST = 0, 13, STEPS - 1
KILLED = -9


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[str]]:
    """The result of a training of so many ranks that nothing disturbed."""
    known: dict[int, list[str]] = {}

    def result(ranks: int) -> list[str]:
        if ranks not in known:
            group = Group(tmp_path_factory.mktemp(f"calm-{ranks}"))
            assert group.run(ranks) == [0] * ranks, group.log()
            known[ranks] = group.result()
        return known[ranks]

    return result


def _goes_on(group: Group, ranks: int, expected: list[str]) -> None:
    assert group.run(ranks) == [0] * ranks, group.log()
    assert group.result() == expected


CASES = [(ranks, rank, step) for ranks in (1, 2, 3, 4) for rank in {0, ranks - 1} for step in (FIRST, MIDDLE, LAST)]
QUICK = {(1, 0, MIDDLE), (3, 2, MIDDLE)}


@pytest.mark.parametrize(
    ("ranks", "rank", "step"), [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_killed_rank(tmp_path: Path, calm: Callable, ranks: int, rank: int, step: int) -> None:
    group = Group(tmp_path)
    codes = group.run(ranks, {"what": "kill", "rank": rank, "step": step})
    assert codes[rank] == KILLED and all(codes)  # the others do not go on without it
    _goes_on(group, ranks, calm(ranks))


@pytest.mark.slow
def test_rank_killed_again_and_again(tmp_path: Path, calm: Callable) -> None:
    group = Group(tmp_path)
    for step in (3, 9, 10, 20):
        assert group.run(2, {"what": "kill", "rank": step % 2, "step": step})[step % 2] == KILLED
    _goes_on(group, 2, calm(2))


@pytest.mark.parametrize("ranks", [pytest.param(2), pytest.param(3, marks=pytest.mark.slow)])
def test_stopped_rank_is_given_up_by_the_others(tmp_path: Path, calm: Callable, ranks: int) -> None:
    group = Group(tmp_path)
    codes = group.run(ranks, {"what": "stop", "rank": 1, "step": MIDDLE})
    assert all(codes)
    _goes_on(group, ranks, calm(ranks))


def test_nan_on_one_rank_stops_all_before_the_step(tmp_path: Path) -> None:
    group = Group(tmp_path)
    assert all(group.run(2, {"what": "nan", "rank": 1, "step": MIDDLE}))
    for rank in (0, 1):
        assert f"not finite at step {MIDDLE}" in group.log(rank) and "last good checkpoint: step 10" in group.log(rank)
    assert not (group.checkpoints / f"step-{STEPS:08d}").exists()


def test_bug_on_one_rank_names_step_and_error_and_a_mended_run_goes_on(tmp_path: Path, calm: Callable) -> None:
    group = Group(tmp_path)
    assert all(group.run(2, {"what": "bug", "rank": 1, "step": MIDDLE}))
    assert f"step {MIDDLE}: KeyError: 'a planted bug'" in group.log(1)
    _goes_on(group, 2, calm(2))


@pytest.mark.parametrize(("what", "words"), [("full", "File too large"), ("eio", "Input/output error")])
def test_checkpoint_that_cannot_be_written_stops_the_run_and_the_one_before_serves(
    tmp_path: Path, calm: Callable, what: str, words: str
) -> None:
    group = Group(tmp_path)
    assert all(group.run(2, {"what": what, "rank": 0, "step": MIDDLE}))
    assert words in group.log(0)
    newest = sorted(p.name for p in group.checkpoints.glob("step-*"))[-1]
    assert newest in ("step-00000008", "step-00000010")  # that of step 10 may have been under way
    _goes_on(group, 2, calm(2))


def test_slow_rank_is_named_once(tmp_path: Path, calm: Callable) -> None:
    group = Group(tmp_path)
    assert group.run(3, {"what": "slow", "rank": 2, "step": 0}) == [0, 0, 0], group.log()
    told = re.findall(rf"rank (\d) on {socket.gethostname()} takes [\d.]+ times as long as the others", group.log())
    assert told == ["2"] and group.result() == calm(3)


def test_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, calm: Callable) -> None:
    group = Group(tmp_path)
    group.run(2, {"what": "kill", "rank": 0, "step": MIDDLE})
    newest = sorted(group.checkpoints.glob("step-*"))[-1]
    with (newest / "optimizer.safetensors").open("r+b") as stream:
        stream.seek(-100, os.SEEK_END)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 4]))
    assert group.run(2) == [0, 0], group.log()
    assert "checkpoint passed over" in group.log() and group.result() == calm(2)


def test_all_checkpoints_damaged_starts_from_the_beginning(tmp_path: Path, calm: Callable) -> None:
    group = Group(tmp_path)
    group.run(2, {"what": "kill", "rank": 0, "step": MIDDLE})
    for directory in group.checkpoints.glob("step-*"):
        (directory / "state.json").unlink()
    _goes_on(group, 2, calm(2))

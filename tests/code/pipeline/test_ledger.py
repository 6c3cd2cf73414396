"""ledger: a real MLflow registry in a file; who is champion after promotions, rollbacks, crashes, and many processes at once."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from pipeline import ledger
from pipeline.errors import InputMissingError, TemporaryError, UnavailableError
from pipeline.paths import Paths
from pipeline.registry import Registry
from pipeline.tracking import Tracker


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Registry:
    """A registered model without versions."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = Tracker(Paths(tmp_path))
    tracker.client.create_registered_model("cats")
    return Registry(tracker, "cats")


def add(registry: Registry) -> str:
    return str(registry.tracker.client.create_model_version("cats", "file:///nowhere").version)


def promote(registry: Registry, paths: Paths) -> str:
    version = add(registry)
    with ledger.locked(paths, "cats"):
        before = registry.champion()
        ledger.crown(registry, version)
        ledger.record(registry, ledger.PROMOTED, version, before, version, reason="better")
        registry.tag(version, {"vaeline.promoted": "true"})
    return version


def test_rollback_gives_the_alias_back_and_twice_is_once(registry, tmp_path):
    paths = Paths(tmp_path)
    for _ in range(3):
        promote(registry, paths)
    first = ledger.rollback(registry, paths)
    assert (first["event"], first["champion_before"], first["champion_after"]) == ("rolled back", 3, 2)
    assert registry.champion() == "2" and ledger.rollback(registry, paths) == first and registry.champion() == "2"
    assert [entry["event"] for entry in ledger.history(registry)] == ["promoted"] * 3 + ["rolled back"]
    fourth = promote(registry, paths)
    assert ledger.rollback(registry, paths)["champion_after"] == 2 and registry.champion() == "2" and fourth == "4"
    numbers = [entry["number"] for entry in ledger.history(registry)]
    assert numbers == list(range(6)) and all(entry["who"] and entry["when"] for entry in ledger.history(registry))


def test_rollback_where_there_is_nothing_before_says_so(registry, tmp_path):
    with pytest.raises(InputMissingError, match="it has no champion"):
        ledger.rollback(registry, Paths(tmp_path))
    promote(registry, Paths(tmp_path))
    with pytest.raises(InputMissingError, match="version 1 is the first champion"):
        ledger.rollback(registry, Paths(tmp_path))
    assert registry.champion() == "1"


def test_version_whose_predecessor_was_deleted_is_not_rolled_back_to(registry, tmp_path):
    paths = Paths(tmp_path)
    promote(registry, paths)
    promote(registry, paths)
    registry.tracker.client.delete_model_version("cats", "1")
    with pytest.raises(InputMissingError, match="no version or alias '1'"):
        ledger.rollback(registry, paths)
    assert registry.champion() == "2"


def test_registration_that_was_killed_leaves_the_champion_and_is_closed_by_the_next(registry, tmp_path):
    paths = Paths(tmp_path)
    promote(registry, paths)
    left = add(registry)  # and then killed: no decision
    assert registry.undecided() == [left]
    with ledger.locked(paths, "cats"):
        assert ledger.mend(registry) == [left] and ledger.mend(registry) == []
    assert registry.champion() == "1" and ledger.history(registry)[-1]["event"] == "interrupted"


def test_alias_that_somebody_else_writes_meanwhile_is_seen(registry, tmp_path, monkeypatch):
    promote(registry, Paths(tmp_path))
    other = add(registry)
    monkeypatch.setattr(registry, "promote", lambda version: None)
    with pytest.raises(UnavailableError, match="was given to version 2, and is version 1"):
        ledger.crown(registry, other)


def test_collect_spares_the_newest_the_aliased_and_the_champion_before(registry, tmp_path):
    paths = Paths(tmp_path)
    for _ in range(2):
        promote(registry, paths)
    for _ in range(5):
        registry.tag(add(registry), {"vaeline.promoted": "false"})
    registry.tracker.client.set_registered_model_alias("cats", "beloved", "3")
    assert ledger.collect(registry, paths, keep=2, really=False) == ["4", "5"]
    assert registry.versions() == [str(number) for number in range(1, 8)]
    assert ledger.collect(registry, paths, keep=2, really=True) == ["4", "5"]
    assert registry.versions() == ["1", "2", "3", "6", "7"] and registry.champion() == "2"
    assert ledger.rollback(registry, paths)["champion_after"] == 1


def test_collect_after_a_rollback_spares_whom_the_next_one_goes_back_to(registry, tmp_path):
    paths = Paths(tmp_path)
    for _ in range(3):
        promote(registry, paths)
    assert ledger.rollback(registry, paths)["champion_after"] == 2
    add(registry)
    assert ledger.collect(registry, paths, keep=1, really=True) == ["3"]
    with ledger.locked(paths, "cats"):
        ledger.record(registry, ledger.KEPT, "4", "2", "2", reason="worse")
    assert ledger.rollback(registry, paths)["champion_after"] == 1


def test_lock_is_waited_for_and_given_up_with_a_word(registry, tmp_path):
    paths, started = Paths(tmp_path), time.monotonic()
    with (
        ledger.locked(paths, "cats"),
        pytest.raises(TemporaryError, match="another process works on models:/cats"),
        ledger.locked(paths, "cats", wait_seconds=0.2),
    ):
        raise AssertionError
    assert time.monotonic() - started < 30
    with ledger.locked(paths, "cats", wait_seconds=0):
        pass


ROUND = """
import random, sys
from pathlib import Path
from pipeline import ledger
from pipeline.paths import Paths
from pipeline.registry import Registry
from pipeline.tracking import Tracker

paths, number, rounds = Paths(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
tracker = Tracker(paths)
registry, chance = Registry(tracker, "cats"), random.Random(number)
for _ in range(rounds):
    score = chance.random()
    with ledger.locked(paths, "cats"):
        version = str(tracker.client.create_model_version("cats", "file:///nowhere", tags={"score": str(score)}).version)
        holder = registry.champion()
        best = float(tracker.client.get_model_version("cats", holder).tags["score"]) if holder else -1.0
        if score > best:
            ledger.crown(registry, version)
        after = version if score > best else holder
        ledger.record(registry, "promoted" if score > best else "kept", version, holder, after, score=score)
        registry.tag(version, {"vaeline.promoted": str(score > best).lower()})
"""


def _contend(registry: Registry, folder, processes: int, rounds: int) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", ROUND, str(folder), str(number), str(rounds)], stderr=subprocess.PIPE, text=True)
        for number in range(processes)
    ]
    for process in started:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    records = ledger.history(registry)
    assert [entry["number"] for entry in records] == list(range(processes * rounds))  # none is lost
    champion, best = None, -1.0
    for entry in records:  # one chain: each saw the champion that the one before left, and it never got worse
        assert entry["champion_before"] == champion
        assert (entry["event"] == "promoted") == (entry["score"] > best)
        best, champion = max(best, entry["score"]), entry["champion_after"]
    assert registry.champion() == str(champion) and registry.undecided() == []


def test_two_processes_at_once_are_one_after_the_other(registry, tmp_path):
    _contend(registry, tmp_path, 2, 4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eight_processes_in_200_rounds_never_lose_a_decision(registry, tmp_path):
    _contend(registry, tmp_path, 8, 25)

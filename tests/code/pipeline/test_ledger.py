"""ledger: a real MLflow registry in a file; who is champion after promotions, rollbacks, crashes, and many processes at once."""

from __future__ import annotations

import time

import pytest

from contention import contend
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
    with ledger.locked(registry, paths):
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
    with ledger.locked(registry, paths):
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
    with ledger.locked(registry, paths):
        ledger.record(registry, ledger.KEPT, "4", "2", "2", reason="worse")
    assert ledger.rollback(registry, paths)["champion_after"] == 1


def test_lock_is_waited_for_and_given_up_with_a_word(registry, tmp_path):
    paths, started = Paths(tmp_path), time.monotonic()
    with (
        ledger.locked(registry, paths),
        pytest.raises(TemporaryError, match="another process works on models:/cats"),
        ledger.locked(registry, paths, wait_seconds=0.2),
    ):
        raise AssertionError
    assert time.monotonic() - started < 30
    with ledger.locked(registry, paths, wait_seconds=0):
        pass


def test_two_processes_at_once_are_one_after_the_other(registry, tmp_path):
    contend(registry, [tmp_path] * 2, 4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eight_processes_in_200_rounds_never_lose_a_decision(registry, tmp_path):
    contend(registry, [tmp_path] * 8, 25)

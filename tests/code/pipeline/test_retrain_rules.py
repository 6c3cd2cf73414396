"""retrain without a pipeline run: when it does nothing, what it says, and that it never runs beside another one."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from pipeline import retrain
from pipeline.errors import BadConfigError, TemporaryError
from pipeline.reasons import Look
from pipeline.retrain import BEGUN, FAILED, NOTHING, TRAINED, Ticks, _alone, _beginnings, _told, _why_not

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
VALUES = SimpleNamespace(retrain=SimpleNamespace(cooldown_hours=20.0, begin="anew"), register=SimpleNamespace(name="cats"))


def ticks(project, *told: tuple[float, str]) -> Ticks:
    """A history of (hours before noon, what was done)."""
    shutil.rmtree(project.paths.work, ignore_errors=True)
    found = Ticks(project.paths)
    for hours, did in told:
        found.add(NOON - timedelta(hours=hours), did)
    return Ticks(project.paths)  # as the next process reads it


def test_history_survives_the_process(project):
    found = ticks(project, (48, BEGUN), (47, TRAINED), (24, NOTHING))
    assert [each["did"] for each in found.all] == [BEGUN, TRAINED, NOTHING]
    assert found.trained == NOON - timedelta(hours=48) and not found.interrupted


@pytest.mark.parametrize(
    ("told", "interrupted"),
    [
        ([], False),
        ([(5, BEGUN)], True),
        ([(5, BEGUN), (4, FAILED)], False),
        ([(9, BEGUN), (8, TRAINED), (7, BEGUN), (6, NOTHING)], True),
    ],
)
def test_training_without_an_end_was_interrupted(project, told, interrupted):
    assert ticks(project, *told).interrupted is interrupted


def test_reason_is_needed_and_the_cooldown_over(project):
    reason, none = Look(reasons=["10 % new"]), Look(calm=["1 % new"])
    assert _why_not(VALUES, ticks(project), reason, NOON) == ""
    assert _why_not(VALUES, ticks(project), none, NOON) == "1 % new"
    for last in (TRAINED, FAILED):
        assert "none begins before 2026-11-22 13:00:00" in _why_not(VALUES, ticks(project, (19, BEGUN), (18, last)), reason, NOON)
        assert _why_not(VALUES, ticks(project, (20, BEGUN), (18, last)), reason, NOON) == ""
    assert _why_not(VALUES, ticks(project, (1, BEGUN)), none, NOON) == ""  # interrupted: it goes on, whatever the cooldown


def test_clock_that_went_back_is_told(project):
    ticks(project, (-1, NOTHING)).check_clock(NOON + timedelta(hours=1, minutes=-4))
    with pytest.raises(
        BadConfigError, match=r"it is 2026-11-22 12:00:00 by this clock, but the last call was at 2026-11-22 13:00:00"
    ):
        ticks(project, (-1, NOTHING)).check_clock(NOON)


def test_only_one_at_a_time(project):
    with _alone("cats", project.paths), pytest.raises(TemporaryError, match="already running"), _alone("cats", project.paths):
        pass
    with _alone("cats", project.paths):
        pass


def test_without_a_champion_every_training_begins_anew(project, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for begin in ("anew", "champion", "both"):
        for origin, transfer, anew in (("", False, ""), ("tuned", False, ""), ("models:/dogs/2", True, "models:/dogs/2")):
            values = SimpleNamespace(
                retrain=SimpleNamespace(begin=begin), register=SimpleNamespace(name="cats"),
                train=SimpleNamespace(warm_start=origin, transfer=transfer),
            )  # fmt: skip
            assert _beginnings(values, project.paths) == [anew]


def test_dry_run_changes_nothing(project, capsys, monkeypatch):
    monkeypatch.chdir(project.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = sorted(path for path in project.root.rglob("*"))
    assert retrain.tick(project.paths, NOON, dry_run=True, force=False) == 0
    assert capsys.readouterr().out == "would train, beginning anew\n"
    assert sorted(path for path in project.root.rglob("*")) == before


@pytest.mark.parametrize("trained_hours", [None, 30])
def test_age_is_that_of_the_last_call_or_else_of_the_model(project, monkeypatch, trained_hours):
    asked = []
    monkeypatch.setattr(retrain, "look", lambda values, paths, now, trained: asked.append(trained) or Look(calm=["calm"]))
    ticks(project, *([(trained_hours, BEGUN), (trained_hours, TRAINED)] if trained_hours else []))
    assert retrain.tick(project.paths, NOON, dry_run=True, force=False) == 0
    made = NOON - timedelta(days=40)
    (project.paths.model / "MANIFEST.json").parent.mkdir(parents=True)
    (project.paths.model / "MANIFEST.json").write_text("{}")
    os.utime(project.paths.model / "MANIFEST.json", (made.timestamp(), made.timestamp()))
    assert retrain.tick(project.paths, NOON, dry_run=True, force=False) == 0
    last = NOON - timedelta(hours=trained_hours) if trained_hours else None
    assert asked == [last, last or made]


def test_facts_are_json(project):
    assert json.loads(json.dumps(Look(reasons=["x"]).facts())) == {"reasons": ["x"], "calm": [], "input": None, "drift": None}


def test_what_became_of_a_call_is_told():
    new = {"version": 4, "promoted": True, "champion": 4, "reason": "a lead", "begin": "", "new": True}
    assert _told("cats", 0, [new]) == "models:/cats/4, begun anew, is the champion: a lead"
    warm = new | {"promoted": False, "begin": "models:/cats/3"}
    assert _told("cats", 0, [warm]) == "models:/cats/4, begun from the weights of models:/cats/3, is not the champion: a lead"
    assert "stays the newest: nothing" in _told("cats", 0, [new | {"new": False}])  # --force with the same input
    assert "failed with exit code 70: the champion stays" in _told("cats", 70, [])

"""outbox: what MLflow could not be told arrives later, whole and once; forwarder: a store that is away holds nothing up."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from mlflow.exceptions import MlflowException

from pipeline.errors import UnavailableError
from pipeline.forwarder import Forwarder
from pipeline.outbox import Message, Outbox, connect
from pipeline.sync import sync
from pipeline.tracking import ENVIRONMENT, PATIENT_RETRIES, Tracker, patient


def record(step: int) -> dict[str, float]:
    return {
        "step": step,
        "images": 10 * step,
        "val_elbo_nats": -1.5 * step,
        "images_per_second": 7.0,
        "time_ms": 1_700_000_000_000 + step,
    }


@pytest.fixture
def tracker(project, monkeypatch) -> Iterator[Tracker]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = dict(os.environ)  # MLflow keeps the addresses of its stores there, for children
    yield Tracker(project.paths)
    os.environ.clear()
    os.environ.update(before)


def history(tracker: Tracker, run_id: str) -> list[tuple[int, float]]:
    found = tracker.client.get_metric_history(run_id, "val_elbo_nats")
    return sorted((metric.step, metric.value) for metric in found)


class Away:
    """A store that answers nothing, or only from the ``back``-th call on."""

    def __init__(self, tracker: Tracker, back: float = float("inf")) -> None:
        self._tracker, self._back, self.calls = tracker, back, 0
        self.uri = tracker.uri

    def __getattr__(self, name: str):
        def call(*arguments, **named):
            self.calls += 1
            if self.calls < self._back:
                raise ConnectionError("nobody there")
            return getattr(self._tracker, name)(*arguments, **named)

        return call


def test_records_sent_twice_are_there_once(tracker):
    run_id = tracker.run("train")
    tracker.records(run_id, [record(1), record(2)])
    tracker.records(run_id, [record(2), record(3)])
    assert history(tracker, run_id) == [(1, -1.5), (2, -3.0), (3, -4.5)]


def test_message_that_cannot_be_sent_waits_and_sync_sends_it_once(project, tracker, tmp_path, capsys):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "curves.csv").write_text("step\n1\n")
    run_id, outbox = tracker.run("train"), Outbox(project.paths)
    tracker.records(run_id, [record(1)])  # what went through while the store was there
    outbox.put(tracker.uri, Message(name="train", run_id=run_id, records=[record(1), record(2)]), {"train": tmp_path / "report"})
    (tmp_path / "report" / "curves.csv").unlink()  # the outbox has a copy of its own
    outbox.try_to_deliver(Away(tracker))
    assert len(outbox.waiting()) == 1
    sync(project.paths)
    assert "sent 1 of 1" in capsys.readouterr().out
    run = tracker.client.get_run(run_id)
    assert run.info.status == "FINISHED" and history(tracker, run_id) == [(1, -1.5), (2, -3.0)]
    assert [a.path for a in tracker.client.list_artifacts(run_id, "train")] == ["train/curves.csv"]
    assert not outbox.waiting()
    sync(project.paths)
    assert "nothing waits" in capsys.readouterr().out


@pytest.mark.parametrize("broken_at", range(1, 9))
def test_delivery_broken_off_anywhere_and_done_again_leaves_every_run_once(project, tracker, broken_at):
    outbox = Outbox(project.paths)
    outbox.put(tracker.uri, Message(name="tune", key="k", tags={"a": "b"}, params={"p": "1"}))
    outbox.put(tracker.uri, Message(name="trial-0", key="k-0", parent_key="k", records=[record(1)], status="FAILED"))

    class Breaks(Away):
        def __getattr__(self, name):
            real = getattr(self._tracker, name)

            def call(*arguments, **named):
                self.calls += 1
                answer = real(*arguments, **named)
                if self.calls == broken_at:
                    raise ConnectionError("the answer was lost")
                return answer

            return call

    outbox.try_to_deliver(Breaks(tracker))
    connect(project.paths)
    runs = {r.info.run_name: r for r in tracker.client.search_runs([tracker.experiment_id])}
    assert len(runs) == len(tracker.client.search_runs([tracker.experiment_id])) == 2
    assert runs["trial-0"].data.tags["mlflow.parentRunId"] == runs["tune"].info.run_id
    assert runs["trial-0"].info.status == "FAILED" and history(tracker, runs["trial-0"].info.run_id) == [(1, -1.5)]
    assert runs["tune"].data.params == {"p": "1"} and not outbox.waiting()


def test_message_for_another_store_waits_for_that_one(project, tracker, capsys):
    outbox = Outbox(project.paths)
    outbox.put("http://127.0.0.1:1", Message(name="train", run_id="x"))
    outbox.put(tracker.uri, Message(name="train", run_id=tracker.run("train")))
    sync(project.paths)
    assert "sent 1 of 2" in (text := capsys.readouterr().out) and "1 wait for another store" in text
    assert len(outbox.waiting()) == 1


def test_forwarder_of_a_store_that_hangs_takes_records_at_once(tracker):
    hangs, run_id = threading.Event(), tracker.run("train")

    class Hangs(Away):
        def records(self, *arguments):
            assert hangs.wait(60)
            self._tracker.records(*arguments)

    forwarder = Forwarder(Hangs(tracker), run_id, 100)
    for step in range(1, 6):
        forwarder.record(record(step))  # would never return, were it to wait
    assert history(tracker, run_id) == []
    hangs.set()
    forwarder.close()
    assert [step for step, _ in history(tracker, run_id)] == [1, 2, 3, 4, 5]


def test_forwarder_of_a_store_that_comes_back_has_lost_nothing(tracker, monkeypatch):
    monkeypatch.setattr("pipeline.forwarder.RETRY_SECONDS", 0.01)
    run_id = tracker.run("train")
    away = Away(tracker, back=4)
    forwarder = Forwarder(away, run_id, 100)
    forwarder.record(record(1))
    with forwarder._changed:
        assert forwarder._changed.wait_for(lambda: not forwarder._waiting or away.calls >= 4, 30)
    forwarder.record(record(2))
    forwarder.close()
    assert [step for step, _ in history(tracker, run_id)] == [1, 2]


def test_patience_with_a_server_ends_with_its_block(project, monkeypatch):
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    monkeypatch.delenv(name, raising=False)
    with patient(project.paths):
        assert os.environ[name] == PATIENT_RETRIES
    assert os.environ[name] == ENVIRONMENT[name]  # or a call that a training makes would block for minutes
    monkeypatch.setenv(name, "3")
    with pytest.raises(UnavailableError, match="run the same command again"), patient(project.paths):
        raise MlflowException("gone")
    assert os.environ[name] == "3"

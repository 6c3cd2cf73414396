"""Workspaces that share nothing but an MLflow server: one after the other, and after one that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contention import contend
from mlflow_server import mlflow_server
from pipeline import lease, tracking
from pipeline.errors import TemporaryError, UnavailableError
from pipeline.paths import Paths
from pipeline.registry import Registry
from pipeline.tracking import URI_VARIABLE, Tracker
from workspace import free_port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    with mlflow_server(folder, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def registry(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Registry:
    monkeypatch.setenv(URI_VARIABLE, server)
    found = Registry(Tracker(Paths(tmp_path)), request.node.originalname)
    found.tracker.client.create_registered_model(found.name)
    return found


def disks(folder: Path, count: int) -> list[Path]:
    """Folders of machines that share no file."""
    found = [folder / str(number) for number in range(count)]
    for each in found:
        each.mkdir()
    return found


def test_two_machines_decide_one_after_the_other(registry, tmp_path):
    contend(registry, disks(tmp_path, 2), 2)


def test_of_many_who_write_a_note_for_the_first_time_at_once_none_is_refused(registry):
    tracker, writers = registry.tracker, 8
    with ThreadPoolExecutor(writers) as pool:
        for number in range(10):
            together, key = threading.Barrier(writers), f"first-{number}"

            def write(own: int, together: threading.Barrier = together, key: str = key) -> None:
                together.wait(60)
                tracker.set_note(key, str(own))

            list(pool.map(write, range(writers)))
            assert tracker.note(key) in {str(own) for own in range(writers)}


def test_of_many_who_come_first_to_a_new_server_all_find_one_experiment(server, tmp_path, monkeypatch):
    monkeypatch.setenv(URI_VARIABLE, server)
    with ThreadPoolExecutor(6) as pool:
        for number in range(5):
            monkeypatch.setattr(tracking, "EXPERIMENT", f"new-{number}")
            together = threading.Barrier(6)

            def come(_: int, together: threading.Barrier = together) -> str:
                together.wait(60)
                return Tracker(Paths(tmp_path)).experiment_id

            assert len(set(pool.map(come, range(6)))) == 1


@pytest.mark.slow
def test_no_decision_of_five_machines_is_lost(registry, tmp_path):
    contend(registry, disks(tmp_path, 5), 5)


HOLD = """
import sys, time
from pathlib import Path
from pipeline import lease
from pipeline.paths import Paths
from pipeline.tracking import Tracker
lease.BEAT_SECONDS = 0.2
with lease.lease(Tracker(Paths(Path(sys.argv[1]))), sys.argv[2], time.monotonic() + 60):
    print("held", flush=True)
    time.sleep(600)
"""


def test_lease_of_a_killed_machine_is_taken_over_and_of_a_living_one_is_not(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "DEAD_SECONDS", 3.0)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "a"), registry.name], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(TemporaryError, match=f"another machine works on models:/{registry.name}"),
            lease.lease(
                registry.tracker, registry.name, time.monotonic() + 6.0
            ),  # twice as long as a dead one would be waited for
        ):
            raise AssertionError
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with lease.lease(registry.tracker, registry.name, time.monotonic() + 60.0):
        pass


def test_lease_that_was_taken_meanwhile_is_told_at_the_end(registry, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    tracker, key = registry.tracker, lease.TAG + registry.name

    def taken_and_noticed() -> None:
        with lease.lease(registry.tracker, registry.name, time.monotonic() + 10.0):
            (thread,) = (each for each in threading.enumerate() if each.name == "lease")
            tracker.set_note(key, "another 0")
            thread.join(20)

    with pytest.raises(UnavailableError, match="was taken by another machine"):
        taken_and_noticed()
    assert tracker.note(key) == "another 0"  # which has it


def test_server_that_goes_away_hides_no_error_of_the_block(tmp_path, monkeypatch, caplog):
    port = free_port()
    monkeypatch.setenv(URI_VARIABLE, f"http://127.0.0.1:{port}")
    with mlflow_server(tmp_path, port) as process:
        tracker = Tracker(Paths(tmp_path))

        def interrupted() -> None:
            with lease.lease(tracker, "cats", time.monotonic() + 60):
                os.killpg(process.pid, signal.SIGKILL)  # its workers would go on serving
                process.wait()
                raise TemporaryError("of the block")

        with pytest.raises(TemporaryError, match="of the block"):
            interrupted()
        assert "runs out in" in caplog.text
        with pytest.raises(UnavailableError, match=f"127.0.0.1:{port} does not answer"):
            tracker.note("x")

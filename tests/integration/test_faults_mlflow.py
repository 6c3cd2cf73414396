"""Faults of MLflow during a training: a server that dies, and one behind a connection that swallows everything."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_server import mlflow_server
from workspace import LONG, Workspace, free_port


class Proxy:
    """Passes connections on, until it is told to swallow: then it takes everything and answers nothing."""

    def __init__(self, target: int) -> None:
        self._target, self._swallows = target, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self) -> None:
        self._swallows.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # or the thread that accepts takes one more
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # nobody there: the client shall see that too
                client.close()
                continue
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not self._swallows.is_set():
                    sink.sendall(data)
        except OSError:
            pass
        finally:
            if not self._swallows.is_set():
                for each in (source, sink):
                    each.close()


def _kill_all(server: subprocess.Popen) -> None:
    os.killpg(server.pid, signal.SIGKILL)  # its workers would go on serving
    server.wait(30)


def _train(workspace: Workspace, uri: str, in_the_middle: Callable[[], None]) -> tuple[int, str]:
    """Run the stage against ``uri`` and call ``in_the_middle`` once there is a checkpoint; its exit code and output."""
    process = workspace.start_training(MLFLOW_TRACKING_URI=uri)
    in_the_middle()
    output, _ = process.communicate(timeout=200)
    return process.returncode, output


def _everything_arrived(workspace: Workspace, uri: str) -> None:
    code = """
import json, sys, mlflow
client = mlflow.MlflowClient(sys.argv[1])
run = client.get_run(json.load(open("reports/train/run.json"))["run_id"])
steps = sorted(m.step for m in client.get_metric_history(run.info.run_id, "val_elbo_nats"))
names = sorted(a.path for a in client.list_artifacts(run.info.run_id, "train"))
print(json.dumps([run.info.status, steps, names]))
"""
    seen = workspace.run(sys.executable, "-c", code, uri)
    assert '["FINISHED", [40, 80, 120, 160, 200, 240, 280, 320, 360, 400]' in seen.stdout, seen.stdout + seen.stderr
    assert "train/curves.csv" in seen.stdout


@pytest.mark.parametrize("fault", ["dies", pytest.param("swallows", marks=pytest.mark.slow)])
def test_training_ends_well_without_its_mlflow_and_sync_brings_everything(
    ready: Workspace, uninterrupted: str, fault: str, tmp_path: Path
) -> None:
    ready.set(LONG)
    port = free_port()
    with mlflow_server(tmp_path, port) as server:
        proxy = Proxy(port)
        uri = f"http://127.0.0.1:{proxy.port}"
        code, output = _train(ready, uri, proxy.swallow if fault == "swallows" else lambda: _kill_all(server))
        assert code == 0, output
        assert "pipeline.sync" in output
        assert ready.weights_sha256() == uninterrupted
        proxy.close()
    again = ready.run(sys.executable, "-m", "pipeline.sync", MLFLOW_TRACKING_URI=uri)
    assert again.returncode == 69 and "Traceback" not in again.stderr  # it is still away
    with mlflow_server(tmp_path, proxy.port):
        sent = ready.run(sys.executable, "-m", "pipeline.sync", MLFLOW_TRACKING_URI=uri)
        assert sent.returncode == 0 and "sent 1 of 1" in sent.stdout, sent.stderr
        _everything_arrived(ready, uri)

"""A real MLflow server for tests."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UP_SECONDS = 90


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[subprocess.Popen]:
    """A real MLflow server on the loopback, its store below ``folder``."""
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination",
        str(folder / "server-artifacts"),
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("a") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *store],
            cwd=folder,
            env=environment,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + UP_SECONDS
            while True:
                assert process.poll() is None, (folder / "server.log").read_text()
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                    break
                except (OSError, http.client.HTTPException):
                    assert time.monotonic() < deadline, "the server does not come up"
                    time.sleep(0.1)
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 15)
                process.wait(30)

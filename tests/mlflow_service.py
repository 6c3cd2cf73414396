"""MLflow as a team has it: PostgreSQL, login and artefacts through the server, as infra/mlflow runs it, in processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from postgres import Postgres
from workspace import ROOT, free_port

SECRETS = {"database_password": "data%base/pass@word:1", "admin_password": "admin-%pass-word-12", "session_key": "k" * 40}
UP_SECONDS = 90


class Service:
    """The database runs; the server runs within ``with service.serving()``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.artifacts, self.port = folder, folder / "artifacts", free_port()
        self.database = Postgres(SECRETS["database_password"])
        (folder / "secrets").mkdir(mode=0o700)
        for name, value in SECRETS.items():
            (folder / "secrets" / name).write_text(value + "\n")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> dict[str, str]:
        """The environment of whoever uses it."""
        return {
            "MLFLOW_TRACKING_URI": self.url, "MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": SECRETS["admin_password"],
        }  # fmt: skip

    @property
    def settings(self) -> dict[str, str]:
        """The environment of infra/mlflow/serve.sh."""
        return {
            "SECRETS": str(self.folder / "secrets"), "STATE": str(self.folder / "state"), "HOST": "127.0.0.1", "PORT": str(self.port),
            "WORKERS": "1", "DATABASE_HOST": "127.0.0.1", "DATABASE_PORT": str(self.database.port), "ARTIFACTS": str(self.artifacts),
            "ALLOWED_HOSTS": f"127.0.0.1:{self.port}",
        }  # fmt: skip

    @contextmanager
    def serving(self) -> Iterator[subprocess.Popen]:
        """The server, until the block ends."""
        log = self.folder / "server.log"
        with log.open("ab") as stream:
            process = subprocess.Popen(
                ["sh", str(ROOT / "infra/mlflow/serve.sh")], env=os.environ | self.settings, stdout=stream, stderr=stream,
                start_new_session=True,
            )  # fmt: skip
        try:
            deadline = time.monotonic() + UP_SECONDS
            while not self._answers():
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.1)
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(30)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/health", timeout=1).close()
        except OSError:
            return False
        return True

    def end(self) -> None:
        self.database.end()

"""A real PostgreSQL server for tests, from the distribution's packages, on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import psutil

from workspace import free_port

USER, DATABASE = "mlflow", "mlflow"
WAIT_SECONDS = 60


def programs() -> Path:
    """Where initdb and pg_ctl lie; Debian keeps them out of PATH."""
    (*_, newest) = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return newest


class Postgres:
    """``start`` and ``stop`` as often as wanted; the data stays."""

    def __init__(self, password: str) -> None:
        self.port, self.password = free_port(), password
        self._user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        # Not below pytest's folders, which that user may not enter.
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._folder.chmod(0o711)
        self.data, secret = self._folder / "data", self._folder / "password"
        secret.write_text(password)
        if self._user:
            for each in (self._folder, secret):
                shutil.chown(each, self._user)
        self._run(
            "initdb", "-D", str(self.data), "-U", USER, "--pwfile", str(secret), "-A", "scram-sha-256", "-E", "UTF8", "--no-sync"
        )
        self.start()
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, DATABASE)

    @property
    def uri(self) -> str:
        return f"postgresql://{USER}:{quote(self.password, safe='')}@127.0.0.1:{self.port}/{DATABASE}"

    def _run(self, program: str, *arguments: str, input: bytes | None = None) -> bytes:
        done = subprocess.run(
            [str(programs() / program), *arguments], user=self._user, cwd="/", input=input, capture_output=True, timeout=WAIT_SECONDS,
            env={"PATH": os.environ["PATH"], "PGPASSWORD": self.password, "LC_ALL": "C.UTF-8"}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def start(self) -> None:
        """Begin to serve; returns when it answers."""
        settings = ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [str(programs() / "postgres"), "-D", str(self.data), *settings], user=self._user, cwd="/", stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + WAIT_SECONDS
        ready = [str(programs() / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        while subprocess.run(ready, check=False).returncode:
            assert time.monotonic() < deadline and self._server.poll() is None, (self._folder / "log").read_text()[-2000:]
            time.sleep(0.05)

    def stop(self, how: str) -> None:
        """``fast``, ``immediate`` (as a crash, but told to its children), or ``kill``."""
        family = [psutil.Process(self._server.pid), *psutil.Process(self._server.pid).children()]
        if how == "kill":
            for process in family:
                process.kill()
        else:
            self._server.send_signal({"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[how])
        self._server.wait(WAIT_SECONDS)

    def end(self) -> None:
        """For good."""
        if self._server.poll() is None:
            self.stop("immediate")
        shutil.rmtree(self._folder)

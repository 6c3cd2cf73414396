"""`python -m pipeline.ui`: MLflow's own server over this workspace's store, on loopback, until Ctrl-C."""

from __future__ import annotations

import os
import sys

from pipeline.console import set_up_logging
from pipeline.errors import InputMissingError
from pipeline.paths import Paths
from pipeline.stage import guarded
from pipeline.tracking import ENVIRONMENT, URI_VARIABLE, is_server, uri

HOST, PORT = "127.0.0.1", "5000"


def main() -> None:
    """Replace this process by MLflow's."""
    set_up_logging("ui")
    paths = Paths.here()

    def work() -> None:
        store = uri(paths)
        if is_server(store):
            print(f"{URI_VARIABLE} is {store}: open it in a browser")
            return
        if not paths.mlflow_database.exists():
            raise InputMissingError(f"{paths.mlflow_database} does not exist: `make run` first")
        print(f"MLflow on http://{HOST}:{PORT} (Ctrl-C ends it)", flush=True)
        environment = ENVIRONMENT | os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        arguments = ["--backend-store-uri", store, "--host", HOST, "--port", os.environ.get("PORT", PORT), "--workers", "1"]
        os.execve(sys.executable, [sys.executable, "-m", "mlflow", "server", *arguments], environment)

    sys.exit(guarded("ui", work, debug=False))


if __name__ == "__main__":
    main()

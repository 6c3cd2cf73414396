"""MLflow, behind one small class. Default store: SQLite and a folder in the workspace; elsewhere by MLFLOW_TRACKING_URI.

Only drivers come here, never a training worker. Whatever MLflow does, training goes on: metrics wait in their spool.
"""

from __future__ import annotations

import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UnavailableError
from pipeline.paths import Paths

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "vaeline"
URI_VARIABLE = "MLFLOW_TRACKING_URI"
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default blocks a call for minutes when the server is gone
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
PATIENT_RETRIES = "6"  # after 2, 4, 8, 16, 32 seconds
ANSWER_SECONDS = 5
MOST_METRICS = 1000  # in one call: the server's limit
KEY_TAG, PARENT_TAG = "vaeline.key", "mlflow.parentRunId"
log = logging.getLogger("pipeline.tracking")


def uri(paths: Paths) -> str:
    """The store in force."""
    return os.environ.get(URI_VARIABLE) or f"sqlite:///{paths.mlflow_database}"


def is_server(address: str) -> bool:
    """Whether a store is a server, that other machines use too, and no file."""
    return address.startswith(("http://", "https://"))


def _reach(address: str) -> None:
    """UnavailableError within seconds where no server answers."""
    if not is_server(address):
        return
    try:
        urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError:
        return  # somebody answers; what it thinks of us shows at the first real call
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UnavailableError(
            f"MLflow does not answer at {address} ({reason}): start it, correct {URI_VARIABLE}, or unset it to use a local file"
        ) from None


@contextmanager
def patient(paths: Paths) -> Iterator[None]:
    """Where nothing waits for an answer but a person: a server that has gone for a minute is waited for.

    UnavailableError where it stays away, whatever was being asked.
    """
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    before = os.environ.get(name, ENVIRONMENT[name])
    os.environ[name] = PATIENT_RETRIES
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        told = " ".join(str(error).split())[:200]
        raise UnavailableError(
            f"the MLflow store {uri(paths)} failed ({told}): look at it, then run the same command again"
        ) from None
    finally:
        os.environ[name] = before


class Tracker:
    """A connection to the store: schema and experiment exist once this is built."""

    def __init__(self, paths: Paths) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.uri = uri(paths)
        _reach(self.uri)
        import mlflow
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        for name in ("alembic", "mlflow"):  # after the import, which sets levels of its own
            logging.getLogger(name).setLevel(logging.ERROR)

        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        local = self.uri.startswith("sqlite:")
        try:
            self.client: MlflowClient = mlflow.MlflowClient()
            self.experiment_id = self._experiment(paths.mlflow_artifacts.as_uri() if local else None)
        except (MlflowException, SQLAlchemyError) as error:
            reason = " ".join(str(error).split())[:200]
            if "out-of-date database schema" in reason:
                raise UnavailableError(
                    f"the MLflow store {self.uri} was made by another version of MLflow: copy it, then `mlflow db upgrade {self.uri}`"
                ) from None
            if (
                getattr(error, "error_code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED")
                or " 401 " in reason
                or " 403 " in reason
            ):
                raise UnavailableError(
                    f"the MLflow server {self.uri} does not let us in: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
                    "or MLFLOW_TRACKING_TOKEN; and --allowed-hosts of the server must name the host in its address"
                ) from None
            remedy = "look at its log" if is_server(self.uri) else "repair or move it"
            raise UnavailableError(f"the MLflow store {self.uri} cannot be used ({reason}): {remedy}") from None

    def _experiment(self, artifacts: str | None) -> str:
        """The id of the experiment, made where there is none; of two who make it at once both find the one that was made."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(EXPERIMENT)
        if not found:
            try:
                return str(self.client.create_experiment(EXPERIMENT, artifact_location=artifacts))
            except MlflowException as error:
                found = self.client.get_experiment_by_name(EXPERIMENT)
                if error.error_code != "RESOURCE_ALREADY_EXISTS" or not found:
                    raise
        return str(found.experiment_id)

    def run(self, name: str, key: str = "", parent: str = "", tags: dict[str, str] | None = None) -> str:
        """The id of the unfinished run with this ``key``, or of a new one: a resumed job goes on in the same run."""
        if key:
            query = f"tags.`{KEY_TAG}` = '{key}' and attributes.status != 'FINISHED'"
            found: list[Run] = self.client.search_runs([self.experiment_id], query, max_results=1)
            if found:
                self.client.update_run(found[0].info.run_id, status="RUNNING")
                return found[0].info.run_id
        every = {**(tags or {}), **({KEY_TAG: key} if key else {}), **({PARENT_TAG: parent} if parent else {})}
        return self.client.create_run(self.experiment_id, run_name=name, tags=every).info.run_id

    def run_of(self, key: str) -> str:
        """The id of the run with this ``key``, ended or not, or ''."""
        found: list[Run] = self.client.search_runs([self.experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        return found[0].info.run_id if found else ""

    def note(self, key: str) -> str:
        """What the experiment's tag says, or ''; UnavailableError where the store does not answer."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_experiment(self.experiment_id).tags.get(key, "")
        except MlflowException as error:
            raise UnavailableError(f"the store {self.uri} does not answer: {' '.join(str(error).split())[:200]}") from None

    def set_note(self, key: str, value: str) -> None:
        """Likewise, write it: one text of the whole store, whoever wrote last."""
        from mlflow.exceptions import MlflowException

        for last in (False, True):
            try:
                self.client.set_experiment_tag(self.experiment_id, key, value)
                return
            except MlflowException as error:
                # Of two who write a tag for the first time at once, MLflow refuses one: the tag is there then, and can be changed.
                if last or "IntegrityError" not in str(error):
                    told = " ".join(str(error).split())[:200]
                    raise UnavailableError(f"the store {self.uri} does not answer: {told}") from None

    def exists(self, run_id: str) -> bool:
        """Whether the store knows this run (it may be another store than the one that training used)."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return False
            raise

    def params(self, run_id: str, values: dict[str, Any]) -> None:
        """Log parameters; those that the run has already are left as they are."""
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        fresh = [Param(k, str(v)) for k, v in values.items() if k not in known]
        for start in range(0, len(fresh), 100):
            self.client.log_batch(run_id, params=fresh[start : start + 100])

    def metrics(self, run_id: str, values: dict[str, float]) -> None:
        """Log numbers that belong to no step; what is no number is left out."""
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        self.records(run_id, [{**numbers, "step": 0, "time_ms": int(time.time() * 1000)}])

    def records(self, run_id: str, records: list[dict[str, float]]) -> None:
        """Log records that carry their ``step`` and ``time_ms``: the store keeps the same number of the same moment once."""
        from mlflow.entities import Metric

        every = [
            Metric(name, float(value), int(record["time_ms"]), int(record["step"]))
            for record in records
            for name, value in record.items()
            if name not in ("step", "time_ms") and isinstance(value, int | float)
        ]
        for start in range(0, len(every), MOST_METRICS):
            self.client.log_batch(run_id, metrics=every[start : start + MOST_METRICS])

    def artifacts(self, run_id: str, directory: Path, place: str) -> None:
        """Upload a folder of reports under ``place``."""
        self.client.log_artifacts(run_id, str(directory), place)

    def artifact(self, run_id: str, file: Path, place: str | None = None) -> None:
        """Upload one file to ``place`` among the run's artefacts, or on top of them."""
        self.client.log_artifact(run_id, str(file), place)

    def end(self, run_id: str, status: str = "FINISHED") -> None:
        """Close a run as FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status)

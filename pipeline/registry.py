"""The MLflow model registry, by aliases: add a version, read and set the champion, fetch its files."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

import vae
from pipeline import params
from pipeline.errors import InputMissingError, UnavailableError
from pipeline.paths import Paths
from pipeline.tracking import Tracker
from vae.answers import Settings
from vae.artefact import Generator

CHAMPION = "champion"
REQUIREMENTS = ("torch", "numpy", "pandas", "pillow", "safetensors", "mlflow")  # of a process that loads the model
ARTEFACT = "model"


class Registry:
    """The versions of one registered model."""

    def __init__(self, tracker: Tracker, name: str) -> None:
        self.tracker, self.name = tracker, name

    @classmethod
    def here(cls, paths: Paths, name: str = "") -> Self:
        """That of ``name``, or of the name in this workspace's params.yaml; InputMissingError where there is none."""
        if not name and not paths.params.exists():
            raise InputMissingError(f"{paths.params} does not exist: name the model in full, as models:/cats@{CHAMPION}")
        return cls(Tracker(paths), name or params.load(paths.params, ("register",)).register.name)

    def champion(self) -> str | None:
        """The version that holds the alias, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self.tracker.client.get_model_version_by_alias(self.name, CHAMPION).version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise UnavailableError(f"the registry at {self.tracker.uri} does not answer: {error}") from None

    def add(self, run_id: str, directory: Path, generator: Generator, metrics: dict[str, float], tags: dict[str, str]) -> str:
        """Log the artefact in ``directory``, which ``generator`` was loaded from, to the run and register it; returns the version."""
        import mlflow
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
        from mlflow.types.schema import Array

        # Every column is of some operations only.
        texts = ["image", "other", "mask", "move", "make", *(["label"] if generator.config.classes else [])]
        columns = [ColSpec(DataType.long, name, required=False) for name in ("n", "seed")]
        columns += [ColSpec(DataType.string, name, required=False) for name in texts]
        columns += [ColSpec(Array(DataType.double), "latents", required=False)]
        kinds = {float: DataType.double, int: DataType.long, bool: DataType.boolean}
        operation = [
            ParamSpec("op", DataType.string, "sample"),
            ParamSpec("png", DataType.boolean, False),
            *(ParamSpec(each.name, kinds[type(each.default)], each.default) for each in fields(Settings)),
        ]
        signature = ModelSignature(
            inputs=Schema([*columns]),
            outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, *generator.config.image_shape))]),
            params=ParamSchema(operation),
        )
        with mlflow.start_run(run_id=run_id):
            info = mlflow.pyfunc.log_model(
                name=self.name,
                python_model=str(Path(__file__).with_name("pyfunc.py")),
                artifacts={ARTEFACT: str(directory)},
                code_paths=[str(Path(vae.__file__).parent)],
                signature=signature,
                input_example=pd.DataFrame({"n": [4], "seed": [0]}),
                pip_requirements=[f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in REQUIREMENTS],
                registered_model_name=self.name,
                await_registration_for=60,
            )
        self.tracker.client.set_terminated(run_id)
        mlflow.log_metrics(metrics, model_id=info.model_id, run_id=run_id)
        version = str(info.registered_model_version)
        self.tag(version, tags)
        return version

    def tag(self, version: str, tags: dict[str, Any]) -> None:
        """Set tags of a version."""
        for key, value in tags.items():
            self.tracker.client.set_model_version_tag(self.name, version, key, str(value))

    def promote(self, version: str) -> None:
        """Give the alias to ``version``."""
        self.tracker.client.set_registered_model_alias(self.name, CHAMPION, version)

    def model_tags(self) -> dict[str, str]:
        """The tags of the registered model itself; none where it does not exist."""
        from mlflow.exceptions import MlflowException

        try:
            return dict(self.tracker.client.get_registered_model(self.name).tags)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise UnavailableError(f"the registry at {self.tracker.uri} does not answer: {error}") from None

    def tag_model(self, key: str, value: str) -> None:
        """Set a tag of the registered model, which exists."""
        self.tracker.client.set_registered_model_tag(self.name, key, value)

    def versions(self) -> list[str]:
        """All version numbers, the oldest first."""
        found = self.tracker.client.search_model_versions(f"name = '{self.name}'", max_results=10_000)
        return [str(number) for number in sorted(int(version.version) for version in found)]

    def facts(self, version: str) -> dict[str, str]:
        """When a version was made (UTC), and what was decided about it."""
        found = self.tracker.client.get_model_version(self.name, version)
        made = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).isoformat(timespec="seconds")
        return {"made": made, "decision": found.tags.get("vaeline.decision", "")}

    def undecided(self) -> list[str]:
        """Versions that were made and never decided about."""
        found = self.tracker.client.search_model_versions(f"name = '{self.name}'", max_results=10_000)
        return [str(version.version) for version in found if "vaeline.promoted" not in version.tags]

    def aliased(self) -> set[str]:
        """Versions that an alias points to."""
        if not self.versions():
            return set()
        return {str(version) for version in self.tracker.client.get_registered_model(self.name).aliases.values()}

    def delete(self, version: str) -> None:
        """Remove a version and the model that was logged for it; its run stays."""
        source = self.tracker.client.get_model_version(self.name, version)
        self.tracker.client.delete_model_version(self.name, version)
        if source.model_id:
            self.tracker.client.delete_logged_model(source.model_id)

    def version(self, which: str) -> str:
        """The number of a version that is named by it or by an alias; InputMissingError where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            if which.isdecimal():
                return str(self.tracker.client.get_model_version(self.name, which).version)
            return str(self.tracker.client.get_model_version_by_alias(self.name, which).version)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise UnavailableError(f"the registry at {self.tracker.uri} does not answer: {error}") from None
            raise InputMissingError(
                f"models:/{self.name} has no version or alias {which!r} in {self.tracker.uri}: `make ui` lists those there are"
            ) from None

    @staticmethod
    def place(version: str) -> str:
        """Where its run keeps what belongs to a version: a run whose model is evaluated anew may have several."""
        return f"register/{version}"

    def tags(self, version: str) -> dict[str, str]:
        """The tags of a version, which exists."""
        return dict(self.tracker.client.get_model_version(self.name, version).tags)

    def told(self, version: str, file: str) -> dict[str, Any]:
        """A JSON file that stage register left with the version; InputMissingError where an older commit left none."""
        return json.loads(self.text(version, file))

    def text(self, version: str, file: str) -> str:
        """Likewise, any file."""
        import mlflow

        run_id = self.tracker.client.get_model_version(self.name, version).run_id
        try:
            return mlflow.artifacts.load_text(f"runs:/{run_id}/{self.place(version)}/{file}")
        except (mlflow.exceptions.MlflowException, OSError):
            raise InputMissingError(
                f"version {version} of models:/{self.name} has no {file}: an older commit registered it, evaluate it anew"
            ) from None

    def fetch(self, version: str, destination: Path) -> Path:
        """The artefact of a version, copied below ``destination``."""
        import mlflow

        shutil.rmtree(destination, ignore_errors=True)
        destination.mkdir(parents=True)
        root = mlflow.artifacts.download_artifacts(f"models:/{self.name}/{version}", dst_path=str(destination))
        found = next(Path(root).rglob("config.json"), None)
        if found is None:
            raise UnavailableError(
                f"models:/{self.name}/{version} holds no model of this project: register it under another name"
            )
        return found.parent

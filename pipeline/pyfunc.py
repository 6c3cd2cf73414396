"""The registered model, as MLflow's models-from-code loads it: this file, safetensors and JSON, no pickle.

``predict`` takes a table, a row for each request, and as parameters ``op``, ``png`` and the settings of vae/answers.py, where the
operations and their columns are listed; unused columns may be missing. With ``png`` images go out as base64 texts of PNG files, else
as an array. It imports ``vae`` from the copy that lies in the artefact, so it works in a process that has neither this project, nor
Ray, nor DVC.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

if TYPE_CHECKING:
    from vae.artefact import Generator


class VaePyfunc(PythonModel):
    """Draws images from a registered VAE, and says what it makes of others."""

    generator: Generator

    def load_context(self, context: PythonModelContext) -> None:
        """Load the artefact after checking its hashes."""
        from vae.artefact import load_artefact

        self.generator = load_artefact(Path(context.artifacts["model"]))

    def predict(
        self, context: object, model_input: pd.DataFrame, params: dict | None = None
    ) -> np.ndarray | list[str] | list[list[dict[str, str | float]]]:
        """What ``op`` says, of each row; ValueError in a sentence for whatever cannot be done."""
        from vae.answers import NO_IMAGES, Settings, answer, as_rows, as_texts

        given = {"op": "sample", "png": False} | (params or {})
        op, png = str(given.pop("op")), bool(given.pop("png"))
        columns = {
            str(name): [None if absent else value for value, absent in zip(column, column.isna(), strict=True)]
            for name, column in model_input.items()
        }
        found = answer(self.generator, op, columns, Settings(**given))
        if op == "nearest":
            return as_rows(found)
        return as_texts(found, self.generator) if png and op not in NO_IMAGES else found


set_model(VaePyfunc())

"""The registered model, as MLflow's models-from-code loads it: this file, safetensors and JSON, no pickle.

``predict`` takes a table with columns ``n`` and ``seed``, of a class-conditional model if wanted ``label``, and returns uint8 images
(sum of n, H, W, C). It imports ``vae`` from the copy that lies in the artefact, so it works in a process that has neither this
project, nor Ray, nor DVC.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

MOST_IMAGES = 100_000  # of one request


class VaePyfunc(PythonModel):
    """Draws images from a registered VAE."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the artefact after checking its hashes."""
        from vae.artefact import load_artefact

        self.generator = load_artefact(Path(context.artifacts["model"]))

    def predict(self, context: object, model_input: pd.DataFrame, params: dict | None = None) -> np.ndarray:
        """For each row ``n`` images of ``seed``, at the temperature in ``params``; of ``label``, or where it is empty of any."""
        temperature = float((params or {}).get("temperature", 1.0))
        if temperature < 0:
            raise ValueError(f"temperature {temperature} is negative: use 0 (the mean) or more")
        counts = [int(n) for n in model_input["n"]]
        if min(counts, default=0) < 1 or sum(counts) > MOST_IMAGES:
            raise ValueError(f"n must be at least 1 in every row and at most {MOST_IMAGES} in all, got {counts[:10]}")
        seeds = [int(seed) for seed in model_input["seed"]]
        labels = list(model_input["label"]) if "label" in model_input else [None] * len(counts)
        found = []
        for n, seed, label in zip(counts, seeds, labels, strict=True):
            number = None if pd.isna(label) else self._number(str(label))
            label_N = None if number is None else torch.full((n,), number)
            found.append(self.generator.sample(n, seed, temperature, label_N))
        return np.concatenate(found)

    def _number(self, label: str) -> int:
        known = self.generator.contract.get("labels", [])
        if label not in known:
            close = difflib.get_close_matches(label, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known) or 'none: the model has no classes'}"
            raise ValueError(f"unknown label {label!r}: {hint}")
        return known.index(label)


set_model(VaePyfunc())

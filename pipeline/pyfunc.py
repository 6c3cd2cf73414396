"""The registered model, as MLflow's models-from-code loads it: this file, safetensors and JSON, no pickle.

``predict`` takes a table, a row for each request, and the parameter ``op``; unused columns may be missing:

op           columns of a row                       what comes back
sample       n, seed, and if wanted label           uint8 images (sum of n, H, W, C)
reconstruct  image                                  uint8 images (rows, H, W, C)
interpolate  image, other; parameters steps, linear uint8 images (rows * steps, H, W, C)
traverse     image; parameters steps, extent        uint8 images (rows * D * steps, H, W, C)
decode       latents: D numbers                     uint8 images (rows, H, W, C)
encode       image                                  float32 latents (rows, D)
score        image, and if wanted seed              float64 bounds (rows,), in nats: low ones are unlike the training images

Pictures come in as base64 texts of PNG, JPEG, ... files of any size; with the parameter ``png`` they go out as base64 texts, too. A
class-conditional model needs a label in each row, but for ``sample``. It imports ``vae`` from the copy that lies in the artefact, so it
works in a process that has neither this project, nor Ray, nor DVC.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

if TYPE_CHECKING:
    from vae.artefact import Generator

MOST_IMAGES = 100_000  # of one request
MOST_BYTES = 32 * 2**20  # of a picture's file
OPERATIONS = ("sample", "reconstruct", "interpolate", "traverse", "decode", "encode", "score")


class VaePyfunc(PythonModel):
    """Draws images from a registered VAE, and says what it makes of others."""

    generator: Generator

    def load_context(self, context: PythonModelContext) -> None:
        """Load the artefact after checking its hashes."""
        from vae.artefact import load_artefact

        self.generator = load_artefact(Path(context.artifacts["model"]))

    def predict(self, context: object, model_input: pd.DataFrame, params: dict | None = None) -> np.ndarray | list[str]:
        """What ``op`` says, of each row; ValueError in a sentence for whatever cannot be done."""
        given = {"op": "sample", "temperature": 1.0, "steps": 9, "extent": 3.0, "linear": False, "png": False} | (params or {})
        op = str(given["op"])
        if op not in OPERATIONS:
            close = difflib.get_close_matches(op, OPERATIONS, n=1)
            raise ValueError(
                f"unknown op {op!r}: " + (f"did you mean {close[0]!r}?" if close else f"known are {', '.join(OPERATIONS)}")
            )
        if not len(model_input):
            raise ValueError("the request has no rows")
        found = getattr(self, f"_{op}")(model_input, given)
        if not given["png"] or op in ("encode", "score"):
            return found
        from vae.use import to_base64_png

        return [to_base64_png(image, self.generator.contract["mode"]) for image in found]

    def _column(self, rows: pd.DataFrame, name: str, op: str) -> list[Any]:
        if name not in rows or rows[name].isna().any():
            raise ValueError(f"{op} needs a column {name!r} with a value in every row")
        return list(rows[name])

    def _images(self, rows: pd.DataFrame, name: str, op: str) -> np.ndarray:
        from vae.use import from_base64, pixels_of

        found = []
        for number, text in enumerate(self._column(rows, name, op)):
            try:
                found.append(pixels_of(from_base64(str(text), MOST_BYTES), self.generator))
            except ValueError as error:
                raise ValueError(f"{name} of row {number}: {error}") from None
        return np.stack(found)

    def _few(self, count: float) -> None:
        if not 1 <= count <= MOST_IMAGES:
            raise ValueError(f"a request is of 1 to {MOST_IMAGES} images in all, this one of {count:g}")

    def _labels(self, rows: pd.DataFrame, op: str) -> torch.Tensor | None:
        if not self.generator.config.classes:
            return None
        return torch.tensor([self._number(str(label)) for label in self._column(rows, "label", op)])

    def _sample(self, rows: pd.DataFrame, given: dict[str, Any]) -> np.ndarray:
        temperature = float(given["temperature"])
        if not 0 <= temperature <= 100:
            raise ValueError(f"temperature {temperature} is not within 0 (the mean) and 100")
        counts = [int(n) for n in self._column(rows, "n", "sample")]
        if min(counts) < 1 or sum(counts) > MOST_IMAGES:
            raise ValueError(f"n must be at least 1 in every row and at most {MOST_IMAGES} in all, got {counts[:10]}")
        seeds = [int(seed) for seed in self._column(rows, "seed", "sample")]
        labels = list(rows["label"]) if "label" in rows else [None] * len(counts)
        found = []
        for n, seed, label in zip(counts, seeds, labels, strict=True):
            number = None if pd.isna(label) else self._number(str(label))
            label_N = None if number is None else torch.full((n,), number)
            found.append(self.generator.sample(n, seed, temperature, label_N))
        return np.concatenate(found)

    def _reconstruct(self, rows: pd.DataFrame, given: dict[str, Any]) -> np.ndarray:
        return self.generator.reconstruct(self._images(rows, "image", "reconstruct"), self._labels(rows, "reconstruct"))

    def _encode(self, rows: pd.DataFrame, given: dict[str, Any]) -> np.ndarray:
        return self.generator.encode(self._images(rows, "image", "encode"), self._labels(rows, "encode"))[0].numpy()

    def _score(self, rows: pd.DataFrame, given: dict[str, Any]) -> np.ndarray:
        seed = int(rows["seed"].iloc[0]) if "seed" in rows and pd.notna(rows["seed"].iloc[0]) else 0
        return self.generator.bound(self._images(rows, "image", "score"), self._labels(rows, "score"), seed).numpy()

    def _decode(self, rows: pd.DataFrame, given: dict[str, Any]) -> np.ndarray:
        latents, wanted = self._column(rows, "latents", "decode"), self.generator.model.latent_dim
        if any(len(each) != wanted for each in latents):
            raise ValueError(f"latents of a row are {wanted} numbers, got {[len(each) for each in latents][:10]}")
        z_ND = torch.tensor(np.array([list(each) for each in latents], np.float32))
        if not z_ND.isfinite().all():
            raise ValueError("latents must be finite numbers")
        return self.generator.decode(z_ND, self._labels(rows, "decode"))

    def _steps(self, given: dict[str, Any], sets: int) -> int:
        steps = int(given["steps"])
        if steps < 2:
            raise ValueError(f"steps is {steps}: 2 at least")
        self._few(steps * sets)
        return steps

    def _interpolate(self, rows: pd.DataFrame, given: dict[str, Any]) -> np.ndarray:
        from vae.use import interpolation

        steps, label_N = self._steps(given, len(rows)), self._labels(rows, "interpolate")
        (first_ND, _), (second_ND, _) = (
            self.generator.encode(self._images(rows, name, "interpolate"), label_N) for name in ("image", "other")
        )
        pairs = zip(first_ND, second_ND, strict=True)
        z_ND = torch.cat([interpolation(a_D, b_D, steps, bool(given["linear"])) for a_D, b_D in pairs])
        return self.generator.decode(z_ND, None if label_N is None else label_N.repeat_interleave(steps))

    def _traverse(self, rows: pd.DataFrame, given: dict[str, Any]) -> np.ndarray:
        from vae.use import traversal

        latents, extent = self.generator.model.latent_dim, float(given["extent"])
        if not 0 < extent <= 100:
            raise ValueError(f"extent is {extent}: more than 0, at most 100 standard deviations of the prior")
        steps, label_N = self._steps(given, len(rows) * latents), self._labels(rows, "traverse")
        mean_ND, _ = self.generator.encode(self._images(rows, "image", "traverse"), label_N)
        z_ND = torch.cat([traversal(z_D, list(range(latents)), steps, extent) for z_D in mean_ND])
        return self.generator.decode(z_ND, None if label_N is None else label_N.repeat_interleave(latents * steps))

    def _number(self, label: str) -> int:
        known = self.generator.contract.get("labels", [])
        if label not in known:
            close = difflib.get_close_matches(label, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known) or 'none: the model has no classes'}"
            raise ValueError(f"unknown label {label!r}: {hint}")
        return known.index(label)


set_model(VaePyfunc())

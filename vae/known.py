"""Training images that a model knows by name: their latents go with it, so that the nearest to any image can be told. K, D as ever.

No pixels are kept: K names and K latents (posterior means). Distances are Euclidean, in latent space.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vae.files import canonical_json, write_text

LATENTS, NAMES = "known.safetensors", "known.json"
BLOCK = 64  # images at a time, so that memory is bounded by K


@dataclass(frozen=True)
class Known:
    """``names`` (K) and latents (K, D), float32."""

    names: list[str]
    mean_KD: Tensor

    def __post_init__(self) -> None:
        if self.mean_KD.ndim != 2 or len(self.names) != len(self.mean_KD):
            raise ValueError(f"{len(self.names)} names of latents {tuple(self.mean_KD.shape)}")

    def nearest(self, mean_ND: Tensor, count: int) -> np.ndarray:
        """The ``count`` nearest (or all, where there are fewer) of each latent, the nearest first; equally near ones as they were given.

        Returns (N, count) of fields ``name`` and ``distance``.
        """
        count = min(count, len(self.names))
        names = np.array(self.names, dtype=np.str_)
        found = np.empty((len(mean_ND), count), [("name", names.dtype), ("distance", np.float64)])
        known_KD = self.mean_KD.double()
        for start in range(0, len(mean_ND), BLOCK):
            rows = slice(start, start + BLOCK)
            # The products' way of a distance loses the digits of near ones.
            away = torch.cdist(mean_ND[rows].double(), known_KD, compute_mode="donot_use_mm_for_euclid_dist")
            distance, place = away.sort(dim=1, stable=True)
            found["name"][rows] = names[place[:, :count].numpy()]
            found["distance"][rows] = distance[:, :count].numpy()
        return found

    def save(self, directory: Path) -> None:
        """Write both files."""
        save_file({"mean": self.mean_KD.contiguous()}, directory / LATENTS)
        write_text(directory / NAMES, canonical_json(self.names))

    @classmethod
    def load(cls, directory: Path) -> Known | None:
        """Those of an artefact, or None where it has none; ValueError where the two files do not fit."""
        if not (directory / NAMES).exists():
            return None
        return cls(json.loads((directory / NAMES).read_text(encoding="utf-8")), load_file(directory / LATENTS)["mean"])

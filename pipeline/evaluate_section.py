"""Section ``evaluate`` of params.yaml: what evaluate computes, and of how many images."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vae.schema import field


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    samples: int = field(low=1)
    importance_samples: int = field(low=1)
    importance_images: int = field(low=1)
    best_of: int = field(low=1, high=256)
    best_of_coverage: float = field(low=0, high=1)
    inception_weights: str
    inception_sha256: str
    must_be_healthy: bool

    def problems(self) -> list[tuple[str, str]]:
        found = []
        if self.inception_weights and not self.inception_weights.lower().endswith((".pth", ".safetensors")):
            found.append(("inception_weights", f"{self.inception_weights!r} is neither a .pth nor a .safetensors file"))
        if bool(self.inception_weights) != bool(self.inception_sha256):
            key = "inception_sha256" if self.inception_weights else "inception_weights"
            found.append((key, "is empty: FID needs the file of weights and its sha256; without both there is no FID"))
        elif self.inception_sha256 and not re.fullmatch("[0-9a-fA-F]{64}", self.inception_sha256):
            found.append(("inception_sha256", f"{self.inception_sha256!r} is not 64 hexadecimal digits"))
        return found

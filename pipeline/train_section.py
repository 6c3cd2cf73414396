"""Section train of params.yaml: how long the final training is, what it begins from, what goes with the model."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vae.config import Schedule
from vae.schema import field

# Weights to begin from: the search's, those of a registered version, or a file beside its config.json.
TUNED, VERSION, FILE = "tuned", r"models:/[^/@]+/\d+", ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Train(Schedule):
    """Read by train alone, but ``warm_start`` by retrain too."""

    use_tuned: bool
    warm_start: str
    transfer: bool
    beta: float = field(above=0, high=1e4)
    latent_dim: int = field(low=1, high=4096)
    known_images: int = field(low=0, high=10**6)
    attribute_steps: int = field(low=0, high=10**6)
    coding_images: int = field(low=0, high=10**6)
    max_failures: int = field(low=0, high=100)

    def problems(self) -> list[tuple[str, str]]:
        found = []
        if (
            self.warm_start not in ("", TUNED)
            and not re.fullmatch(VERSION, self.warm_start)
            and not self.warm_start.endswith(FILE)
        ):
            known = f"'', {TUNED}, a version by its number, as models:/name/3, or a {FILE} file beside its config.json"
            found.append(("warm_start", f"{self.warm_start!r} is none of {known}"))
        if self.transfer and not self.warm_start:
            found.append(("transfer", "is true, but warm_start is '': say from which model"))
        if not self.transfer and (self.frozen_images or self.layer_decay != 1):
            key = "frozen_images" if self.frozen_images else "layer_decay"
            found.append((key, "is of carried layers: set transfer to true"))
        if self.frozen_images >= self.total_images:
            found.append(("frozen_images", f"{self.frozen_images} is not less than total_images {self.total_images}"))
        return found

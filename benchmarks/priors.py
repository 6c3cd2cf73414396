"""How well and how fast latent priors are fitted: ``python -m benchmarks.priors [rows]`` writes docs/results/priors.json.

A row is a density of 10 dimensions with a formula: ``normal``; ``bent``, two of them a parabola of the first and a sine of the third;
``clusters``, 24 normals. Each prior is fitted with the settings of params.yaml to as many latents as tune (8,000) and train (20,000)
fit it to, and judged by 10,000 others: nats lost against the true density. ``seconds`` are those of one processor, on which a fit runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import tables
from benchmarks.rows import ROOT, measure
from pipeline import params
from pipeline.train import PRIOR_IMAGES
from pipeline.trial_score import LATENTS
from vae.objective import log_normal
from vae.samplers import SAMPLERS

DIM, CLUSTERS, WIDTH, SPREAD = 10, 24, 0.3, 0.4
Density = Callable[[int, int], tuple[Tensor, Tensor]]


def _noise(n: int, seed: int) -> Tensor:
    return torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed))


def normal(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """N(0, I): latents (N, D) and their log-density (N,), in nats."""
    noise_ND = _noise(n, seed)
    return noise_ND, log_normal(noise_ND)


def bent(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Dimensions 1 and 3 follow others but for a little noise."""
    noise_ND = _noise(n, seed)
    z_ND = noise_ND.clone()
    z_ND[:, 1] = noise_ND[:, 0].square() - 1 + WIDTH * noise_ND[:, 1]
    z_ND[:, 3] = torch.sin(2 * noise_ND[:, 2]) + WIDTH * noise_ND[:, 3]
    return z_ND, log_normal(noise_ND) - 2 * math.log(WIDTH)


def clusters(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Equally many latents about each of ``CLUSTERS`` centres."""
    centres_KD = 1.5 * _noise(CLUSTERS, 0)
    z_ND = centres_KD[torch.arange(n) % CLUSTERS] + SPREAD * _noise(n, seed)
    parts_KN = torch.stack([log_normal(z_ND, centre_D, 2 * math.log(SPREAD)) for centre_D in centres_KD])
    return z_ND, parts_KN.logsumexp(0) - math.log(CLUSTERS)


def fitted(density: Density, _work: Path) -> dict[str, Any]:
    """Every prior on one density."""
    config = params.check((ROOT / "params.yaml").read_text(), "params.yaml").fit.prior_config
    judged_ND, truth_N = density(10_000, 1)
    found: dict[str, Any] = {}
    for name, kind in SAMPLERS.items():
        kind.fit(_noise(100, 0), replace(config, name=name, steps=2), 0)  # imports
        for count in (LATENTS, PRIOR_IMAGES):
            z_ND, _ = density(count, 2)
            started = time.process_time()
            prior = kind.fit(z_ND, replace(config, name=name), 0)
            seconds = time.process_time() - started
            lost_nats = float((truth_N - prior.log_prob(judged_ND)).mean())
            found.setdefault(name, {})[str(count)] = {"seconds": round(seconds, 2), "nats_lost": round(lost_nats, 3)}
    settings = {"hidden_units": config.hidden_units, "steps": config.steps, "mixture_components": config.mixture_components}
    return found | {"settings": settings}


ROWS = {density.__name__: partial(fitted, density) for density in (normal, bent, clusters)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    measure("priors", ROWS, __doc__)
    tables.write()

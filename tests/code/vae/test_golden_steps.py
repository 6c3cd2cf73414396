"""Golden numbers: the first three steps of every model, likelihood and objective, and a short fit of every prior, as they once were.

Other tests hold each of them to mathematics; this one notices what none of them is about: another initial weight, another order of
noise, a forgotten term. Where such a change is meant, ``python tests/code/vae/test_golden_steps.py`` writes golden_steps.json anew.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from configs import fit_config, model_config, prior_config
from vae.config import OBJECTIVES
from vae.data import ImageShards, ShardWriter, save_labels
from vae.likelihood import LIKELIHOODS
from vae.loader import Loader
from vae.models import MODELS
from vae.run import Run
from vae.samplers import SAMPLERS

GOLDEN = Path(__file__).with_name("golden_steps.json")
STEPS, IMAGES, BATCH = 3, 48, 16
DIGITS = 1e-3  # relative: other processors and versions of torch add in other orders
CASES = {f"model {name}": ({"name": name}, {}) for name in MODELS}
CASES |= {f"likelihood {name}": ({"likelihood": name}, {}) for name in LIKELIHOODS}
CASES |= {f"objective {name}": ({}, {"objective": name}) for name in OBJECTIVES}
CASES |= {f"model {name} of 3 classes": ({"name": name, "classes": 3}, {}) for name in MODELS}
CASES |= {
    "objective importance of 3 samples": ({}, {"objective": "importance", "importance_samples": 3}),
    "objective elbo with a capacity": ({}, {"capacity_nats": 5.0}),
    "objective elbo with free bits": ({"name": "ladder"}, {"free_bits_nats": 0.5}),
    "beta cyclical": ({}, {"beta_schedule": "cyclical", "beta_cycles": 2}),
}


def _pictures(directory: Path) -> ImageShards:
    """Waves of known phase: no generator of random numbers has a part in them."""
    n, y, x = np.meshgrid(np.arange(IMAGES), np.arange(8), np.arange(8), indexing="ij")
    waves = 127.5 + 100 * np.sin(0.7 * x + 0.13 * n) * np.cos(0.5 * y - 0.29 * n)
    writer = ShardWriter(directory, (8, 8, 1), IMAGES)
    writer.add_all(waves.round().astype(np.uint8)[..., None])
    writer.close()
    save_labels(directory, np.arange(IMAGES) % 3)
    return ImageShards(directory)


def _steps(directory: Path, model: dict, fit: dict) -> list[list[float]]:
    """Distortion and rate, in nats per image, of each step."""
    config = fit_config(**{"total_images": STEPS * BATCH, "beta_start": 2.0, "learning_rate": 0.01, "warmup_images": 0, **fit})
    run = Run(model_config(**model), config, torch.device("cpu"), None)
    loader = Loader(_pictures(directory), config, run.device, None, labelled=run.model.classes > 0)
    sums = [run.step(loader) for _ in range(STEPS)]
    return [[float(distortion / count), float(rate / count)] for distortion, rate, count, _ in sums]


def _prior(name: str) -> list[list[float]]:
    """Mean log-density of known latents, and mean and spread of 200 samples, after a short fit."""
    n = torch.arange(400, dtype=torch.float64)
    z_ND = torch.stack(
        [torch.sin(1.7 * n), torch.cos(0.3 * n) ** 3 + 0.2 * torch.sin(n * n), 0.5 * torch.sin(5.1 * n)], 1
    ).float()
    prior = SAMPLERS[name].fit(z_ND, prior_config(name=name, steps=400), 0)
    drawn_ND = prior.sample(200, torch.Generator().manual_seed(0))
    return [[float(prior.log_prob(z_ND).mean()), float(drawn_ND.mean()), float(drawn_ND.std())]]


@pytest.mark.parametrize("case", CASES)
def test_first_steps_are_those_that_they_were(tmp_path: Path, case: str) -> None:
    np.testing.assert_allclose(_steps(tmp_path, *CASES[case]), json.loads(GOLDEN.read_text())[case], rtol=DIGITS, atol=DIGITS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_short_fits_of_priors_are_those_that_they_were(name: str) -> None:
    found, expected = _prior(name), json.loads(GOLDEN.read_text())[f"prior {name}"]
    np.testing.assert_allclose(found, expected, rtol=50 * DIGITS, atol=50 * DIGITS)


def test_every_case_has_golden_numbers_and_no_other() -> None:
    assert set(json.loads(GOLDEN.read_text())) == {*CASES, *(f"prior {name}" for name in SAMPLERS)}


if __name__ == "__main__":
    found = {f"prior {name}": _prior(name) for name in SAMPLERS}
    for case, changes in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            found[case] = _steps(Path(folder), *changes)
    GOLDEN.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")

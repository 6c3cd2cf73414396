"""Every model, prior and some objective, from images to a registered version that draws."""

from __future__ import annotations

import json

import pytest
from workspace import Workspace


@pytest.mark.parametrize(
    ("model", "prior", "likelihood", "objective"),
    [
        ("ladder", "normal", "logistic_mixture", "importance"),
        pytest.param("vq", "normal", "logistic", "elbo", marks=pytest.mark.slow),
        pytest.param("resnet", "flow", "gaussian", "tc", marks=pytest.mark.slow),
        pytest.param("conv", "second_stage", "gaussian_fixed", "deterministic", marks=pytest.mark.slow),
        pytest.param("resnet", "mixture", "logistic", "mmd", marks=pytest.mark.slow),
    ],
)
def test_choice_of_model_reaches_the_registry(ready: Workspace, model: str, prior: str, likelihood: str, objective: str) -> None:
    samples = 2 if objective == "importance" else 1
    ready.set({"fit.model": model, "fit.prior": prior, "fit.likelihood": likelihood, "fit.objective": objective,
               "fit.importance_samples": samples, "fit.prior_steps": 50, "fit.beta_start": 0.1, "train.latent_dim": 2})  # fmt: skip
    for stage in ("train", "evaluate", "register"):
        result = ready.stage(stage)
        assert result.returncode == 0, result.stderr
    metrics = json.loads((ready.root / "reports/evaluate/metrics.json").read_text())
    assert metrics["fcd"] > 0 and metrics["nll_nats"] <= -metrics["elbo_nats"] + 5
    drawn = ready.stage("use_champion", "4")
    assert drawn.returncode == 0 and "drew 4 images" in drawn.stdout, drawn.stderr

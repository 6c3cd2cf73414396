"""The small model that most tests of ``vae`` build; sized for the images of the ``shards`` fixture."""

from __future__ import annotations

import pytest

import configs
from vae.config import FitConfig, ModelConfig


@pytest.fixture
def model_config() -> ModelConfig:
    return configs.model_config()


@pytest.fixture
def fit_config() -> FitConfig:
    return configs.fit_config()

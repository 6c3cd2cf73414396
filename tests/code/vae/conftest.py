"""The small model that most tests of ``vae`` build; sized for the images of the ``shards`` fixture."""

from __future__ import annotations

import pytest

from vae.config import FitConfig, ModelConfig


@pytest.fixture
def model_config() -> ModelConfig:
    return ModelConfig(
        name="conv",
        image_shape=(8, 8, 1),
        latent_dim=3,
        widths=(8, 16),
        hidden_units=16,
        blocks=1,
        stochastic_layers=2,
        sigma=0.1,
        likelihood="logistic",
    )


@pytest.fixture
def fit_config() -> FitConfig:
    """40 steps of 16 images; a report every 10 steps, a checkpoint every 15, so the two do not coincide."""
    return FitConfig(
        exactness="resume", virtual_shards=12, micro_batch_size=0, memory_format="channels_last",
        compile=False, recompute=False, skip_nonfinite_steps=0, keep_checkpoints=2, patience_reports=0,
        seed=3, beta=1.0, global_batch_size=16, total_images=640, learning_rate=2e-3, warmup_images=64, weight_decay=0.01,
        clip_norm=1000.0, ema_decay=0.9, precision="float32", beta_start=4.0, beta_anneal_share=0.5,
        objective="elbo", beta_schedule="geometric", beta_cycles=1, free_bits_nats=0.0,
        capacity_nats=0.0, regulariser_weight=1.0, importance_samples=1,
        validate_every_images=160, checkpoint_every_images=240,
    )  # fmt: skip

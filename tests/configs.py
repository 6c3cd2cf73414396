"""Configurations of seconds that tests begin with; what a test is about it changes by name."""

from __future__ import annotations

from typing import Any

from vae.config import FitConfig, ModelConfig, PriorConfig


def model_config(**changes: Any) -> ModelConfig:
    """A small network, sized for the images of the ``shards`` fixture."""
    values = {
        "name": "conv", "image_shape": (8, 8, 1), "latent_dim": 3, "widths": (8, 16), "hidden_units": 16, "blocks": 1,
        "stochastic_layers": 2, "codes": 8, "likelihood": "logistic", "sigma": 0.1,
    }  # fmt: skip
    return ModelConfig(**(values | changes))


def fit_config(**changes: Any) -> FitConfig:
    """40 steps of 16 images; a report every 10 steps, a checkpoint every 15, so the two do not coincide."""
    values = {
        "seed": 3, "beta": 1.0, "global_batch_size": 16, "total_images": 640, "learning_rate": 2e-3, "warmup_images": 64,
        "weight_decay": 0.01, "clip_norm": 1000.0, "ema_decay": 0.9, "precision": "float32", "memory_format": "channels_last",
        "shuffle_images": 0, "compile": False, "recompute": False, "micro_batch_size": 0, "exactness": "resume", "virtual_shards": 12,
        "skip_nonfinite_steps": 0,
        "denoise_levels": 0.0, "smoothness": 0.0, "adversary_weight": 0.0, "adversary_start_share": 0.0,
        "feature_weight": 0.0, "critic_width": 8, "critic_learning_rate": 1e-3,
        "objective": "elbo", "beta_schedule": "geometric", "beta_start": 4.0, "beta_anneal_share": 0.5,
        "beta_cycles": 1, "capacity_nats": 0.0, "free_bits_nats": 0.0, "regulariser_weight": 1.0, "importance_samples": 1,
        "validate_every_images": 160, "checkpoint_every_images": 240, "keep_checkpoints": 2, "patience_reports": 0,
        "frozen_images": 0, "layer_decay": 1.0, "epsilon": 0.0, "delta": 1e-5, "sample_norm": 1.0,
    }  # fmt: skip
    return FitConfig(**(values | changes))


def prior_config(**changes: Any) -> PriorConfig:
    """Whatever the prior, fitted in moments."""
    return PriorConfig(**({"name": "mixture", "mixture_components": 4, "hidden_units": 16, "steps": 50} | changes))

"""One ``fit`` for plain Python, torchrun and Ray Train: what a training is given, and what may come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from vae.augment import OnTheFly
from vae.config import FitConfig, ModelConfig
from vae.data import ImageShards, check_labels
from vae.distributed import default_device
from vae.gradients import check_division
from vae.loader import Loader
from vae.numerics import determinism
from vae.private import Private, secret_key
from vae.run import Fitted, OnReport, Run
from vae.transfer import Origin


def fit(
    model_config: ModelConfig,
    config: FitConfig,
    train: ImageShards,
    val: ImageShards,
    *,
    augment: OnTheFly | None = None,
    checkpoints: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    initial: Mapping[str, Tensor] | None = None,
    initial_config: Origin | None = None,
    on_report: OnReport = lambda metrics, averaged: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Train to ``config.total_images`` and return the averaged model; goes on from the newest checkpoint in ``checkpoints``.

    ``on_report(metrics, averaged_model)`` is called on every rank, equally often, with metrics already reduced over ranks.
    ``augment`` varies the training images, each anew in every epoch; ``val`` is measured as it is. ``identity`` is what else
    makes this training the one that it is (hashes of data and code): checkpoints of another one are not gone on from.
    ``initial`` are weights to begin from instead of random ones; whoever gives them names them in ``identity``. Of another network
    (``initial_config``) they are carried over layer by layer (vae/transfer.py).
    Raises NonFiniteError (on every rank, before the step), StoppedError once ``should_stop`` said so on any rank,
    ResumeRefusedError where the checkpoints cannot be gone on from, StepError for whatever else goes wrong in a step; ValueError
    for a batch that does not divide by the world size, keys of ``augment`` that are not one per training image, images without
    class in a class-conditional model.
    """
    check_division(config)
    for images in (train, val):
        check_labels(images, model_config.classes)
    loader = Loader(train, config, default_device(), augment, labelled=model_config.classes > 0)
    if config.patience_reports and checkpoints is None:
        raise ValueError("patience_reports needs checkpoints: the best model is kept there")
    private = None
    if config.epsilon:
        key = secret_key(checkpoints, default_device())
        private = partial(Private, config=config, images=len(train), key=key)
    run = Run(model_config, config, default_device(), checkpoints, initial, initial_config, private)
    with determinism(config, run.device):
        try:
            if checkpoints is not None:
                run.resume(checkpoints, identity or {}, on_report)
            return run.train(loader, val, on_report, should_stop)
        finally:
            if run.saver is not None:
                run.saver.close()

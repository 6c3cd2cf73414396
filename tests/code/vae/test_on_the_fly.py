"""The policy on the fly: each epoch another copy of each training image, resumed to the bit, and never on validation images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_augment_policy import POLICY, alone, keys
from torch import Tensor, nn

from vae import run
from vae.augment import OnTheFly, augmented
from vae.config import FitConfig, ModelConfig
from vae.data import ImageShards
from vae.errors import StoppedError
from vae.images import to_model_range
from vae.models import build
from vae.order import stream_indices
from vae.trainer import fit
from vae.validation import bound

Report = dict[str, float]


@pytest.fixture
def varied(shards: ImageShards) -> OnTheFly:
    return OnTheFly(POLICY, keys(len(shards)), "L")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every batch that the model being trained gets, in order."""
    batches: list[Tensor] = []
    built = 0

    def watching(config: ModelConfig) -> nn.Module:
        nonlocal built
        model, built = build(config), built + 1
        if built == 1:  # the averaged model is the second
            model.register_forward_pre_hook(lambda module, inputs: batches.append(inputs[0].clone()))
        return model

    monkeypatch.setattr(run, "build", watching)
    return batches


def test_fit_sees_each_image_as_the_copy_of_its_epoch(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, varied: OnTheFly, seen: list[Tensor]
) -> None:
    # 12 steps of 20 images over 96: three epochs, and batches that two of them share.
    config = replace(fit_config, global_batch_size=20, total_images=240)
    fit(model_config, config, shards, shards, augment=varied)
    assert len(seen) == 12
    stream = stream_indices(96, fit_config.seed, 0, 240)
    for position, x_CHW in enumerate(torch.cat(seen)):
        row, epoch = stream[position], position // 96
        image = torch.from_numpy(shards.slice(row, row + 1)).permute(0, 3, 1, 2)
        expected = augmented(image, varied.keys[row : row + 1], np.array([epoch]), config=POLICY, seed=fit_config.seed, mode="L")
        assert torch.equal(x_CHW, to_model_range(expected.permute(0, 2, 3, 1))[0])


def test_fit_without_a_policy_or_with_one_that_does_nothing_sees_the_images_as_they_are(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, seen: list[Tensor]
) -> None:
    nothing = OnTheFly(alone(POLICY, None), keys(96), "L")
    fit(model_config, replace(fit_config, total_images=96), shards, shards, augment=nothing)
    stream = stream_indices(96, fit_config.seed, 0, 96)
    assert torch.equal(torch.cat(seen), to_model_range(torch.from_numpy(shards.gather(stream))))


@pytest.mark.parametrize("polls", [1, 2])
def test_fit_stopped_within_an_epoch_and_resumed_equals_the_uninterrupted_run(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, varied: OnTheFly, tmp_path: Path, polls: int
) -> None:
    # An epoch has 6 steps; the run stops after step 8 or 16, both within one.
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == polls

    def run(name: str, **more: object) -> nn.Module:
        return fit(model_config, fit_config, shards, shards, augment=varied, checkpoints=tmp_path / name, **more).model

    whole = run("whole").state_dict()
    with pytest.raises(StoppedError, match=f"step {8 * polls} of 40"):
        run("cut", should_stop=stop)
    resumed = run("cut").state_dict()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    for name in ("model.safetensors", "ema.safetensors"):
        one, other = (load_file(tmp_path / folder / "step-00000040" / name) for folder in ("whole", "cut"))
        assert all(torch.equal(one[key], other[key]) for key in one)
    plain = fit(model_config, fit_config, shards, shards).model.state_dict()
    assert not all(torch.equal(plain[name], whole[name]) for name in whole)


def test_fit_measures_validation_images_as_they_are(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards
) -> None:
    # A policy that leaves no image as it was: a validation that went through it would have another bound.
    always = replace(alone(POLICY, "noise"), noise_levels=200.0, brightness_probability=1.0)
    checked = 0

    def compare(metrics: Report, averaged: nn.Module) -> None:
        nonlocal checked
        expected = bound(averaged, shards, fit_config.global_batch_size, fit_config.seed)
        assert {name: metrics[f"val_{name}"] for name in expected} == expected
        checked += 1

    fit(model_config, fit_config, shards, shards, augment=OnTheFly(always, keys(96), "L"), on_report=compare)
    assert checked == 4


def test_on_the_fly_rows_of_a_batch_may_be_shared_out_among_workers(shards: ImageShards, varied: OnTheFly) -> None:
    rows, epochs = np.arange(20, 52), np.arange(32) // 10
    x_NHWC = torch.from_numpy(shards.gather(rows))
    whole = varied(x_NHWC, rows, epochs, 3)
    for workers in (2, 8):
        parts = [varied(x_NHWC[i::workers], rows[i::workers], epochs[i::workers], 3) for i in range(workers)]
        for i, part in enumerate(parts):
            assert torch.equal(part, whole[i::workers])
    assert whole.shape == x_NHWC.shape and whole.dtype == torch.uint8 and whole.is_contiguous()


def test_fit_keys_that_are_not_one_per_image_are_refused(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards
) -> None:
    with pytest.raises(ValueError, match="95 keys for 96 training images"):
        fit(model_config, fit_config, shards, shards, augment=OnTheFly(POLICY, keys(95), "L"))

"""resnet: its blocks start as nothing and compute what they say; it is as deep as the configuration asks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vae.artefact import Generator, load_artefact, save_artefact
from vae.config import ModelConfig
from vae.models import build
from vae.models.blocks import Residual
from vae.samplers.normal import Normal


@pytest.fixture
def config(model_config: ModelConfig) -> ModelConfig:
    return replace(model_config, name="resnet", image_shape=(16, 8, 3), blocks=2)


def residuals(model: torch.nn.Module) -> list[Residual]:
    return [m for m in model.modules() if isinstance(m, Residual)]


def test_residual_block_starts_as_the_identity() -> None:
    x_NCHW = torch.randn(2, 16, 5, 7)
    assert torch.equal(Residual(16)(x_NCHW), x_NCHW) and torch.equal(Residual(16, 4)(x_NCHW), x_NCHW)


def test_residual_block_is_its_equation() -> None:
    torch.manual_seed(0)
    block, x_NCHW = Residual(16, 8), torch.randn(2, 16, 5, 7)
    for p in block.parameters():
        p.data = torch.randn(p.shape)
    p = dict(block.named_parameters())
    h = F.silu(F.group_norm(x_NCHW, 2, p["branch.0.weight"], p["branch.0.bias"]))
    h = F.conv2d(h, p["branch.2.weight"], p["branch.2.bias"], padding=1)
    h = F.silu(F.group_norm(h, 1, p["branch.3.weight"], p["branch.3.bias"]))
    expected = x_NCHW + F.conv2d(h, p["branch.5.weight"], p["branch.5.bias"], padding=1)
    torch.testing.assert_close(block(x_NCHW), expected)


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_resnet_has_the_asked_blocks_at_each_resolution_both_ways(config: ModelConfig, blocks: int) -> None:
    model = build(replace(config, blocks=blocks))
    assert len(residuals(model.encoder)) == len(residuals(model.decoder)) == blocks * len(config.widths)


def test_resnet_at_the_start_is_the_same_function_however_many_blocks(config: ModelConfig) -> None:
    shallow, deep = build(replace(config, blocks=1)), build(replace(config, blocks=4))
    own = {name: p for name, p in shallow.named_parameters() if not any(name.startswith(r) for r in _names(shallow))}
    others = {name: p for name, p in deep.named_parameters() if not any(name.startswith(r) for r in _names(deep))}
    for p, value in zip(others.values(), own.values(), strict=True):
        p.data.copy_(value.data)
    x_NCHW, noise_ND = torch.rand(2, 3, 16, 8) * 2 - 1, torch.randn(2, config.latent_dim)
    ours, theirs = shallow(x_NCHW, noise_ND), deep(x_NCHW, noise_ND)
    assert torch.equal(ours.distortion_N, theirs.distortion_N) and torch.equal(ours.rate_ND, theirs.rate_ND)


def _names(model: torch.nn.Module) -> list[str]:
    return [name + "." for name, m in model.named_modules() if isinstance(m, Residual)]


def test_resnet_works_at_every_resolution_of_its_widths(config: ModelConfig) -> None:
    model, seen = build(config), []
    for block in residuals(model):
        block.register_forward_hook(lambda _, inputs, output: seen.append(tuple(output.shape[1:])))
    model(torch.rand(2, 3, 16, 8) * 2 - 1, torch.randn(2, config.latent_dim))
    fine, coarse = [(8, 8, 4)] * 2, [(16, 4, 2)] * 2
    assert seen == fine + coarse + coarse + fine


def test_resnet_saved_and_loaded_gives_identical_images_and_latents(config: ModelConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, prior = build(config), Normal({"latent_dim": torch.tensor(config.latent_dim)})
    for p in model.parameters():
        p.data += 0.1 * torch.randn(p.shape)
    original = Generator(model, config, prior, {})
    save_artefact(tmp_path, original)
    loaded = load_artefact(tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (5, *config.image_shape)).astype(np.uint8)
    np.testing.assert_array_equal(loaded.sample(4, seed=2), original.sample(4, seed=2))
    np.testing.assert_array_equal(loaded.reconstruct(pictures), original.reconstruct(pictures))

"""denoise: noise that was planted goes, the estimate finds how much it was, and what cannot be done is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saved import saved_model
from vae.denoise import denoised, estimated_sigma, explained

SIGMA = 30.0


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A model, images that it can draw, and the same with noise."""
    generator = saved_model(tmp_path_factory.mktemp("denoise") / "m")
    with torch.no_grad():  # random weights draw images that hardly differ
        next(generator.model.decoder.parameters()).mul_(8)
    clean = generator.decode(2 * torch.randn(20, 3, generator=torch.Generator().manual_seed(1)))
    assert clean.std(0).mean() > 3
    noise = np.random.default_rng(2).normal(0, SIGMA, clean.shape)
    return generator, clean, (clean + noise).clip(0, 255).round().astype(np.uint8)


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.square(a.astype(float) - b).mean())


def test_planted_noise_goes(drawn):
    generator, clean, noisy = drawn
    found = denoised(generator, noisy, np.full(20, SIGMA))
    assert error(found, clean) < 0.1 * error(noisy, clean)
    assert error(found, clean) < 0.5 * error(generator.reconstruct(noisy), clean)


def test_result_is_a_minimum_of_what_it_minimises(drawn):
    generator, _, noisy = drawn
    y_NCHW = torch.from_numpy(noisy[:4]).permute(0, 3, 1, 2).float() / 127.5 - 1
    precision_N = torch.full((4,), (2 * SIGMA / 255) ** -2)

    def energy(z_ND: torch.Tensor) -> torch.Tensor:
        misfit = (generator.model.sample(z_ND) - y_NCHW).square().flatten(1).sum(1)
        return 0.5 * precision_N * misfit + 0.5 * z_ND.square().sum(1)

    start = generator.encode(noisy[:4])[0]
    best, told = explained(generator, y_NCHW, start, precision_N[:, None, None, None].expand(-1, 1, 8, 8), None, 400)
    lowest = energy(best)
    torch.testing.assert_close(told, lowest)
    assert (lowest < energy(start)).all()
    random = torch.Generator().manual_seed(0)
    for length in (1e-2, 1e-1, 1.0):
        for _ in range(20):
            step = torch.randn(best.shape, generator=random)
            assert (energy(best + length * step / step.norm(dim=1, keepdim=True)) > lowest - 1e-3 * lowest.abs()).all()


def test_noise_is_estimated_from_the_picture_alone():
    ramp = np.linspace(60, 180, 64)
    smooth = np.broadcast_to(ramp[:, None, None] / 2 + ramp[None, :, None] / 2, (64, 64, 3))
    for sigma in (5.0, 20.0):
        noisy = smooth + np.random.default_rng(0).normal(0, sigma, (4, 64, 64, 3))
        np.testing.assert_allclose(estimated_sigma(noisy.clip(0, 255).round().astype(np.uint8)), sigma, rtol=0.08)


def test_what_cannot_be_done_is_told(drawn, tmp_path):
    generator, _, noisy = drawn
    for sigma in (0.0, 256.0, float("nan")):
        with pytest.raises(ValueError, match=r"0\.5 to 255 levels"):
            denoised(generator, noisy, np.full(20, sigma))
    with pytest.raises(ValueError, match="for each image"):
        denoised(generator, noisy, np.full(3, 5.0))

"""terms: closed forms and planted latents."""

from __future__ import annotations

import math

import pytest
import torch

from vae.metrics.terms import active_units, psnr_db


@pytest.mark.parametrize("error", [1, 5, 255])
def test_psnr_constant_error_follows_the_closed_form(error: int) -> None:
    original = torch.zeros(3, 4, 4, 2, dtype=torch.uint8)
    reconstructed = torch.full_like(original, error)
    expected = 20 * math.log10(255 / error)
    assert psnr_db(original, reconstructed).mean().item() == pytest.approx(expected, abs=1e-9)
    assert psnr_db(reconstructed, original).mean().item() == pytest.approx(expected, abs=1e-9)  # uint8 must not wrap around


def test_psnr_is_the_mean_over_images_of_decibels() -> None:
    original = torch.zeros(2, 4, 4, 1, dtype=torch.uint8)
    reconstructed = original.clone()
    reconstructed[0], reconstructed[1] = 2, 50
    assert psnr_db(original, reconstructed).mean().item() == pytest.approx(
        (20 * math.log10(255 / 2) + 20 * math.log10(255 / 50)) / 2
    )


def test_psnr_exact_copy_is_finite() -> None:
    images = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    assert psnr_db(images, images).mean().item() == pytest.approx(10 * math.log10(255**2 * 12))


@pytest.mark.parametrize("planted", [0, 2, 5])
def test_active_units_counts_the_planted_latents(planted: int) -> None:
    generator = torch.Generator().manual_seed(0)
    mean_ND = torch.randn(500, 5, generator=generator)
    mean_ND[:, planted:] = 3.0 + 0.05 * mean_ND[:, planted:]  # variance 0.0025, and a mean that is no variance
    assert active_units(mean_ND) == planted

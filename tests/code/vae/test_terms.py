"""terms: closed forms and planted latents."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vae.metrics.terms import active_units, mutual_information_gap, psnr_db


@pytest.mark.parametrize("error", [1, 5, 255])
def test_psnr_constant_error_follows_the_closed_form(error: int) -> None:
    original = torch.zeros(3, 4, 4, 2, dtype=torch.uint8)
    reconstructed = torch.full_like(original, error)
    expected = 20 * math.log10(255 / error)
    assert psnr_db(original, reconstructed) == pytest.approx(expected, abs=1e-9)
    assert psnr_db(reconstructed, original) == pytest.approx(expected, abs=1e-9)  # uint8 must not wrap around


def test_psnr_is_the_mean_over_images_of_decibels() -> None:
    original = torch.zeros(2, 4, 4, 1, dtype=torch.uint8)
    reconstructed = original.clone()
    reconstructed[0], reconstructed[1] = 2, 50
    assert psnr_db(original, reconstructed) == pytest.approx((20 * math.log10(255 / 2) + 20 * math.log10(255 / 50)) / 2)


def test_psnr_exact_copy_is_finite() -> None:
    images = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    assert psnr_db(images, images) == pytest.approx(10 * math.log10(255**2 * 12))


@pytest.mark.parametrize("planted", [0, 2, 5])
def test_active_units_counts_the_planted_latents(planted: int) -> None:
    generator = torch.Generator().manual_seed(0)
    mean_ND = torch.randn(500, 5, generator=generator)
    mean_ND[:, planted:] = 3.0 + 0.05 * mean_ND[:, planted:]  # variance 0.0025, and a mean that is no variance
    assert active_units(mean_ND) == planted


def factors(count: int = 3000) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 8, (count, 3))


def test_mig_oracle_latents_score_near_one() -> None:
    known = factors()
    latents = np.column_stack([known[:, 2] * 0.3 - 1, known[:, 0], np.random.default_rng(1).normal(size=3000), -known[:, 1]])
    assert mutual_information_gap(latents, known) > 0.95


def test_mig_continuous_oracle_of_continuous_factors_scores_near_one() -> None:
    known = np.random.default_rng(0).uniform(size=(5000, 2))
    assert mutual_information_gap(np.exp(known)[:, ::-1], known) > 0.75  # unequal bins of exp cost some of it


def test_mig_noise_scores_near_zero() -> None:
    noise = np.random.default_rng(1).normal(size=(3000, 4))
    assert 0 <= mutual_information_gap(noise, factors()) < 0.03


def test_mig_factor_known_by_two_latents_alike_has_no_gap() -> None:
    known = factors()
    assert mutual_information_gap(np.column_stack([known, known]), known) == pytest.approx(0, abs=1e-9)


def test_mig_half_known_factor_scores_the_share_of_its_entropy() -> None:
    # The latent tells 8 equally likely values apart in pairs: 2 of 3 bits are known.
    known = np.tile(np.arange(8), 500)[:, None]
    latents = np.column_stack([known[:, 0] // 2, np.zeros(4000)])
    assert mutual_information_gap(latents, known) == pytest.approx(2 / 3, abs=1e-9)


def test_mig_single_latent_is_compared_with_nothing() -> None:
    known = factors()[:, :1]
    assert mutual_information_gap(known.astype(float), known) == pytest.approx(1)


def test_mig_constant_factor_leaves_a_finite_score() -> None:
    # A test split may hold one value of a factor: nothing can be known about it, and the report refuses NaN.
    known = factors()
    known[:, 1] = 4
    assert math.isfinite(mutual_information_gap(known.astype(float), known))

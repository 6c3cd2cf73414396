"""corruption: noise of every strength up to the strongest, seen by the posterior alone, and files' own levels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from configs import fit_config, model_config, prior_config
from saved import saved_model
from vae.artefact import Generator
from vae.config import FitConfig, ModelConfig
from vae.corruption import LEVEL, corrupted, noisy, step_corruption
from vae.data import ImageShards, ShardWriter
from vae.denoise import averaged, trained_levels, within
from vae.images import to_model_range, to_uint8
from vae.losses import Draws, Objective
from vae.metrics.terms import psnr_db
from vae.models import build
from vae.models.base import Output
from vae.noise import step_noise
from vae.samplers import fit_prior
from vae.trainer import fit

CPU, MOST = torch.device("cpu"), 50.0


def test_strengths_are_even_between_none_and_the_strongest_and_noise_is_normal() -> None:
    noise_NP = step_corruption(1, 2, (2000, 400), MOST, CPU) / LEVEL
    sigma_N = noise_NP.std(1)
    assert scipy.stats.kstest(sigma_N.numpy() / MOST, "uniform").pvalue > 1e-3
    assert scipy.stats.kstest((noise_NP[::50] / sigma_N[::50, None]).flatten().numpy(), "norm").pvalue > 1e-3
    assert torch.equal(noise_NP, step_corruption(1, 2, (2000, 400), MOST, CPU) / LEVEL)
    for seed, step in ((1, 3), (2, 2), (2, 1)):
        other_NP = step_corruption(seed, step, (2000, 400), MOST, CPU)
        assert abs(float(torch.corrcoef(torch.stack([noise_NP.flatten(), other_NP.flatten()]))[0, 1])) < 0.006


def test_noise_of_pixels_is_not_that_of_latents() -> None:
    pixels, latents = step_corruption(0, 0, (50, 400), MOST, CPU), step_noise(0, 0, (50, 400), CPU)
    assert abs(float(torch.corrcoef(torch.stack([pixels.flatten(), latents.flatten()]))[0, 1])) < 0.04


def test_what_is_seen_is_what_a_file_of_it_would_hold() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    levels_NP = np.random.default_rng(1).normal(0, 60, (40, 3 * 8 * 8))
    x_NCHW = corrupted(to_model_range(torch.from_numpy(images)), torch.from_numpy(levels_NP * LEVEL).float())
    expected = (images.transpose(0, 3, 1, 2) + levels_NP.reshape(40, 3, 8, 8)).clip(0, 255)
    found = (x_NCHW.numpy() + 1) * 127.5
    np.testing.assert_allclose(found, expected, atol=0.51)
    np.testing.assert_allclose(found, found.round(), atol=1e-4)
    assert torch.equal(to_model_range(to_uint8(x_NCHW)), x_NCHW.contiguous())  # a file of it comes back as it is


def test_measured_noise_has_the_strength_that_was_asked_for() -> None:
    grey = np.full((50, 16, 16, 1), 128, np.uint8)
    assert (noisy(grey, 20.0, 0) - 128.0).std() == pytest.approx(20.0, rel=0.02)
    np.testing.assert_array_equal(noisy(grey, 20.0, 3), noisy(grey, 20.0, 3))


@pytest.mark.parametrize("samples", [1, 3])
def test_posterior_sees_the_noisy_images_and_the_likelihood_the_clean_ones(model_config: ModelConfig, samples: int) -> None:
    objective = "importance" if samples > 1 else "elbo"
    config = fit_config(denoise_levels=MOST, global_batch_size=6, objective=objective, importance_samples=samples)
    model, x_NCHW = build(model_config), torch.rand(6, 1, 8, 8) * 2 - 1
    measure = Objective(model, config, CPU)
    draws = measure.draw(4, 64)
    assert draws.corruption_NP is not None
    seen: list[tuple[Tensor, ...]] = []

    def forward(*given: Tensor) -> Output:
        seen.append(given)
        return model(*given)

    _, sums = measure(forward, x_NCHW, None, draws, 0)
    (given,) = seen
    torch.testing.assert_close(given[0], x_NCHW.repeat_interleave(samples, 0))
    torch.testing.assert_close(given[3], corrupted(x_NCHW, draws.corruption_NP).repeat_interleave(samples, 0))
    mean_ND, logvar_ND = model.encode(given[3])
    z_ND = mean_ND + torch.exp(0.5 * logvar_ND) * given[1]
    distortion_N = -model.likelihood.log_prob(model.decode(z_ND), given[0])
    assert float(sums[0]) == pytest.approx(float(distortion_N.detach().sum()) / samples, rel=1e-5)
    assert Objective(model, replace(config, denoise_levels=0.0), CPU).draw(4, 64).corruption_NP is None


def test_draws_of_rows_are_those_rows() -> None:
    every = Draws(torch.rand(6, 2), torch.rand(6, 3), torch.rand(6, 4))
    part = every.of(slice(2, 5))
    assert torch.equal(part.noise_NE, every.noise_NE[2:5])
    assert part.uniform_NP is not None and part.corruption_NP is not None
    assert torch.equal(part.uniform_NP, every.uniform_NP[2:5]) and torch.equal(part.corruption_NP, every.corruption_NP[2:5])
    assert Draws(torch.rand(6, 2)).of(slice(1)).corruption_NP is None


@pytest.fixture(scope="module", params=["conv", "ladder"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Generator, np.ndarray]:
    """A model that 500 steps have taught to take noise away, and images of the same kind that it has not seen."""
    rng = np.random.default_rng(0)
    images = rng.integers(40, 216, (900, 2, 2, 1)).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    writer = ShardWriter(tmp_path_factory.mktemp("denoise") / "shards", (8, 8, 1), 1000)
    writer.add_all(images[:800])
    writer.close()
    shards = ImageShards(writer.directory)
    model = model_config(name=request.param, latent_dim=4, stochastic_layers=3)
    config: FitConfig = fit_config(
        denoise_levels=60.0, total_images=16000, global_batch_size=32, learning_rate=5e-3, beta_start=0.1, ema_decay=0.95,
        validate_every_images=16000, checkpoint_every_images=16000,
    )  # fmt: skip
    fitted = fit(model, config, shards, shards).model
    contract = {"mode": "L", "denoise_levels": 60.0}
    return Generator(fitted, model, fit_prior(fitted, images[:300], prior_config(name="normal"), 0), contract), images[800:]


def test_trained_model_takes_noise_of_every_strength_away(trained: tuple[Generator, np.ndarray]) -> None:
    generator, clean = trained
    for levels in (20.0, 50.0):
        seen = noisy(clean, levels, 1)
        found = averaged(generator, seen)
        before, after = (psnr_db(torch.from_numpy(clean), torch.from_numpy(each)).mean() for each in (seen, found))
        assert after > before + 4, (levels, float(before), float(after))
    assert psnr_db(torch.from_numpy(clean), torch.from_numpy(averaged(generator, clean))).mean() > after  # nothing to take away


def test_average_is_that_of_posterior_samples_and_depends_on_the_image_alone(trained: tuple[Generator, np.ndarray]) -> None:
    generator, clean = trained
    model, seen = generator.model, noisy(clean[:5], 40.0, 1)
    x_NCHW, total = to_model_range(torch.from_numpy(seen)), torch.zeros(5, 1, 8, 8)
    with torch.no_grad():
        for pair in range(2):
            noise_ND = step_noise(7, pair, (1, model.latent_dim), CPU).expand(5, -1)
            for each_ND in (noise_ND, -noise_ND):
                total += model.sample(model.infer(model.observe(x_NCHW), each_ND).z_ND)
    expected = to_uint8(total / 4).numpy()
    assert np.abs(generator.average(seen, 4, seed=7).astype(int) - expected).max() <= 1
    turned = generator.average(seen[::-1].copy(), 4, seed=7)[::-1]
    assert np.abs(generator.average(seen, 4, seed=7).astype(int) - turned).max() <= 1
    assert (generator.average(seen, 4, seed=8) != expected).any()
    assert generator.average(seen[:0], 4).shape == (0, 8, 8, 1)


def test_what_cannot_be_averaged_is_told(trained: tuple[Generator, np.ndarray], tmp_path) -> None:
    generator, clean = trained
    for samples in (0, 1025):
        with pytest.raises(ValueError, match="1 to 1024"):
            averaged(generator, clean, samples)
    plain = saved_model(tmp_path / "m")
    assert trained_levels(generator) == 60.0 and trained_levels(plain) == 0.0
    with pytest.raises(ValueError, match=r"not trained to take noise away.*fit\.denoise_levels"):
        averaged(plain, np.zeros((1, 8, 8, 3), np.uint8))
    for sigma in (-1.0, 61.0, float("nan")):
        with pytest.raises(ValueError, match="up to 60 levels"):
            within(sigma, 60.0)
    within(60.0, 60.0)
    within(None, 60.0)

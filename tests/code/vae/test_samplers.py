"""samplers: moments, recovery of a planted mixture, and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import scipy.stats
import torch
from safetensors.torch import load_file, save_file

from vae.config import PriorConfig
from vae.samplers import SAMPLERS, Mixture, Normal

WEIGHTS = torch.tensor([0.25, 0.75])
MEANS = torch.tensor([[-3.0, 2.0], [2.0, 0.0]])
COVARIANCES = torch.tensor([[[0.5, 0.3], [0.3, 0.4]], [[0.2, -0.1], [-0.1, 0.6]]])


def config(components: int) -> PriorConfig:
    return PriorConfig(name="mixture", mixture_components=components, hidden_units=16, steps=50)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def planted() -> torch.Tensor:
    generator = seeded(1)
    which = torch.multinomial(WEIGHTS, 4000, replacement=True, generator=generator)
    noise = torch.randn(4000, 2, generator=generator)
    return MEANS[which] + torch.einsum("nij,nj->ni", torch.linalg.cholesky(COVARIANCES)[which], noise)


@pytest.fixture(scope="module")
def mixture(planted: torch.Tensor) -> Mixture:
    return Mixture.fit(planted, config(2), seed=0)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_normal_samples_are_normal_with_the_temperature_as_spread(temperature: float) -> None:
    z_ND = Normal.fit(torch.zeros(5, 4), config(8), 0).sample(20_000, seeded(), temperature)
    assert z_ND.shape == (20_000, 4)
    for column in z_ND.T.numpy():
        assert scipy.stats.kstest(column, "norm", args=(0, temperature)).pvalue > 1e-3
    assert (torch.corrcoef(z_ND.T) - torch.eye(4)).abs().max() < 0.03


def test_mixture_fit_recovers_the_planted_components(mixture: Mixture) -> None:
    order = mixture.tensors["means_KD"][:, 0].argsort()
    torch.testing.assert_close(mixture.tensors["weights_K"][order], WEIGHTS, atol=0.03, rtol=0)
    torch.testing.assert_close(mixture.tensors["means_KD"][order], MEANS, atol=0.1, rtol=0)
    cholesky = mixture.tensors["cholesky_KDD"][order]
    torch.testing.assert_close(cholesky @ cholesky.mT, COVARIANCES, atol=0.06, rtol=0)


def test_mixture_samples_have_the_moments_of_the_planted_data(mixture: Mixture, planted: torch.Tensor) -> None:
    z_ND = mixture.sample(20_000, seeded())
    torch.testing.assert_close(z_ND.mean(0), planted.mean(0), atol=0.15, rtol=0)
    torch.testing.assert_close(z_ND.T.cov(), planted.T.cov(), atol=0.25, rtol=0)
    for ours, theirs in zip(z_ND[:4000].T.numpy(), planted.T.numpy(), strict=True):
        assert scipy.stats.ks_2samp(ours, theirs).statistic < 0.06


def test_mixture_temperature_zero_collapses_to_the_means_by_weight(mixture: Mixture) -> None:
    z_ND = mixture.sample(2000, seeded(), temperature=0.0)
    distances = torch.cdist(z_ND, mixture.tensors["means_KD"])
    assert distances.min(1).values.max() < 1e-5
    shares = torch.bincount(distances.argmin(1), minlength=2) / 2000
    torch.testing.assert_close(shares, mixture.tensors["weights_K"], atol=0.05, rtol=0)


def test_normal_temperature_zero_collapses_to_the_mean() -> None:
    assert Normal.fit(torch.zeros(5, 4), config(8), 0).sample(3, seeded(), 0.0).abs().max() == 0


def test_mixture_few_latents_give_fewer_components() -> None:
    z_ND = torch.randn(20, 3, generator=seeded())
    assert len(Mixture.fit(z_ND, config(32), 0).tensors["weights_K"]) == 1
    assert len(Mixture.fit(z_ND[:4], config(32), 0).tensors["weights_K"]) == 1
    assert len(Mixture.fit(torch.randn(200, 3, generator=seeded()), config(4), 0).tensors["weights_K"]) == 4


def test_mixture_collapsed_latent_does_not_break_the_fit() -> None:
    z_ND = torch.randn(400, 3, generator=seeded())
    z_ND[:, 1] = 0.5  # a dimension that the encoder does not use
    z_ND = Mixture.fit(z_ND, config(2), 0).sample(500, seeded())
    assert z_ND.isfinite().all() and (z_ND[:, 1] - 0.5).abs().max() < 0.1


def test_mixture_fit_is_a_function_of_data_and_seed(planted: torch.Tensor) -> None:
    first, again = Mixture.fit(planted[:500], config(3), 5), Mixture.fit(planted[:500], config(3), 5)
    assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_same_seed_gives_the_same_latents_and_another_others(name: str, planted: torch.Tensor) -> None:
    sampler = SAMPLERS[name].fit(planted[:500], config(2), seed=0)
    assert torch.equal(sampler.sample(50, seeded(7)), sampler.sample(50, seeded(7)))
    assert not torch.equal(sampler.sample(50, seeded(7)), sampler.sample(50, seeded(8)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_round_trip_through_safetensors_gives_the_same_latents(name: str, planted: torch.Tensor, tmp_path: Path) -> None:
    sampler = SAMPLERS[name].fit(planted[:500], config(2), seed=0)
    assert sampler.name == name
    save_file({name: value.contiguous() for name, value in sampler.tensors.items()}, tmp_path / "prior.safetensors")
    loaded = SAMPLERS[name](load_file(tmp_path / "prior.safetensors"))
    assert torch.equal(loaded.sample(50, seeded(), 0.7), sampler.sample(50, seeded(), 0.7))

"""samplers: moments, recovery of a planted mixture, the choice of its size, awkward latents, and files."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import pytest
import scipy.stats
import torch
from safetensors.torch import load_file, save_file
from sklearn.mixture import GaussianMixture
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import densities
from configs import prior_config
from densities import seeded
from vae.config import PriorConfig
from vae.samplers import SAMPLERS, Mixture, Normal
from vae.samplers.mixture import maximised

WEIGHTS = torch.tensor([0.25, 0.75])
MEANS = torch.tensor([[-3.0, 2.0], [2.0, 0.0]])
COVARIANCES = torch.tensor([[[0.5, 0.3], [0.3, 0.4]], [[0.2, -0.1], [-0.1, 0.6]]])


AWKWARD = densities.awkward()


def config(components: int) -> PriorConfig:
    return prior_config(mixture_components=components)


def truth(z_ND: torch.Tensor) -> torch.Tensor:
    """The log-density of the planted mixture (N,), in nats."""
    return MixtureSameFamily(Categorical(WEIGHTS), MultivariateNormal(MEANS, COVARIANCES)).log_prob(z_ND)


@pytest.fixture(scope="module")
def planted() -> torch.Tensor:
    generator = seeded(1)
    which = torch.multinomial(WEIGHTS, 4000, replacement=True, generator=generator)
    noise = torch.randn(4000, 2, generator=generator)
    return MEANS[which] + torch.einsum("nij,nj->ni", torch.linalg.cholesky(COVARIANCES)[which], noise)


@pytest.fixture(scope="module")
def mixture(planted: torch.Tensor) -> Mixture:
    return Mixture.fit(planted, config(2), seed=0)


@pytest.mark.parametrize(("dim", "size", "count"), [(1, 3, 500), (2, 2, 5000), (5, 40, 3000), (20, 7, 2048)])
@pytest.mark.parametrize("iterations", [1, 4, 30])
def test_mixture_is_that_of_scikit_learn(dim: int, size: int, count: int, iterations: int) -> None:
    generator = seeded(dim)
    x_ND = torch.randn(count, dim, generator=generator, dtype=torch.double)
    x_ND[: count // 2] = x_ND[: count // 2] * 0.05 + 2  # a narrow cluster far from the middle: products nearly cancel there
    x_ND = (x_ND - x_ND.mean(0)) / x_ND.std(0)
    ours = maximised(x_ND, size, iterations, seed=3)
    theirs = GaussianMixture(size, reg_covar=1e-5, max_iter=iterations, tol=1e-3, random_state=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        theirs.fit(x_ND.numpy())
    assert ours["weights_K"].numpy() == pytest.approx(theirs.weights_, abs=1e-9)
    assert ours["means_KD"].numpy() == pytest.approx(theirs.means_, abs=1e-8)
    covariance_KDD = ours["cholesky_KDD"] @ ours["cholesky_KDD"].mT
    assert covariance_KDD.numpy() == pytest.approx(theirs.covariances_, abs=1e-8)


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


def test_mixture_few_latents_allow_fewer_components() -> None:
    z_ND = torch.randn(24, 3, generator=seeded())
    z_ND[:12] += 50  # two groups that a mixture of two would suit
    assert len(Mixture.fit(z_ND, config(32), 0).tensors["weights_K"]) == 2
    assert len(Mixture.fit(z_ND[:23], config(32), 0).tensors["weights_K"]) == 1
    assert len(Mixture.fit(z_ND[:1], config(32), 0).tensors["weights_K"]) == 1


def test_mixture_takes_as_many_components_as_were_planted(planted: torch.Tensor) -> None:
    assert len(Mixture.fit(planted, config(32), 0).tensors["weights_K"]) == 2
    assert len(Mixture.fit(torch.randn(2000, 5, generator=seeded()), config(32), 0).tensors["weights_K"]) == 1
    corners = torch.tensor(list(itertools.product([-3.0, 3.0], repeat=3)))[torch.arange(2000) % 8]
    eight = Mixture.fit(corners + 0.3 * torch.randn(2000, 3, generator=seeded()), config(32), 0)
    assert 8 <= (eight.tensors["weights_K"] > 0.02).sum() <= 16


def test_mixture_size_has_a_limit_that_need_be_no_power_of_two() -> None:
    z_ND = torch.arange(600.0)[:, None] % 3 * 10 + 0.1 * torch.randn(600, 1, generator=seeded())
    assert len(Mixture.fit(z_ND, config(3), 0).tensors["weights_K"]) == 3
    assert len(Mixture.fit(z_ND, config(2), 0).tensors["weights_K"]) == 2


def test_mixture_chosen_size_beats_the_largest_on_new_latents(planted: torch.Tensor) -> None:
    fresh = planted[2000:]
    chosen = Mixture.fit(planted[:400], config(32), 0)
    largest = Mixture._of_size(planted[:400], 32, 60, 0)
    assert chosen.log_prob(fresh).mean() > largest.log_prob(fresh).mean() + 0.05
    assert truth(fresh).mean() - chosen.log_prob(fresh).mean() < 0.05


def test_mixture_log_prob_is_that_of_torch(mixture: Mixture, planted: torch.Tensor) -> None:
    found = mixture.tensors
    normals = MultivariateNormal(found["means_KD"], scale_tril=found["cholesky_KDD"])
    expected = MixtureSameFamily(Categorical(found["weights_K"]), normals).log_prob(planted)
    torch.testing.assert_close(mixture.log_prob(planted), expected, rtol=1e-4, atol=1e-4)


def test_mixture_density_follows_its_latents_through_shift_and_scale(planted: torch.Tensor) -> None:
    moved = Mixture.fit(5 + 0.1 * planted, config(4), 0)
    nats = moved.log_prob(5 + 0.1 * planted).mean() + 2 * torch.tensor(0.1).log()
    torch.testing.assert_close(nats, Mixture.fit(planted, config(4), 0).log_prob(planted).mean(), atol=0.02, rtol=0)


def test_normal_log_prob_is_that_of_torch() -> None:
    z_ND = 3 * torch.randn(50, 4, generator=seeded())
    expected = MultivariateNormal(torch.zeros(4), torch.eye(4)).log_prob(z_ND)
    torch.testing.assert_close(Normal.fit(z_ND, config(1), 0).log_prob(z_ND), expected)


def test_mixture_collapsed_latent_does_not_break_the_fit() -> None:
    z_ND = torch.randn(400, 3, generator=seeded())
    z_ND[:, 1] = 0.5  # a dimension that the encoder does not use
    z_ND = Mixture.fit(z_ND, config(2), 0).sample(500, seeded())
    assert z_ND.isfinite().all() and (z_ND[:, 1] - 0.5).abs().max() < 0.1


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_fit_is_a_function_of_data_and_seed_whatever_goes_on_around(name: str, planted: torch.Tensor) -> None:
    torch.manual_seed(1)
    first, state = SAMPLERS[name].fit(planted[:500], config(3), 5), torch.get_rng_state()
    threads = torch.get_num_threads()
    torch.manual_seed(2)
    torch.set_num_threads(threads + 1)
    try:
        with torch.no_grad():  # as in the middle of a training
            again = SAMPLERS[name].fit(planted[:500], config(3), 5)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert first.tensors.keys() == again.tensors.keys()
    assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["mixture", "flow", "second_stage"])
@pytest.mark.parametrize("what", AWKWARD)
def test_sampler_of_awkward_latents_is_finite_and_lies_where_they_lie(name: str, what: str) -> None:
    z_ND = AWKWARD[what]
    sampler = SAMPLERS[name].fit(z_ND, config(4), 0)
    samples = sampler.sample(2000, seeded())
    assert samples.dtype == torch.float32 and samples.isfinite().all() and sampler.log_prob(z_ND).isfinite().all()
    assert sampler.log_prob(torch.cat([z_ND, samples])).isfinite().all()
    if what != "outlier":  # of which no finite number of samples has the moments
        spread = z_ND.std(0, correction=0).clamp_min(1e-3)
        assert ((samples.mean(0) - z_ND.mean(0)).abs() < 0.3 * spread).all()
        assert ((samples.std(0) / spread - 1).abs() < 0.25).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_tensors_can_be_saved_as_they_are(name: str, planted: torch.Tensor) -> None:
    tensors = SAMPLERS[name].fit(planted[:500], config(2), 0).tensors
    assert all(value.is_contiguous() and not value.requires_grad for value in tensors.values())
    assert len({value.untyped_storage().data_ptr() for value in tensors.values() if value.numel()}) == len(tensors)
    assert {value.dtype for value in tensors.values()} <= {torch.float32, torch.int64}


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_same_seed_gives_the_same_latents_and_another_others(name: str, planted: torch.Tensor) -> None:
    sampler = SAMPLERS[name].fit(planted[:500], config(2), seed=0)
    assert torch.equal(sampler.sample(50, seeded(7)), sampler.sample(50, seeded(7)))
    assert not torch.equal(sampler.sample(50, seeded(7)), sampler.sample(50, seeded(8)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_round_trip_through_safetensors_gives_the_same_latents(name: str, planted: torch.Tensor, tmp_path: Path) -> None:
    sampler = SAMPLERS[name].fit(planted[:500], config(2), seed=0)
    assert sampler.name == name
    save_file(sampler.tensors, tmp_path / "prior.safetensors")
    loaded = SAMPLERS[name](load_file(tmp_path / "prior.safetensors"))
    assert torch.equal(loaded.sample(50, seeded(), 0.7), sampler.sample(50, seeded(), 0.7))
    assert torch.equal(loaded.log_prob(planted), sampler.log_prob(planted))

"""ladder: its terms are those of the layers' own coordinates, its layers depend on those above, its samples are ancestral."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vae.artefact import Generator, load_artefact, save_artefact
from vae.config import ModelConfig
from vae.metrics.bounds import importance_weighted_nll
from vae.models import build, problem
from vae.models.base import VAE, Posterior
from vae.models.ladder import LadderVAE, grids, layers_by_resolution
from vae.samplers.normal import Normal as StandardNormal


@pytest.fixture
def config(model_config: ModelConfig) -> ModelConfig:
    return replace(model_config, name="ladder", latent_dim=2, stochastic_layers=4, image_shape=(8, 12, 3))


def shaken(config: ModelConfig, size: float = 0.1) -> LadderVAE:
    torch.manual_seed(0)
    model = build(config)
    for p in model.parameters():
        p.data += size * torch.randn(p.shape)
    return model.eval()


def images(config: ModelConfig, count: int) -> Tensor:
    height, width, channels = config.image_shape
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@contextmanager
def watched(model: LadderVAE) -> Iterator[tuple[list[Normal], list[Tensor]]]:
    """Each layer's prior in its own coordinates, and the z_l that enters the network, seen from outside, (N, Z * H * W)."""
    priors: list[Normal] = []
    entered: list[Tensor] = []

    def note_prior(layer: torch.nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        priors.append(Normal(*(each.flatten(1) for each in layer.prior_of(inputs[0]))))

    hooks = [layer.register_forward_pre_hook(note_prior) for stage in model.stages for layer in stage.layers]
    for stage in model.stages:
        for layer in stage.layers:
            hooks.append(layer.enter.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0].flatten(1))))
    yield priors, entered
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def test_rate_and_weights_are_those_of_the_layers_own_coordinates(config: ModelConfig) -> None:
    model, x_NCHW = shaken(config), images(config, 5)
    with watched(model) as (priors, entered):
        terms = model(x_NCHW, torch.randn(5, model.latent_dim))
    means, logvars = (each.split(model.rate_groups, dim=1) for each in (terms.posterior.mean_ND, terms.posterior.logvar_ND))
    assert any((prior.mean.abs() > 0.05).any() and ((prior.stddev - 1).abs() > 0.05).any() for prior in priors[1:])
    log_ratio_N = torch.zeros(5)
    rates = terms.rate_ND.split(model.rate_groups, dim=1)
    for prior, z, mean, logvar, rate in zip(priors, entered, means, logvars, rates, strict=True):
        q = Normal(prior.mean + prior.stddev * mean, prior.stddev * (logvar / 2).exp())
        torch.testing.assert_close(rate, kl_divergence(q, prior), rtol=1e-3, atol=1e-4)
        log_ratio_N += (prior.log_prob(z) - q.log_prob(z)).sum(1)
    torch.testing.assert_close(terms.log_weight_N(), log_ratio_N - terms.distortion_N, rtol=1e-4, atol=1e-2)


@torch.no_grad()
def test_two_proposals_agree_on_the_likelihood(model_config: ModelConfig) -> None:
    # Importance sampling is right for any proposal: with the prior itself, which needs no posterior, and with the network's.
    config = replace(model_config, name="ladder", image_shape=(4, 4, 1), widths=(8,), latent_dim=1)
    model, x_NCHW = shaken(config, size=0.2), images(config, 3)
    model.likelihood.log_scale.data.fill_(0.7)  # so wide that the weights of the prior's samples vary little
    for layer in (layer for stage in model.stages for layer in stage.layers):
        layer.posterior[-1].weight.data *= 0.3  # a proposal that is off, and wide enough to reach wherever the prior does
        layer.posterior[-1].bias.data = torch.tensor([0.5, 0.3])
    by_prior = []
    for x_CHW in x_NCHW:
        z_KD = torch.randn(40_000, model.latent_dim)
        log_likelihood_K = model.likelihood.log_prob(model.decode(z_KD), x_CHW.expand(len(z_KD), *x_CHW.shape))
        by_prior.append(-(torch.logsumexp(log_likelihood_K.double(), 0) - math.log(len(z_KD))))
    posterior = model.infer(model.observe(x_NCHW), torch.randn(3, model.latent_dim))
    assert posterior.mean_ND.abs().mean() > 0.3 and posterior.logvar_ND.abs().mean() > 0.2  # it is another proposal
    expected = torch.stack(by_prior)
    torch.testing.assert_close(importance_weighted_nll(model, x_NCHW, 20_000, seed=0), expected, atol=0.1, rtol=0)


@torch.no_grad()
def test_decode_of_normal_numbers_is_a_sample_of_each_layers_prior(config: ModelConfig) -> None:
    model, e_ND = shaken(config), torch.randn(4, 2 * (6 + 6 + 6 + 24))
    with watched(model) as (priors, entered):
        model.decode(e_ND)
    assert len(priors) == len(entered) == config.stochastic_layers
    for prior, z, e in zip(priors, entered, e_ND.split(model.rate_groups, dim=1), strict=True):
        torch.testing.assert_close(z, prior.mean + prior.stddev * e)
    assert torch.equal(priors[0].mean, torch.zeros(4, 12)) and torch.equal(priors[0].stddev, torch.ones(4, 12))


@torch.no_grad()
def test_posterior_of_a_layer_depends_on_the_samples_above_it_alone(config: ModelConfig) -> None:
    model, x_NCHW = shaken(config), images(config, 2)
    observed, noise_ND = model.observe(x_NCHW), torch.randn(2, model.latent_dim)

    def layers(found: Posterior) -> tuple[Tensor, ...]:
        return found.mean_ND.split(model.rate_groups, dim=1)

    before = layers(model.infer(observed, noise_ND))
    for changed in range(config.stochastic_layers):
        other = [each.clone() for each in noise_ND.split(model.rate_groups, dim=1)]
        other[changed] += 1
        after = layers(model.infer(observed, torch.cat(other, dim=1)))
        same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert same == [i <= changed for i in range(config.stochastic_layers)]


@torch.no_grad()
def test_features_are_those_of_every_resolution_coarsest_first(config: ModelConfig) -> None:
    observed = shaken(config).observe(images(config, 2))
    assert [tuple(each.shape) for each in observed[1:]] == [(2, 16, 2, 3), (2, 8, 4, 6)]
    assert observed[0].shape == observed[1].shape  # what the top-down path starts from


def test_ladder_at_the_start_has_no_rate_and_standard_priors(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = build(config)
    with watched(model) as (priors, _):
        terms = model(images(config, 2), torch.randn(2, model.latent_dim))
    assert not terms.rate_ND.any()
    assert all(not prior.mean.any() and (prior.stddev == 1).all() for prior in priors)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_ladder_extreme_network_outputs_keep_the_terms_finite(config: ModelConfig, sign: float) -> None:
    model, half = shaken(config), config.latent_dim
    for layer in (layer for stage in model.stages for layer in stage.layers):
        layer.posterior[-1].bias.data[half:] = sign * 1e6
        if layer.prior is not None:
            layer.prior[-1].bias.data[half:] = sign * 1e6
    with watched(model) as (priors, _):
        terms = model(images(config, 2), torch.randn(2, model.latent_dim))
    (terms.distortion_N.sum() + terms.rate_ND.sum()).backward()
    assert terms.distortion_N.isfinite().all() and terms.rate_ND.isfinite().all() and terms.log_weight_N().isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert all(prior.stddev.min() > 0.04 and prior.stddev.max() < 21 for prior in priors)


@pytest.mark.parametrize("resolutions", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("layers", range(2, 13))
def test_layers_are_all_placed_and_most_of_them_coarse(layers: int, resolutions: int) -> None:
    counts = layers_by_resolution(layers, resolutions)
    assert len(counts) == resolutions and sum(counts) == layers
    assert counts[0] >= 1 and counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    ("widths", "layers", "expected"),
    [
        ((8, 16), 6, [(2, 4, 8)] * 4 + [(2, 8, 16)] * 2),
        ((8, 8, 8), 6, [(2, 2, 4)] * 3 + [(2, 4, 8)] * 2 + [(2, 8, 16)]),
        ((8, 8, 8, 8), 2, [(2, 1, 2), (2, 2, 4)]),  # the two finest resolutions have none
        ((8,), 3, [(2, 8, 16)] * 3),
    ],
)
def test_ladder_of_any_depth(
    config: ModelConfig, widths: tuple[int, ...], layers: int, expected: list[tuple[int, int, int]]
) -> None:
    deep = replace(config, image_shape=(16, 32, 1), widths=widths, stochastic_layers=layers)
    assert grids(deep) == expected
    model, x_NCHW = shaken(deep), images(deep, 2)
    assert model.rate_groups == tuple(math.prod(shape) for shape in expected)
    terms = model(x_NCHW, torch.randn(2, model.latent_dim))
    (terms.distortion_N.sum() + terms.rate_ND.sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_ladder_with_more_latents_than_a_batch_can_hold_is_refused_with_the_remedy(config: ModelConfig) -> None:
    huge = replace(config, image_shape=(1024, 1024, 3), widths=(8,), stochastic_layers=12)
    for key in ("fit.stochastic_layers", "base.image_size", "fit.widths"):
        assert key in str(problem(huge))
    with pytest.raises(ValueError, match="6291456 latents of an image in 12 layers"):
        build(huge)
    assert problem(replace(huge, widths=(8, 8, 8, 8), stochastic_layers=6)) is None


def test_ladder_saved_and_loaded_gives_identical_images_and_latents(config: ModelConfig, tmp_path: Path) -> None:
    model: VAE = shaken(config)
    prior = StandardNormal({"latent_dim": torch.tensor(model.latent_dim)})
    original = Generator(model, config, prior, {})
    save_artefact(tmp_path, original)
    loaded = load_artefact(tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (5, *config.image_shape)).astype(np.uint8)
    np.testing.assert_array_equal(loaded.sample(4, seed=2), original.sample(4, seed=2))
    np.testing.assert_array_equal(loaded.reconstruct(pictures), original.reconstruct(pictures))
    assert torch.equal(loaded.encode(pictures)[1], original.encode(pictures)[1])

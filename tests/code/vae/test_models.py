"""models: shapes, refusals with a remedy, and independence of the rest of the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from vae.config import ModelConfig
from vae.models import MODELS, build, problem

SHAPES = [
    ((28, 28, 1), (8, 16), "bernoulli"),
    ((28, 28, 1), (8, 16), "logistic"),
    ((32, 32, 3), (8, 12, 16), "logistic"),
    ((32, 32, 3), (4, 6, 20), "gaussian"),
    ((8, 16, 3), (8,), "gaussian"),
]


def make(image_shape: tuple[int, int, int], widths: tuple[int, ...], likelihood: str) -> ModelConfig:
    return ModelConfig(
        name="conv",
        image_shape=image_shape,
        latent_dim=5,
        widths=widths,
        hidden_units=12,
        blocks=1,
        stochastic_layers=2,
        sigma=0.1,
        likelihood=likelihood,
    )


def images(config: ModelConfig, count: int, seed: int = 0) -> torch.Tensor:
    height, width, channels = config.image_shape
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("image_shape", "widths", "likelihood"), SHAPES)
def test_model_shapes_of_every_output(image_shape: tuple[int, int, int], widths: tuple[int, ...], likelihood: str) -> None:
    config = make(image_shape, widths, likelihood)
    assert problem(config) is None
    model, x_NCHW = build(config), images(config, 3)
    mean_ND, logvar_ND = model.encode(x_NCHW)
    assert mean_ND.shape == logvar_ND.shape == (3, 5) and model.latent_dim == 5
    assert model.decode(mean_ND).shape == x_NCHW.shape
    terms = model(x_NCHW, torch.zeros(3, 5))
    assert terms.distortion_N.shape == (3,) and terms.rate_ND.shape == (3, 5)
    sampled = model.sample(torch.randn(4, 5) * 50)
    assert sampled.shape == (4, *x_NCHW.shape[1:]) and sampled.abs().max() <= 1


@pytest.mark.parametrize(("image_shape", "widths", "likelihood"), SHAPES)
def test_model_terms_are_those_of_its_own_parts(
    image_shape: tuple[int, int, int], widths: tuple[int, ...], likelihood: str
) -> None:
    config = make(image_shape, widths, likelihood)
    model, x_NCHW, noise_ND = build(config).eval(), images(config, 2), torch.randn(2, 5)
    mean_ND, logvar_ND = model.encode(x_NCHW)
    posterior = torch.distributions.Normal(mean_ND, (logvar_ND / 2).exp())
    terms = model(x_NCHW, noise_ND)
    z_ND = posterior.mean + posterior.stddev * noise_ND
    torch.testing.assert_close(terms.distortion_N, -model.likelihood.log_prob(model.decode(z_ND), x_NCHW), rtol=1e-4, atol=1e-3)
    prior = torch.distributions.Normal(torch.zeros(5), torch.ones(5))
    torch.testing.assert_close(terms.rate_ND, torch.distributions.kl_divergence(posterior, prior), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "widths"), [((30, 32, 3), (8, 8)), ((32, 30, 3), (8, 8)), ((28, 28, 1), (8, 8, 8))])
def test_build_image_that_does_not_divide_names_the_remedy(shape: tuple[int, int, int], widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"do not divide by {2 ** len(widths)}.*base.image_size.*fit.widths"):
        build(make(shape, widths, "logistic"))


def test_build_unknown_model_suggests_the_nearest(model_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="unknown model 'conf': did you mean 'conv'"):
        build(replace(model_config, name="conf"))


def test_build_unknown_likelihood_suggests_the_nearest(model_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="unknown likelihood 'gausian': did you mean 'gaussian'"):
        build(replace(model_config, likelihood="gausian"))
    with pytest.raises(ValueError, match="known are logistic, gaussian, gaussian_fixed, logistic_mixture, bernoulli"):
        build(replace(model_config, likelihood="zzz"))


def test_build_bernoulli_on_colour_is_refused(model_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match=r"base\.mode: L"):
        build(replace(model_config, image_shape=(8, 8, 3), likelihood="bernoulli"))


@pytest.mark.parametrize("name", MODELS)
def test_model_has_no_layer_that_mixes_a_batch(model_config: ModelConfig, name: str) -> None:
    model = build(replace(model_config, name=name))
    assert not [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase | nn.Dropout)]
    assert not list(model.buffers())  # no running statistics: state is parameters, which DDP keeps the same


@pytest.mark.parametrize("training", [True, False])
def test_model_output_of_an_image_is_independent_of_its_batch(model_config: ModelConfig, training: bool) -> None:
    model = build(model_config).train(training)
    x_NCHW, noise_ND = images(model_config, 6), torch.randn(6, 3)
    other = images(model_config, 6, seed=9)
    other[2] = x_NCHW[2]
    with torch.no_grad():
        whole, beside, alone = model(x_NCHW, noise_ND), model(other, noise_ND), model(x_NCHW[2:3], noise_ND[2:3])
    for terms, row in ((beside, 2), (alone, 0)):
        torch.testing.assert_close(terms.distortion_N[row], whole.distortion_N[2], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(terms.rate_ND[row], whole.rate_ND[2], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(beside.distortion_N[1], whole.distortion_N[1])  # the rest really was another


def test_build_same_global_seed_gives_the_same_weights(model_config: ModelConfig) -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(torch.cat([p.detach().flatten() for p in build(model_config).parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_encode_extreme_network_output_keeps_the_terms_finite(model_config: ModelConfig) -> None:
    model = build(model_config)
    for sign in (1, -1):
        model.encoder[-1].bias.data[3:] = sign * 1e6  # the log-variances
        terms = model(images(model_config, 2), torch.randn(2, 3))
        assert terms.distortion_N.isfinite().all() and terms.rate_ND.isfinite().all()

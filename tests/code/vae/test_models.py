"""models: what holds for each of them: shapes, refusals with a remedy, independence of the rest of the batch, a true sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import configs
from vae.config import FitConfig, ModelConfig
from vae.data import ImageShards, ShardWriter
from vae.metrics.bounds import importance_weighted_nll
from vae.models import MODELS, build, problem
from vae.models.base import VAE, Output
from vae.noise import step_noise
from vae.optim import learned
from vae.trainer import fit
from vae.validation import bound

SHAPES = [
    ((28, 28, 1), (8, 16), "bernoulli"),
    ((28, 28, 1), (8, 16), "logistic"),
    ((32, 32, 3), (8, 12, 16), "logistic"),
    ((32, 32, 3), (4, 6, 20), "gaussian"),
    ((8, 16, 3), (8,), "gaussian"),
    ((24, 12, 4), (8, 16), "logistic"),
    ((8, 8, 3), (4, 8), "gaussian_optimal"),
]


NORMAL = [name for name, model in MODELS.items() if model.normal_posterior]


def whole_loss(terms: Output) -> torch.Tensor:
    """What the objective elbo makes of the terms at beta 1, summed over the images."""
    return terms.distortion_N.sum() + terms.rate_ND.sum() + (0.0 if terms.penalty is None else terms.penalty)


def make(image_shape: tuple[int, int, int], widths: tuple[int, ...], likelihood: str, name: str = "conv") -> ModelConfig:
    return configs.model_config(
        name=name, image_shape=image_shape, latent_dim=5, widths=widths, hidden_units=12, likelihood=likelihood
    )


def images(config: ModelConfig, count: int, seed: int = 0) -> torch.Tensor:
    height, width, channels = config.image_shape
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def shaken(config: ModelConfig) -> VAE:
    """A model none of whose weights are zero, as after some training: a branch that starts silent would hide much."""
    torch.manual_seed(0)
    model = build(config)
    for p in learned(model):
        p.data += 0.05 * torch.randn(p.shape)
    return model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("image_shape", "widths", "likelihood"), SHAPES)
def test_model_shapes_of_every_output(
    image_shape: tuple[int, int, int], widths: tuple[int, ...], likelihood: str, name: str
) -> None:
    config = make(image_shape, widths, likelihood, name)
    assert problem(config) is None
    model, x_NCHW = build(config), images(config, 3)
    D = model.latent_dim
    mean_ND, logvar_ND = model.encode(x_NCHW)
    assert mean_ND.shape == logvar_ND.shape == (3, D) and sum(model.rate_groups) == D
    assert model.decode(mean_ND).shape == x_NCHW.shape
    terms = model(x_NCHW, torch.zeros(3, D))
    assert terms.distortion_N.shape == (3,) and terms.rate_ND.shape == (3, D)
    sampled = model.sample(torch.randn(4, D) * 50)
    assert sampled.shape == (4, *x_NCHW.shape[1:]) and sampled.abs().max() <= 1


@pytest.mark.parametrize("name", NORMAL)
@pytest.mark.parametrize(("image_shape", "widths", "likelihood"), SHAPES)
def test_model_terms_are_those_of_its_own_parts(
    image_shape: tuple[int, int, int], widths: tuple[int, ...], likelihood: str, name: str
) -> None:
    config = make(image_shape, widths, likelihood, name)
    model, x_NCHW = shaken(config).eval(), images(config, 2)
    noise_ND = torch.randn(2, model.latent_dim)
    terms = model(x_NCHW, noise_ND)
    posterior = torch.distributions.Normal(terms.posterior.mean_ND, (terms.posterior.logvar_ND / 2).exp())
    z_ND = posterior.mean + posterior.stddev * noise_ND
    torch.testing.assert_close(terms.posterior.z_ND, z_ND, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(terms.distortion_N, -model.likelihood.log_prob(model.decode(z_ND), x_NCHW), rtol=1e-4, atol=1e-3)
    prior = torch.distributions.Normal(torch.zeros_like(z_ND), torch.ones_like(z_ND))
    torch.testing.assert_close(terms.rate_ND, torch.distributions.kl_divergence(posterior, prior), rtol=1e-4, atol=1e-5)
    expected = prior.log_prob(z_ND).sum(1) - posterior.log_prob(z_ND).sum(1) - terms.distortion_N
    torch.testing.assert_close(terms.log_weight_N(), expected, rtol=1e-4, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_infer_says_what_decode_says_of_its_sample(model_config: ModelConfig, name: str) -> None:
    model, x_NCHW = shaken(replace(model_config, name=name)), images(model_config, 4)
    for layout in (torch.contiguous_format, torch.channels_last):
        model = model.to(memory_format=layout)
        found = model.infer(model.observe(x_NCHW), torch.randn(4, model.latent_dim))
        assert found.output_NCHW is None or torch.equal(found.output_NCHW, model.decode(found.z_ND))


@pytest.mark.parametrize("name", MODELS)
def test_model_every_parameter_has_a_gradient(model_config: ModelConfig, name: str) -> None:
    for shape in ((8, 8, 1), (16, 8, 3)):
        config = replace(model_config, name=name, image_shape=shape, stochastic_layers=3, blocks=2)
        model = shaken(config)
        terms = model(images(config, 4), torch.randn(4, model.latent_dim))
        whole_loss(terms).backward()
        assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any() or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", MODELS)
def test_model_at_the_start_has_a_gradient_for_every_parameter_and_a_bound_near_that_of_noise(
    model_config: ModelConfig, name: str
) -> None:
    torch.manual_seed(0)
    model = build(replace(model_config, name=name, stochastic_layers=6))
    terms = model(images(model_config, 32), torch.randn(32, model.latent_dim))
    whole_loss(terms).backward()
    loss = (terms.distortion_N + terms.rate_ND.sum(1)).mean()
    assert all(p.grad is not None for p in model.parameters())  # may be zero; who gathers gradients needs them all
    assert loss < 1.5 * 64 * 5.55 and terms.rate_ND.sum(1).mean() < 40  # 64 pixels of log(256) nats


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("blocks", [1, 3])
def test_recompute_changes_no_gradient(model_config: ModelConfig, name: str, blocks: int) -> None:
    model, x_NCHW = shaken(replace(model_config, name=name, blocks=blocks)), images(model_config, 4)
    noise_ND, gradients = torch.randn(4, model.latent_dim), []
    for recompute in (False, True):
        model.recompute = recompute
        model.zero_grad()
        terms = model(x_NCHW, noise_ND)
        whole_loss(terms).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_model_in_bfloat16_gives_its_terms_in_float32(model_config: ModelConfig, name: str) -> None:
    model, x_NCHW = shaken(replace(model_config, name=name)), images(model_config, 8)
    noise_ND = torch.randn(8, model.latent_dim)
    exact = model(x_NCHW, noise_ND)
    with torch.autocast("cpu", torch.bfloat16):
        terms = model(x_NCHW, noise_ND)
    for each in (terms.distortion_N, terms.rate_ND, terms.posterior.mean_ND, terms.posterior.logvar_ND, terms.posterior.z_ND):
        assert each.dtype == torch.float32
    torch.testing.assert_close(terms.rate_ND.sum(1), exact.rate_ND.sum(1), rtol=0.1, atol=0.5)
    torch.testing.assert_close(terms.distortion_N, exact.distortion_N, rtol=0.1, atol=1)


@pytest.mark.parametrize("name", NORMAL)
def test_importance_bound_of_one_sample_is_the_log_weight_and_falls_with_more(model_config: ModelConfig, name: str) -> None:
    model, x_NCHW = shaken(replace(model_config, name=name)).eval(), images(model_config, 12)
    values = [importance_weighted_nll(model, x_NCHW, samples, seed=0).mean() for samples in (1, 10, 300)]
    assert values[0] > values[1] > values[2]
    with torch.no_grad():
        noises = [step_noise(0, i, (1, model.latent_dim), torch.device("cpu")) for i in range(12)]
        expected = torch.stack([-model(x[None], noise).log_weight_N()[0] for x, noise in zip(x_NCHW, noises, strict=True)])
    torch.testing.assert_close(importance_weighted_nll(model, x_NCHW, 1, seed=0).float(), expected, rtol=1e-4, atol=1e-2)


def spots(directory: Path, count: int, seed: int) -> ImageShards:
    """Images of 8x8 with one soft spot of random place, size and brightness."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:8, :8]
    writer = ShardWriter(directory, (8, 8, 1), count)
    for _ in range(count):
        (cy, cx), size, level = rng.uniform(1, 6, 2), rng.uniform(1, 2.5), rng.uniform(80, 220)
        spot = level * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * size**2))
        writer.add(spot.astype(np.uint8)[..., None])
    writer.close()
    return ImageShards(directory)


@pytest.mark.parametrize("name", MODELS)
def test_training_improves_the_bound_of_held_out_images(
    model_config: ModelConfig, fit_config: FitConfig, tmp_path: Path, name: str
) -> None:
    train, held_out = spots(tmp_path / "train", 512, seed=0), spots(tmp_path / "held_out", 128, seed=1)
    config = replace(model_config, name=name)
    steps = replace(
        fit_config, total_images=200 * 32, global_batch_size=32, learning_rate=0.02, warmup_images=640, beta_start=1.0
    )
    torch.manual_seed(steps.seed)
    before = bound(build(config), held_out, 32, seed=0)
    after = bound(fit(config, steps, train, held_out).model, held_out, 32, seed=0)
    assert after["elbo_nats"] > before["elbo_nats"] + 40, (before, after)
    assert after["rate_nats"] > 1  # by what the latents say, not by the mean image alone


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("shape", "widths"), [((30, 32, 3), (8, 8)), ((32, 30, 3), (8, 8)), ((28, 28, 1), (8, 8, 8))])
def test_build_image_that_does_not_divide_names_the_remedy(
    shape: tuple[int, int, int], widths: tuple[int, ...], name: str
) -> None:
    with pytest.raises(ValueError, match=rf"do not divide by {2 ** len(widths)}.*base.image_size.*fit.widths"):
        build(make(shape, widths, "logistic", name))


def test_build_unknown_model_suggests_the_nearest(model_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="unknown model 'conf': did you mean 'conv'"):
        build(replace(model_config, name="conf"))


def test_build_unknown_likelihood_suggests_the_nearest(model_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="unknown likelihood 'gausian': did you mean 'gaussian'"):
        build(replace(model_config, likelihood="gausian"))
    with pytest.raises(
        ValueError, match="known are logistic, gaussian, gaussian_optimal, gaussian_fixed, logistic_mixture, bernoulli"
    ):
        build(replace(model_config, likelihood="zzz"))


def test_build_bernoulli_on_colour_is_refused(model_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match=r"base\.mode: L"):
        build(replace(model_config, image_shape=(8, 8, 3), likelihood="bernoulli"))


@pytest.mark.parametrize("name", MODELS)
def test_model_has_no_layer_that_mixes_a_batch(model_config: ModelConfig, name: str) -> None:
    model = build(replace(model_config, name=name))
    assert not [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase | nn.Dropout)]
    assert not list(model.buffers())  # no running statistics: state is parameters, which DDP keeps the same


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_model_output_of_an_image_is_independent_of_its_batch(model_config: ModelConfig, training: bool, name: str) -> None:
    model = shaken(replace(model_config, name=name)).train(training)
    x_NCHW, noise_ND = images(model_config, 6), torch.randn(6, model.latent_dim)
    other = images(model_config, 6, seed=9)
    other[2] = x_NCHW[2]
    with torch.no_grad():
        whole, beside, alone = model(x_NCHW, noise_ND), model(other, noise_ND), model(x_NCHW[2:3], noise_ND[2:3])
    for terms, row in ((beside, 2), (alone, 0)):
        torch.testing.assert_close(terms.distortion_N[row], whole.distortion_N[2], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(terms.rate_ND[row], whole.rate_ND[2], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(beside.distortion_N[1], whole.distortion_N[1])  # the rest really was another


@pytest.mark.parametrize("name", MODELS)
def test_build_same_global_seed_gives_the_same_weights(model_config: ModelConfig, name: str) -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(torch.cat([p.detach().flatten() for p in build(replace(model_config, name=name)).parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("name", ["conv", "resnet"])
def test_encode_extreme_network_output_keeps_the_terms_finite(model_config: ModelConfig, name: str) -> None:
    model = build(replace(model_config, name=name))
    for sign in (1, -1):
        model.encoder[-1].bias.data[3:] = sign * 1e6  # the log-variances
        terms = model(images(model_config, 2), torch.randn(2, 3))
        assert terms.distortion_N.isfinite().all() and terms.rate_ND.isfinite().all()


@pytest.mark.parametrize("name", NORMAL)
def test_model_with_a_vector_of_latents_has_one_posterior_whatever_is_drawn(model_config: ModelConfig, name: str) -> None:
    torch.manual_seed(0)
    model = build(replace(model_config, name=name))
    for parameter in model.parameters():  # branches that start at zero would hide what depends on what
        parameter.data += 0.05 * torch.randn_like(parameter)
    with torch.no_grad():
        observed = model.observe(images(model_config, 2))
        first, second = (model.infer(observed, value * torch.ones(2, model.latent_dim)).mean_ND for value in (0.0, 1.0))
    assert torch.equal(first, second) == model.vector_latents

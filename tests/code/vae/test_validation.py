"""validation: the bound of held-out images is a mean over images, whatever the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vae.config import ModelConfig
from vae.data import ImageShards
from vae.images import to_model_range
from vae.models import ConvVAE, build
from vae.noise import step_noise
from vae.validation import BOUND_SEED_OFFSET, bound


@pytest.fixture
def model(model_config: ModelConfig) -> ConvVAE:
    torch.manual_seed(0)
    return build(model_config)


def test_bound_equals_the_terms_written_out(model: ConvVAE, shards: ImageShards) -> None:
    # One batch holds all images: the noise is that of chunk 0.
    x_NCHW = to_model_range(torch.from_numpy(shards.slice(0, 96)))
    noise_ND = step_noise(5 + BOUND_SEED_OFFSET, 0, (96, 3), torch.device("cpu"))
    with torch.no_grad():
        mean_ND, logvar_ND = model.encode(x_NCHW)
        q = torch.distributions.Normal(mean_ND, (logvar_ND / 2).exp())
        distortion = -model.likelihood.log_prob(model.decode(q.mean + q.stddev * noise_ND), x_NCHW).double().mean()
        rate = torch.distributions.kl_divergence(q, torch.distributions.Normal(0, 1)).sum(1).double().mean()
    found = bound(model, shards, 96, seed=5)
    assert found["distortion_nats"] == pytest.approx(float(distortion), rel=1e-6)
    assert found["rate_nats"] == pytest.approx(float(rate), rel=1e-5)
    assert found["elbo_nats"] == pytest.approx(-float(distortion + rate), rel=1e-6)


def test_bound_short_last_batch_weighs_by_its_images(model: ConvVAE, shards: ImageShards) -> None:
    # The rate needs no noise, so it must be the same however the images are cut into batches: 96 = 40 + 40 + 16 = 7 x 13 + 5.
    rates = [bound(model, shards, size, seed=0)["rate_nats"] for size in (96, 40, 7, 1000)]
    np.testing.assert_allclose(rates, rates[0], rtol=1e-6)


def test_bound_is_a_function_of_its_arguments(model: ConvVAE, shards: ImageShards) -> None:
    first = bound(model, shards, 32, seed=1)
    torch.manual_seed(77)
    assert bound(model, shards, 32, seed=1) == first
    assert bound(model, shards, 32, seed=2)["distortion_nats"] != first["distortion_nats"]


def test_bound_noise_is_not_that_of_a_training_step() -> None:
    cpu = torch.device("cpu")
    assert not torch.equal(step_noise(0 + BOUND_SEED_OFFSET, 0, (4, 2), cpu), step_noise(0, 0, (4, 2), cpu))


def test_bound_leaves_the_weights_and_builds_no_graph(model: ConvVAE, shards: ImageShards) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bound(model, shards, 32, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_bound_of_known_pixels_is_the_entropy_of_the_decoder(model: ConvVAE, shards: ImageShards) -> None:
    # A decoder that says "any level, all alike" (huge scale) costs log 256 nats a pixel, minus what the two edge bins take.
    model.likelihood.log_scale.data.fill_(math.log(1e4))
    found = bound(model, shards, 32, seed=0)
    x = to_model_range(torch.from_numpy(shards.slice(0, 96)))
    edges = (x.abs() > 1 - 1 / 255).double().flatten(1).sum(1).mean()
    # Inner bins have the mass 2/255 / (4 scale); each edge bin nearly a half.
    expected = float(edges) * math.log(2) + (64 - float(edges)) * math.log(4 * 1e4 * 255 / 2)
    assert found["distortion_nats"] == pytest.approx(expected, rel=1e-3)

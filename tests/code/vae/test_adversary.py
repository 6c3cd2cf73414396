"""adversary: who moves whom, by how much, and when; a critic that learns; a training that goes on to the same bits."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from configs import fit_config, model_config
from vae.adversary import Contest, Critic
from vae.config import FitConfig
from vae.data import ImageShards
from vae.errors import NonFiniteError, StoppedError
from vae.loader import Loader
from vae.losses import Objective
from vae.models import build
from vae.models.base import Output
from vae.run import Run
from vae.trainer import fit

CPU = torch.device("cpu")
ON = fit_config(adversary_weight=0.7, feature_weight=0.3)
LIKELIHOODS = ("logistic", "logistic_mixture", "gaussian", "gaussian_optimal", "gaussian_fixed")


def _contest(config: FitConfig = ON, **changes: object) -> tuple[Contest, Tensor, Tensor]:
    """A model with its critic, images, and noise."""
    torch.manual_seed(0)
    model = build(model_config(**changes))
    rng = torch.Generator().manual_seed(1)
    shape = 5, *(model_config(**changes).image_shape[i] for i in (2, 0, 1))
    x_NCHW = torch.randint(0, 256, shape, generator=rng) / 127.5 - 1
    return Contest(model, config, shape[1]), x_NCHW, torch.randn(5, model.latent_dim, generator=rng)


def _gradients(contest: Contest, loss: Tensor) -> dict[str, Tensor]:
    contest.zero_grad()
    loss.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in contest.named_parameters()}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("name", ["conv", "ladder", "vq"])
def test_push_is_so_many_times_as_long_as_the_pull_and_in_the_direction_of_the_critic(name: str, likelihood: str) -> None:
    contest, x_NCHW, noise_ND = _contest(name=name, likelihood=likelihood, image_shape=(16, 16, 3))
    model, critic = contest.model, contest.critic
    found = contest(x_NCHW, noise_ND, contested=True)
    statistics = contest.model(x_NCHW, noise_ND).penalty
    ours = _gradients(contest, found.penalty - (0.0 if statistics is None else statistics))

    # Image by image, each with a backward pass of its own for what the decoder is to do.
    expected = {name: torch.zeros_like(p) for name, p in contest.named_parameters()}
    losses = []
    contest.zero_grad()
    for n in range(len(x_NCHW)):
        x = x_NCHW[n : n + 1]
        output = model.output_of(model.infer(model.observe(x), noise_ND[n : n + 1]))
        pull = torch.autograd.grad(-model.likelihood.log_prob(output, x).sum(), output, retain_graph=True)[0]
        features_of_real = [each.detach() for each in critic(x)[1]]
        score, features = critic(model.likelihood.mean(output))
        loss = -score.mean() + 0.3 * sum((a - b).abs().mean() for a, b in zip(features_of_real, features, strict=True))
        push = torch.autograd.grad(loss, output, retain_graph=True)[0]
        torch.autograd.backward(output, push * 0.7 * pull.norm() / push.norm())
        for key, p in model.named_parameters(prefix="model"):
            expected[key] += 0.0 if p.grad is None else p.grad
        contest.zero_grad()
        fake = critic(model.likelihood.mean(output).detach())[0]
        losses.append(F.relu(1 - critic(x)[0]).mean() + F.relu(1 + fake).mean())
        losses[-1].backward()
        for key, p in critic.named_parameters(prefix="critic"):
            expected[key] += p.grad
        contest.zero_grad()
    for part in ("model.", "critic."):
        keys = [key for key in expected if key.startswith(part)]
        largest = max(float(expected[key].abs().max()) for key in keys)
        assert largest > 0
        for key in keys:
            torch.testing.assert_close(ours[key], expected[key], rtol=2e-3, atol=1e-6 * largest)
    torch.testing.assert_close(found.critic_N, torch.stack(losses))


def test_terms_are_those_of_the_model_and_before_the_contest_the_critic_has_gradients_of_zero() -> None:
    contest, x_NCHW, noise_ND = _contest()
    plain, before, after = (
        contest.model(x_NCHW, noise_ND),
        contest(x_NCHW, noise_ND),
        contest(x_NCHW, noise_ND, contested=True),
    )
    for found in (before, after):
        torch.testing.assert_close(found.distortion_N, plain.distortion_N, rtol=0, atol=0)
        torch.testing.assert_close(found.rate_ND, plain.rate_ND, rtol=0, atol=0)
    assert before.critic_N is None
    gradients = _gradients(contest, before.penalty)
    assert all(p.grad is not None for p in contest.critic.parameters())
    assert not any(gradient.any() for gradient in gradients.values())


def test_one_image_says_nothing_of_another() -> None:
    contest, x_NCHW, noise_ND = _contest(image_shape=(16, 16, 3))
    of = lambda rows: _gradients(contest, contest(x_NCHW[rows], noise_ND[rows], contested=True).penalty)  # noqa: E731
    whole, first, second = of(slice(0, 5)), of(slice(0, 2)), of(slice(2, 5))
    for name in whole:
        torch.testing.assert_close(whole[name], first[name] + second[name], rtol=1e-3, atol=1e-5)


def test_contest_begins_after_its_share_of_the_training(shards: ImageShards) -> None:
    config = replace(ON, adversary_start_share=0.5)
    run = Run(model_config(), config, CPU, None)
    measure, half = Objective(run.model, config, CPU), config.total_images // 2
    x_NCHW, told = torch.zeros(16, 1, 8, 8), []

    def forward(*inputs: object) -> Output:
        told.append(len(inputs) > 5 and inputs[5])
        return run.trained(*inputs)

    for images_seen in (half - 1, half):
        measure(forward, x_NCHW, None, measure.draw(3, 64), images_seen)
    assert told == [False, True]
    before = [p.clone() for p in run.rival.critic.parameters()]
    run.trained(torch.zeros(2, 1, 8, 8), torch.zeros(2, 3)).penalty.backward()
    run.rival.move(half - 1)
    assert all(torch.equal(a, b) for a, b in zip(before, run.rival.critic.parameters(), strict=True))
    assert not run.rival.optimizer.state_dict()["state"]  # so that its moments are not those of zeros


def test_critic_learns_to_tell_noise_from_a_plain_image() -> None:
    torch.manual_seed(0)
    critic, plain = Critic(1, 8), torch.zeros(16, 1, 16, 16)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=2e-3)
    for _ in range(60):
        noise = torch.randn(16, 1, 16, 16)
        loss = F.relu(1 - critic(plain)[0]).mean() + F.relu(1 + critic(noise)[0]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert float(critic(plain)[0].mean()) > 0.8 and float(critic(torch.randn(64, 1, 16, 16))[0].mean()) < -0.8


def test_training_tells_the_critic_loss_and_is_cut_and_gone_on_with_to_the_same_bits(shards: ImageShards, tmp_path: Path) -> None:
    config = replace(ON, adversary_start_share=0.3, critic_learning_rate=3e-3)
    reports: list[dict[str, float]] = []
    straight = fit(
        model_config(), config, shards, shards, checkpoints=tmp_path / "a", on_report=lambda told, _: reports.append(told)
    )
    assert reports[0]["critic_loss"] == 0 and 0 < reports[-1]["critic_loss"] < 2.5
    for stop_at in (8, 24):  # before the contest has begun, and in it
        polls = iter([False] * (stop_at // 8 - 1) + [True])
        with pytest.raises(StoppedError):
            fit(model_config(), config, shards, shards, checkpoints=tmp_path / "b", should_stop=partial(next, polls))
    fit(model_config(), config, shards, shards, checkpoints=tmp_path / "b")
    last = f"step-{straight.step:08d}"
    names = [f"{name}.safetensors" for name in ("model", "ema", "optimizer", "critic", "critic_optimizer")]
    for name in names:
        assert (tmp_path / "a" / last / name).read_bytes() == (tmp_path / "b" / last / name).read_bytes()
    moved = load_file(tmp_path / "a" / last / "critic.safetensors")
    fresh = Run(model_config(), config, CPU, None).rival.critic.state_dict()
    assert all(not torch.equal(moved[name], fresh[name]) for name in fresh if name.endswith("weight"))


def test_without_weight_there_is_no_critic_and_a_critic_changes_nothing_before_it_begins(
    shards: ImageShards, tmp_path: Path
) -> None:
    plain = fit(model_config(), fit_config(), shards, shards, checkpoints=tmp_path / "plain")
    late = fit(model_config(), replace(ON, adversary_start_share=1.0), shards, shards)
    for a, b in zip(plain.model.state_dict().values(), late.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not list((tmp_path / "plain").rglob("critic*"))


def test_critic_that_is_no_number_stops_the_training_before_the_step(shards: ImageShards) -> None:
    run = Run(model_config(), ON, CPU, None)
    with torch.no_grad():
        next(run.rival.critic.parameters()).fill_(float("nan"))
    before = [p.clone() for p in run.model.parameters()]
    with pytest.raises(NonFiniteError):
        run.step(Loader(shards, ON, CPU, None))
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))


def test_model_of_two_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="not with likelihood bernoulli"):
        Contest(build(model_config(likelihood="bernoulli")), ON, 1)


@pytest.mark.parametrize("changes", [{"objective": "importance", "importance_samples": 3}, {"compile": True}])
def test_configurations_that_cannot_are_told(changes: dict[str, object]) -> None:
    assert any("adversary_weight" in message for _, message in replace(ON, **changes).problems())
    assert not replace(ON, **(changes | {"adversary_weight": 0.0})).problems()


def test_labels_are_told_to_the_model() -> None:
    contest, x_NCHW, noise_ND = _contest(classes=3)
    with torch.no_grad():
        for name, p in contest.model.named_parameters():
            if name.endswith("table"):
                p.copy_(torch.from_numpy(np.random.default_rng(0).normal(size=tuple(p.shape))))
    label_N = torch.tensor([0, 1, 2, 0, 1])
    losses = [contest(x_NCHW, noise_ND, each, contested=True).critic_N for each in (label_N, label_N.roll(1))]
    assert not torch.allclose(*losses)

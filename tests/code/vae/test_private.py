"""private: the noise is what the budget needs, no image moves the sum by more than the norm, and nobody can tell the key."""

from __future__ import annotations

import math
import stat
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from scipy import stats
from torch import Tensor

from configs import fit_config, model_config
from ranks import side_by_side
from vae import private
from vae.config import FitConfig
from vae.data import ImageShards, ShardWriter, save_labels
from vae.errors import StoppedError
from vae.loader import Loader
from vae.losses import Objective
from vae.models import build
from vae.models.base import VAE
from vae.private import KEY_FILE, Private, noise_multiplier, secret_key, spent
from vae.trainer import fit

CPU, COUNT = torch.device("cpu"), 60


@pytest.fixture
def shards(tmp_path: Path) -> ImageShards:
    writer = ShardWriter(tmp_path / "images", (8, 8, 1), 100)
    writer.add_all(np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 1)).astype(np.uint8))
    writer.close()
    save_labels(tmp_path / "images", np.arange(COUNT) % 3)
    return ImageShards(tmp_path / "images")


def config(**changes: object) -> FitConfig:
    return fit_config(**{"epsilon": 5.0, "delta": 1e-3, "sample_norm": 2.0, "beta_anneal_share": 0.0} | changes)


def summed(
    shards: ImageShards, settings: FitConfig, *, noise: float = 0.0, key: int = 1, step: int = 0, model: VAE | None = None
) -> Tensor:
    """The gradient of a step, not divided, as one vector."""
    torch.manual_seed(0)
    model = model or build(model_config())
    own = Private(model, settings, len(shards), key)
    own.noise_multiplier = noise
    own.take(step, Loader(shards, settings, CPU, None, labelled=model.classes > 0), Objective(model, settings, CPU), 0)
    return torch.cat([p.grad.flatten() for p in model.parameters()]) * settings.global_batch_size


def plain(shards: ImageShards, settings: FitConfig, indices: np.ndarray, **changes: object) -> list[Tensor]:
    """The gradient of each of the images by itself, by backward()."""
    torch.manual_seed(0)
    model, found = build(model_config(**changes)), list[Tensor]()
    objective = Objective(model, settings, CPU)
    draws = objective.draw(0, 64, len(indices))
    x_NCHW, label_N = Loader(shards, settings, CPU, None, labelled=model.classes > 0).chosen(indices, 0)
    for i in range(len(indices)):
        model.zero_grad()
        label = None if label_N is None else label_N[i : i + 1]
        loss, _ = objective(model, x_NCHW[i : i + 1], label, draws.of(slice(i, i + 1)), 0)
        loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    return found


def test_without_noise_and_cut_the_sum_is_that_of_the_images_drawn(shards):
    settings = config(sample_norm=1e6)
    indices = Private(build(model_config()), settings, COUNT, 1).drawn(0)
    assert 0 < len(indices) < COUNT
    torch.testing.assert_close(summed(shards, settings), sum(plain(shards, settings, indices)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        *(({"likelihood": name}, {}) for name in ("logistic_mixture", "gaussian", "gaussian_fixed", "bernoulli")),
        *(({"name": name, "classes": 3}, {}) for name in ("conv", "resnet", "ladder", "classifier_encoder")),
        ({}, {"objective": "importance", "importance_samples": 3}),
        ({}, {"objective": "deterministic"}),
        ({}, {"denoise_levels": 40.0, "free_bits_nats": 0.2}),
        ({"name": "ladder"}, {"memory_format": "contiguous"}),
    ],
)
def test_every_choice_that_is_allowed_has_gradients_of_single_images(shards, changes, settings):
    settings = config(sample_norm=1e6, **settings)
    torch.manual_seed(0)
    model = build(model_config(**changes))
    indices = Private(model, settings, COUNT, 1).drawn(0)
    expected = sum(plain(shards, settings, indices, **changes))
    torch.testing.assert_close(
        summed(shards, settings, model=model), expected, rtol=2e-4, atol=2e-3 * float(expected.abs().max())
    )


def test_gradients_longer_than_the_norm_are_cut_one_by_one(shards):
    settings = config()
    each = plain(shards, settings, Private(build(model_config()), settings, COUNT, 1).drawn(0))
    lengths = torch.stack([one.norm() for one in each])
    assert float(lengths.min()) > settings.sample_norm  # so all are
    expected = sum(one / one.norm() * settings.sample_norm for one in each)
    torch.testing.assert_close(summed(shards, settings), expected, rtol=1e-4, atol=1e-4)
    middle = replace(settings, sample_norm=float(lengths.median()))
    expected = sum(one * min(1.0, middle.sample_norm / float(one.norm())) for one in each)
    torch.testing.assert_close(summed(shards, middle), expected, rtol=1e-4, atol=1e-3)


def test_parts_do_not_change_the_sum(shards, monkeypatch):
    settings = config(global_batch_size=50)
    whole = summed(shards, settings)
    monkeypatch.setattr(private, "MOST_IN_PART", 7)
    torch.testing.assert_close(summed(shards, settings), whole, rtol=1e-4, atol=1e-5)


def test_image_whose_gradient_is_no_number_says_nothing(shards):
    settings = config(sample_norm=1e6)
    torch.manual_seed(0)
    model = build(model_config())
    ordinary = model.likelihood.log_prob

    def log_prob(output: Tensor, x_NCHW: Tensor) -> Tensor:
        light_N = x_NCHW.flatten(1).mean(1) > 0.05
        return ordinary(output, x_NCHW) * torch.where(light_N, torch.inf, 1.0)

    model.likelihood.log_prob = log_prob
    found = summed(shards, settings, model=model)
    assert found.isfinite().all() and float(found.norm()) > 0


def test_noise_is_normal_of_the_deviation_that_is_said(shards):
    settings = config()
    drawn = summed(shards, settings, noise=1.7) - summed(shards, settings)
    deviation = 1.7 * settings.sample_norm
    assert float(drawn.std()) == pytest.approx(deviation, rel=0.05) and len(drawn) > 2000
    assert stats.kstest(drawn.numpy() / deviation, "norm").pvalue > 1e-3
    other = summed(shards, settings, noise=1.7, key=2) - summed(shards, settings, key=2)
    assert abs(float(torch.corrcoef(torch.stack([drawn, other]))[0, 1])) < 0.1
    later = summed(shards, settings, noise=1.7, step=1) - summed(shards, settings, step=1)
    assert abs(float(torch.corrcoef(torch.stack([drawn, later]))[0, 1])) < 0.1


def test_each_image_is_drawn_by_itself_with_the_rate(shards):
    own = Private(build(model_config()), config(), COUNT, 7)
    drawn = np.zeros((4000, COUNT))
    for step in range(len(drawn)):
        drawn[step, own.drawn(step)] = 1
    rate = 16 / COUNT
    error = math.sqrt(rate * (1 - rate) / len(drawn))
    assert np.abs(drawn.mean(0) - rate).max() < 4.5 * error
    # The number of images is binomial, as it is only where each is drawn whatever the others are.
    assert drawn.sum(1).var() == pytest.approx(COUNT * rate * (1 - rate), rel=0.1)
    assert not np.array_equal(Private(build(model_config()), config(), COUNT, 8).drawn(0), own.drawn(0))


def composed_epsilon(noise: float, rate: float, steps: int, delta: float) -> float:
    """An accountant of our own: the privacy loss of a step on a fine grid, convolved with itself by a Fourier transform.

    Neighbours differ by one image: P = N(0, s^2) and Q = (1 - q) N(0, s^2) + q N(1, s^2). Both directions; the worse one counts.
    """
    cells, width = 2**18, 160.0 / 2**18
    found = []
    x = np.linspace(-12 * noise, 1 + 12 * noise, 2_000_001)
    without = stats.norm.pdf(x, 0, noise)
    mixed = (1 - rate) * without + rate * stats.norm.pdf(x, 1, noise)
    for first, second in ((mixed, without), (without, mixed)):
        loss = np.log(first / second)
        place = np.round(loss / width).astype(int) + cells // 2
        mass = np.bincount(place.clip(0, cells - 1), weights=first * (x[1] - x[0]), minlength=cells)
        transform = np.fft.rfft(np.fft.ifftshift(mass)) ** steps
        total = np.fft.fftshift(np.fft.irfft(transform, cells))
        losses = (np.arange(cells) - cells // 2) * width
        low, high = 0.0, 60.0
        for _ in range(60):
            epsilon = (low + high) / 2
            above = losses > epsilon
            over = float((total[above] * -np.expm1(epsilon - losses[above])).sum())
            low, high = (epsilon, high) if over > delta else (low, epsilon)
        found.append(high)
    return max(found)


@pytest.mark.parametrize(
    ("epsilon", "batch", "images", "steps"), [(10.0, 1024, 60_000, 600), (1.0, 1024, 60_000, 600), (3.0, 256, 20_000, 300)]
)
def test_epsilon_is_that_of_another_accountant_within_one_per_cent(epsilon, batch, images, steps):
    settings = config(epsilon=epsilon, delta=1e-5, global_batch_size=batch, total_images=batch * steps)
    told = spent(settings, images)
    assert told["steps"] == steps and told["sample_rate"] == batch / images
    assert 0.97 * epsilon < told["epsilon"] <= epsilon
    ours = composed_epsilon(told["noise_multiplier"], told["sample_rate"], steps, 1e-5)
    assert told["epsilon"] == pytest.approx(ours, rel=0.01)


def keyed(folder: Path, key: int) -> Path:
    folder.mkdir(parents=True)
    (folder / KEY_FILE).write_text(str(key))
    return folder


def trained(shards: ImageShards, checkpoints: Path, stop_after: int = 0, **changes: object) -> dict[str, Tensor]:
    steps = iter(range(1, 10_000))
    told: list[dict[str, float]] = []

    def stop() -> bool:
        return bool(stop_after) and next(steps) >= stop_after

    try:
        model = fit(
            model_config(),
            config(**changes),
            shards,
            shards,
            checkpoints=checkpoints,
            on_report=lambda t, _: told.append(t),
            should_stop=stop,
        ).model
    except StoppedError:
        return trained(shards, checkpoints, **changes)
    assert (
        told and "val_elbo_nats" in told[-1] and "elbo_nats" not in told[-1]
    )  # nor is anything else said of the images themselves
    return model.state_dict()


def test_training_that_was_stopped_goes_on_to_the_same_bits_and_another_key_to_others(shards, tmp_path):
    whole = trained(shards, keyed(tmp_path / "a", 5))
    resumed = trained(shards, keyed(tmp_path / "b", 5), stop_after=2)
    other = trained(shards, keyed(tmp_path / "c", 6))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], other[name]) for name in whole)


def test_key_is_made_once_and_readable_by_its_owner_alone(tmp_path):
    keys = {secret_key(tmp_path / "x", CPU) for _ in range(3)}
    assert len(keys) == 1
    assert stat.S_IMODE((tmp_path / "x" / KEY_FILE).stat().st_mode) == 0o600
    assert len({secret_key(None, CPU) for _ in range(5)}) == 5


def test_what_cannot_be_private_is_refused(shards):
    make = partial(Private, build(model_config()), images=COUNT, key=1)
    with pytest.raises(ValueError, match=r"delta 0.05 is not below 1 / 60"):
        make(config(delta=0.05))
    with pytest.raises(ValueError, match="global_batch_size 61 is more than the 60"):
        make(config(global_batch_size=61))


def test_smaller_budget_needs_more_noise():
    noises = [noise_multiplier(config(epsilon=epsilon), 1000) for epsilon in (1.0, 3.0, 10.0)]
    assert noises[0] > noises[1] > noises[2] > 0.3


def _rank(number: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    root = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=size)
    key = secret_key(root / "key-of-all", CPU)
    torch.save((key, summed(ImageShards(root / "images"), config(), noise=1.0, key=key)), root / f"rank-{number}.pt")
    dist.destroy_process_group()


def test_two_ranks_share_a_sample_and_its_noise(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    side_by_side(_rank, 2, str(tmp_path))
    (key, first), (other, second) = (torch.load(tmp_path / f"rank-{n}.pt", weights_only=True) for n in range(2))
    assert key == other and torch.equal(first, second)
    torch.testing.assert_close(first, summed(shards, config(), noise=1.0, key=key), rtol=1e-4, atol=1e-4)

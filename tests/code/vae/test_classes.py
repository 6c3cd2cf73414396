"""Class-conditional models: what they are told changes what they draw, and the class of every image reaches every place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import fit_config, model_config, prior_config
from vae.artefact import Generator, load_artefact, save_artefact
from vae.data import LABELS, ImageShards, ShardWriter, save_labels
from vae.loader import Loader
from vae.metrics.bounds import importance_weighted_nll
from vae.models import MODELS, build
from vae.models.base import VAE
from vae.order import stream_indices
from vae.samplers import SAMPLERS, fit_prior
from vae.samplers.by_class import ByClass
from vae.trainer import fit
from vae.validation import bound

LEVELS = np.array([40, 130, 220])  # what images of each class look like


def images_of(labels_N: np.ndarray, seed: int = 0) -> np.ndarray:
    """Flat images of their class's level, with a little noise."""
    noise = np.random.default_rng(seed).integers(-8, 9, (len(labels_N), 8, 8, 1))
    return (LEVELS[labels_N][:, None, None, None] + noise).astype(np.uint8)


def right(drawn: np.ndarray, levels: np.ndarray) -> float:
    """The share of images that are nearer to their level than to any other."""
    return float((abs(drawn.mean((1, 2, 3)) - levels) < 45).mean())


def write(folder: Path, labels_N: np.ndarray, told: bool = True) -> ImageShards:
    writer = ShardWriter(folder, (8, 8, 1), 40)
    writer.add_all(images_of(labels_N))
    writer.close()
    if told:
        save_labels(folder, labels_N)
    return ImageShards(folder)


@pytest.fixture
def levels(tmp_path: Path) -> ImageShards:
    """120 images; half of them are of class 2."""
    return write(tmp_path / "levels", np.array([0, 1, 2, 2])[np.arange(120) % 4])


def conditional(name: str) -> VAE:
    torch.manual_seed(0)
    return build(model_config(name=name, classes=3, likelihood="gaussian_fixed"))


def inputs(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 1, 8, 8, generator=generator) * 2 - 1, torch.arange(count) % 3


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_untrained_model_is_the_one_without_classes(name: str) -> None:
    x_NCHW, label_N = inputs()
    told = conditional(name)
    torch.manual_seed(0)
    untold = build(model_config(name=name, likelihood="gaussian_fixed"))
    noise_ND = torch.randn(6, told.latent_dim)
    ours, theirs = told(x_NCHW, noise_ND, label_N), untold(x_NCHW, noise_ND)
    assert torch.equal(ours.distortion_N, theirs.distortion_N) and torch.equal(ours.rate_ND, theirs.rate_ND)


@pytest.mark.parametrize("name", MODELS)
def test_model_with_classes_that_is_not_told_them_says_so(name: str) -> None:
    x_NCHW, _ = inputs()
    model = conditional(name)
    for ask in (lambda: model(x_NCHW, torch.zeros(6, model.latent_dim)), lambda: model.decode(torch.zeros(6, model.latent_dim))):
        with pytest.raises(ValueError, match="class-conditional: give the class number of every image"):
            ask()


@pytest.mark.parametrize("name", MODELS)
def test_each_class_is_a_row_that_learns_from_its_own_images_alone(name: str) -> None:
    x_NCHW, _ = inputs()
    model = conditional(name)
    for p in model.parameters():  # what is silent at first would pass no gradient on
        p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2))
    terms = model(x_NCHW, torch.randn(6, model.latent_dim), torch.tensor([0, 2, 0, 2, 2, 0]))
    (terms.distortion_N.sum() + terms.rate_ND.sum()).backward()
    tables = [p.grad for key, p in model.named_parameters() if key.endswith(".table")]
    assert tables and all((grad.abs().amax(1) > 0).tolist() == [True, False, True] for grad in tables)


@pytest.mark.parametrize("name", MODELS)
def test_decoded_latents_of_the_posterior_are_its_output_given_the_class(name: str) -> None:
    x_NCHW, label_N = inputs()
    model = conditional(name)
    for p in model.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found = model.infer(model.observe(x_NCHW, label_N), torch.randn(6, model.latent_dim))
        decoded = model.decode(found.z_ND, label_N)
        if found.output_NCHW is not None:
            torch.testing.assert_close(decoded, found.output_NCHW, rtol=1e-4, atol=1e-4)
        other = model.decode(found.z_ND, (label_N + 1) % 3)
    assert ((decoded - other).abs().amax((1, 2, 3)) > 1e-3).sum() >= 4  # of 6: a code may be the same


@pytest.mark.parametrize("name", MODELS)
def test_trained_model_draws_the_class_that_it_is_asked_for(name: str, levels: ImageShards, tmp_path: Path) -> None:
    model = model_config(name=name, classes=3, likelihood="gaussian_fixed", sigma=0.3, latent_dim=2)
    config = fit_config(total_images=200 * 16, beta_anneal_share=0.0, learning_rate=5e-3, clip_norm=1e6, exactness="off")
    fitted = fit(model, config, levels, levels).model
    images, label_N = levels.labelled(len(levels))
    prior = fit_prior(fitted, images, prior_config(name="mixture" if fitted.vector_latents else "normal"), 0, label_N)
    generator = Generator(fitted, model, prior, {})
    for number, level in enumerate(LEVELS):
        drawn = generator.sample(20, seed=1, label_N=torch.full((20,), number))
        assert right(drawn, level) >= 0.75  # a third, were it not told
    drawn, asked_N = generator.sample(300, seed=2), generator.classes(300, seed=2)
    assert right(drawn, LEVELS[asked_N.numpy()]) >= 0.8
    assert torch.bincount(asked_N)[2] / 300 == pytest.approx(0.5, abs=0.1)

    lied = write(tmp_path / "lied", (levels.labels_N + 1) % 3)  # images follow their labels ...
    save_labels(tmp_path / "lied", levels.labels_N)  # ... but are told others
    honest, misled = bound(fitted, levels, 16, 0), bound(fitted, ImageShards(tmp_path / "lied"), 16, 0)
    assert honest["elbo_nats"] > misled["elbo_nats"] + 5 and len(lied) == len(levels)
    x_NCHW = torch.from_numpy(images[:8]).permute(0, 3, 1, 2) / 127.5 - 1
    true_N = importance_weighted_nll(fitted, x_NCHW, 8, 0, label_N[:8])
    assert true_N.mean() < importance_weighted_nll(fitted, x_NCHW, 8, 0, (label_N[:8] + 1) % 3).mean()


@pytest.mark.parametrize("kind", SAMPLERS)
def test_every_class_has_its_density_and_small_ones_that_of_all(kind: str, tmp_path: Path) -> None:
    label_N = torch.tensor([0] * 300 + [1] * 100 + [2] * 5)
    z_ND = torch.randn(405, 2, generator=torch.Generator().manual_seed(0)) * 0.2 + torch.tensor([[-3.0], [3.0], [9.0]])[label_N]
    found = ByClass.fit(SAMPLERS[kind], z_ND, label_N, 3, prior_config(name=kind, mixture_components=1, steps=300), 0)
    assert found.name == kind and found.shares_K.tolist() == pytest.approx([300 / 405, 100 / 405, 5 / 405])
    asked_N = torch.tensor([1, 0, 2, 0, 1]).repeat(200)
    drawn_ND = found.sample(asked_N, torch.Generator().manual_seed(1))
    assert drawn_ND.shape == (1000, 2)
    if kind != "normal":
        means = [drawn_ND[asked_N == k].mean().item() for k in range(3)]
        assert means == pytest.approx([-3, 3, z_ND.mean().item()], abs=0.6)
    again = ByClass.load(SAMPLERS[kind], found.tensors)
    assert torch.equal(again.sample(asked_N, torch.Generator().manual_seed(1)), drawn_ND)
    counts = torch.bincount(found.classes(4000, torch.Generator().manual_seed(2)), minlength=3) / 4000
    assert counts.tolist() == pytest.approx([300 / 405, 100 / 405, 5 / 405], abs=0.03)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_artefact_keeps_the_classes(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config, label_N = model_config(classes=3), torch.arange(200) % 3
    model = build(config)
    for p in model.parameters():
        p.data += 0.1 * torch.randn(p.shape)
    # 200 latents of 3: 66 of each class are enough for one density each, 4 would not be.
    prior = ByClass.fit(SAMPLERS[kind], torch.randn(200, 3), label_N, 3, prior_config(name=kind), 0)
    (tmp_path / "artefact").mkdir()
    original = Generator(model, config, prior, {"labels": ["a", "b", "c"]})
    save_artefact(tmp_path / "artefact", original)
    loaded = load_artefact(tmp_path / "artefact")
    assert loaded.config == config and loaded.prior.name == kind
    np.testing.assert_array_equal(loaded.sample(9, 3, 0.8), original.sample(9, 3, 0.8))
    asked_N = torch.tensor([2, 2, 0])
    drawn = loaded.sample(3, 5, label_N=asked_N)
    np.testing.assert_array_equal(drawn, original.sample(3, 5, label_N=asked_N))
    assert (drawn[2] != loaded.sample(3, 5, label_N=torch.tensor([2, 2, 1]))[2]).any()
    images, labels = images_of(label_N.numpy()), label_N
    np.testing.assert_array_equal(loaded.reconstruct(images, labels), original.reconstruct(images, labels))
    with pytest.raises(ValueError, match="class-conditional"):
        loaded.encode(images)
    with pytest.raises(ValueError, match="class-conditional"):
        loaded.latents(3, 0)


def test_labels_lie_beside_the_shards_and_follow_their_images(tmp_path: Path) -> None:
    first, second = np.arange(50) % 3, np.full(7, 2)
    write(tmp_path / "a", first)
    write(tmp_path / "b", second)
    both = ImageShards(tmp_path / "a", tmp_path / "b")
    np.testing.assert_array_equal(both.labels_N, np.concatenate([first, second]))
    rows = np.array([49, 0, 56, 7])
    np.testing.assert_array_equal(both.gather(rows), np.concatenate([images_of(first), images_of(second)])[rows])
    assert both.labels(rows).tolist() == [1, 0, 2, 1]
    images, label_N = both.labelled(5)
    np.testing.assert_array_equal(images, both.spread(5))
    assert label_N.tolist() == both.labels_N[both.places(5)].tolist()


def test_images_of_which_some_have_no_labels_have_none(tmp_path: Path) -> None:
    write(tmp_path / "a", np.arange(50) % 3)
    write(tmp_path / "b", np.zeros(7, np.int64), told=False)
    mixed = ImageShards(tmp_path / "a", tmp_path / "b")
    assert mixed.labels_N is None and mixed.labels(np.array([0])) is None and mixed.labelled(3)[1] is None


def test_labels_of_another_number_of_images_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", np.arange(50) % 3)
    np.save(tmp_path / "a" / LABELS, np.zeros(49, np.int32))
    with pytest.raises(ValueError, match="49 labels of 50 images"):
        ImageShards(tmp_path / "a")


def test_loader_gives_the_label_of_every_row(levels: ImageShards) -> None:
    loader = Loader(levels, fit_config(), torch.device("cpu"), None, labelled=True)
    for step in (0, 9, 3):
        _, label_N = loader.batch(step, slice(2, 12))
        expected = levels.labels_N[stream_indices(120, fit_config().seed, 16 * step + 2, 16 * step + 12)]
        assert label_N.tolist() == expected.tolist()


@pytest.mark.parametrize("wrong", [None, -1, 3])
def test_fit_refuses_images_without_a_class_of_the_model(levels: ImageShards, tmp_path: Path, wrong: int | None) -> None:
    labels_N = levels.labels_N.copy()
    if wrong is None:
        (tmp_path / "levels" / LABELS).unlink()
    else:
        labels_N[5] = wrong
        save_labels(tmp_path / "levels", labels_N)
    count = 120 if wrong is None else 1
    with pytest.raises(ValueError, match=f"{count} of 120 images have none of the 3 classes"):
        fit(model_config(classes=3), fit_config(), levels, ImageShards(tmp_path / "levels"))


def test_importance_samples_of_an_image_are_told_its_class(levels: ImageShards) -> None:
    """A model whose output is its class alone: with labels out of step the bound could not come near the noise's."""
    model = model_config(classes=3, likelihood="gaussian_fixed", sigma=0.3)
    config = fit_config(objective="importance", importance_samples=3, total_images=200 * 16, learning_rate=5e-3, clip_norm=1e6)
    fitted = fit(model, replace(config, beta_anneal_share=0.0), levels, levels).model
    images, label_N = levels.labelled(len(levels))
    generator = Generator(fitted, model, fit_prior(fitted, images, prior_config(), 0, label_N), {})
    drawn = generator.sample(60, seed=1, label_N=torch.arange(60) % 3)
    assert right(drawn, LEVELS[np.arange(60) % 3]) >= 0.9

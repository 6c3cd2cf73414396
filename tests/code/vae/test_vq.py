"""vq: its cells are its prior, its book the means of what chose each code, its bound a sum over codes; dead codes come back."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from configs import fit_config, model_config
from vae.artefact import Generator, load_artefact, save_artefact
from vae.config import ModelConfig
from vae.data import ImageShards
from vae.metrics.bounds import importance_weighted_nll
from vae.models import build, problem, vq
from vae.models.causal import CausalPrior
from vae.models.codebook import Codebook
from vae.models.vq import LEAST, VectorQuantisedVAE, cells, middle_out
from vae.optim import learned
from vae.samplers.normal import Normal
from vae.statistics import DECAY, follow
from vae.trainer import fit


def config(**changes) -> ModelConfig:
    return model_config(**({"name": "vq", "latent_dim": 2, "codes": 6} | changes))


def shaken(of: ModelConfig, size: float = 0.3) -> VectorQuantisedVAE:
    torch.manual_seed(0)
    model = build(of)
    for p in learned(model):
        p.data += size * torch.randn(p.shape)
    return model.eval()


def images(count: int) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def entered(model: VectorQuantisedVAE, z_ND: Tensor) -> Tensor:
    """The numbers of the codes that the decoder gets for latents, (N, P)."""
    seen: list[Tensor] = []
    hook = model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.decode(z_ND)
    hook.remove()
    rows_NPZ = seen[0].permute(0, 2, 3, 1).reshape(len(z_ND), model.latent_dim, -1)
    return model.book.nearest(rows_NPZ)


def prior_of(model: VectorQuantisedVAE, index_NP: Tensor) -> Tensor:
    """The prior's logits of a model without classes."""
    return model.prior(index_NP, model.prior.begin(len(index_NP), None))


@torch.no_grad()
def test_rate_is_that_of_the_codes_under_the_prior_whose_mass_is_one() -> None:
    model = shaken(config(codes=3, latent_dim=1))  # 2x2 places: 81 sequences
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    mass = (1 - LEAST) * torch.softmax(prior_of(model, every).double(), -1) + LEAST / 3
    log_mass = mass.gather(2, every[..., None])[..., 0].log().sum(1)
    assert float(log_mass.exp().sum()) == pytest.approx(1, abs=1e-9) and log_mass.std() > 0.1
    terms = model(images(5), torch.randn(5, 4))
    index_NP = model.book.nearest(model.observe(images(5))[0])
    expected = torch.stack([log_mass[(every == row).all(1)][0] for row in index_NP])
    torch.testing.assert_close(terms.rate_ND.sum(1).double(), -expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(terms.log_weight_N(), -terms.distortion_N - terms.rate_ND.sum(1))


@torch.no_grad()
@pytest.mark.parametrize("noise", [-4.0, -1.0, 0.0, 2.0, 4.0])
def test_numbers_of_a_posterior_decode_to_its_codes(noise: float) -> None:
    model = shaken(config(codes=50, latent_dim=3))
    observed = model.observe(images(20))
    found = model.infer(observed, torch.full((20, model.latent_dim), noise))
    index_NP = model.book.nearest(observed[0])
    assert len(index_NP.unique()) > 5
    assert torch.equal(entered(model, found.z_ND), index_NP)
    torch.testing.assert_close(found.output_NCHW, model.decode(found.z_ND))


@torch.no_grad()
def test_numbers_of_a_few_images_at_a_time_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shaken(config())
    observed, noise = model.observe(images(7)), torch.randn(7, model.latent_dim)
    whole = model.infer(observed, noise)
    monkeypatch.setattr(vq, "CELLS_AT_ONCE", 3 * 8 * 6)  # three of the seven images
    few = model.infer(observed, noise)
    assert (
        torch.equal(few.z_ND, whole.z_ND)
        and torch.equal(few.mean_ND, whole.mean_ND)
        and torch.equal(few.logvar_ND, whole.logvar_ND)
    )


@torch.no_grad()
def test_posterior_numbers_are_normal_within_their_cells() -> None:
    # Over all draws of a cell of mass m its numbers have the density of N(0, 1) divided by m: KL to N(0, 1) is -log m.
    model = shaken(config(codes=4, latent_dim=1))
    observed = tuple(each.expand(20_000, *each.shape[1:]) for each in model.observe(images(1)))
    found = model.infer(observed, torch.randn(20_000, 4))
    for place in range(4):
        below = torch.special.ndtr(found.z_ND[:, place].double())
        low, high, mass = below.min(), below.max(), math.exp(-found.rate_ND()[0, place])
        assert float(high - low) == pytest.approx(mass, rel=0.01)
        assert float(below.mean()) == pytest.approx(float(low + high) / 2, abs=0.02 * mass)
        spread = torch.exp(0.5 * found.logvar_ND[0, place])
        assert 0.5 < float(found.z_ND[:, place].std() / spread) < 2


@torch.no_grad()
def test_normal_numbers_are_codes_in_the_proportions_of_the_prior() -> None:
    model = shaken(config(codes=5, latent_dim=1))
    drawn = entered(model, torch.randn(40_000, 4))
    mass = cells(prior_of(model, drawn[:1]))[1][0, 0]
    order = cells(prior_of(model, drawn[:1]))[0][0, 0]
    share = torch.bincount(drawn[:, 0], minlength=5)[order] / 40_000
    assert mass.max() - mass.min() > 0.05
    torch.testing.assert_close(share.double(), mass, atol=0.01, rtol=0)
    likely = (1 - LEAST) * torch.softmax(prior_of(model, drawn).double(), -1) + LEAST / 5
    given = likely[:, 3].gather(1, drawn[:, 3:4])[:, 0]  # E[1 / p(k_3 | k_<3)] over draws is the number of codes
    assert float((1 / given).mean()) == pytest.approx(5, rel=0.05)


@torch.no_grad()
def test_temperature_0_draws_the_most_probable_codes() -> None:
    model = shaken(config(codes=9))
    drawn = entered(model, torch.zeros(1, model.latent_dim))
    assert torch.equal(prior_of(model, drawn).argmax(2), drawn)


@pytest.mark.parametrize("codes", [2, 3, 8, 9])
def test_middle_out_has_every_rank_once_and_the_first_in_the_middle(codes: int) -> None:
    order = middle_out(codes).tolist()
    assert sorted(order) == list(range(codes)) and abs(order.index(0) - (codes - 1) / 2) <= 0.5
    mass = torch.tensor([0.6] + [0.4 / (codes - 1)] * (codes - 1))
    edges = torch.cat([torch.zeros(1), mass[order].cumsum(0)])
    assert edges[order.index(0)] < 0.5 < edges[order.index(0) + 1] + 1e-6


@torch.no_grad()
def test_prior_of_a_place_knows_the_codes_before_it_alone_and_one_by_one_gives_the_same() -> None:
    torch.manual_seed(0)
    prior = CausalPrior(codes=7, places=6, channels=32, layers=2, classes=2)
    for p in prior.parameters():
        p.data += 0.2 * torch.randn(p.shape)
    index_NP = torch.randint(0, 7, (3, 6))
    first_N1C = prior.begin(3, torch.tensor([1, 0, 1]))
    whole = prior(index_NP, first_N1C)
    for place in range(6):
        other = index_NP.clone()
        other[:, place] = (other[:, place] + 1) % 7
        changed = (prior(other, first_N1C) - whole).abs().amax((0, 2)) > 1e-6
        assert changed.tolist() == [p > place for p in range(6)]
    cache: list = []
    for place in range(6):
        logits = prior.next(prior.code(index_NP[:, place - 1])[:, None] if place else first_N1C, place, cache)
        torch.testing.assert_close(logits, whole[:, place], rtol=1e-4, atol=1e-5)
    assert not torch.equal(prior(index_NP, prior.begin(3, torch.tensor([0, 0, 1])))[0], whole[0])


def taught(book: Codebook, batches: list[Tensor]) -> None:
    for step, h_NPZ in enumerate(batches, start=10_001):  # long after the start
        book.zero_grad()
        (book.statistics_loss(h_NPZ, book.nearest(h_NPZ)) / len(h_NPZ)).backward()
        follow(book.statistics, step)


def test_book_is_the_moving_mean_of_what_chose_each_code() -> None:
    torch.manual_seed(0)
    book = Codebook(codes=3, size=2, places=4)
    counts, sums = book.counts_K.detach().numpy().copy(), book.sums_KZ.detach().numpy().copy()
    batches = [torch.randn(8, 4, 2) for _ in range(5)]
    taught(book, batches)
    for h in batches:  # the paper's appendix, by hand
        rows, codes = h.reshape(-1, 2).numpy(), sums / counts[:, None]
        chosen = ((rows[:, None] - codes[None]) ** 2).sum(2).argmin(1)
        counts = DECAY * counts + (1 - DECAY) * np.bincount(chosen, minlength=3) / 8
        sums = DECAY * sums + (1 - DECAY) * np.stack([rows[chosen == k].sum(0) for k in range(3)]) / 8
    np.testing.assert_allclose(book.counts_K.detach(), counts, rtol=1e-4)
    np.testing.assert_allclose(book.codes_KZ(), sums / counts[:, None], rtol=1e-4, atol=1e-5)


def test_dead_codes_come_back_where_vectors_are_badly_told() -> None:
    """Ten tight clusters, ten codes of which nine start where nothing is: in the end there is one for each."""
    torch.manual_seed(0)
    centres = 4 * torch.randn(10, 3)
    book = Codebook(codes=10, size=3, places=20)
    book.sums_KZ.data = book.counts_K.data[:, None] * (100 + torch.randn(10, 3))
    for step in range(400):
        h_NPZ = centres[torch.randint(0, 10, (16, 20))] + 0.05 * torch.randn(16, 20, 3)
        book.zero_grad()
        (book.statistics_loss(h_NPZ, book.nearest(h_NPZ)) / 16).backward()
        follow(book.statistics, step)
        book.revive(step)
    distances = torch.cdist(centres, book.codes_KZ())
    assert distances.min(1).values.max() < 0.5, distances.min(1).values
    h_NPZ = centres.repeat(2, 1)[None]
    assert len(book.nearest(h_NPZ).unique()) >= 9


def test_gradient_passes_the_codes_as_if_they_were_the_vectors() -> None:
    model = shaken(config())
    h_NPZ, first_N1C = (each.detach().requires_grad_() for each in model.observe(images(2)))
    entering: list[Tensor] = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]) or inputs[0].retain_grad())
    found = model.infer((h_NPZ, first_N1C), torch.randn(2, model.latent_dim))
    found.output_NCHW.square().sum().backward()
    expected = entering[0].grad.permute(0, 2, 3, 1).reshape(h_NPZ.shape)
    torch.testing.assert_close(h_NPZ.grad, expected)
    assert expected.abs().max() > 0


def test_micro_batches_and_shards_give_the_book_of_the_whole_batch(shards: ImageShards) -> None:
    books = []
    for changes in ({}, {"micro_batch_size": 4}, {"exactness": "elastic", "virtual_shards": 4}):
        fitted = fit(config(), fit_config(total_images=160, beta_start=1.0, **changes), shards, shards)
        books.append(fitted.model.book.codes_KZ())
    for other in books[1:]:
        torch.testing.assert_close(other, books[0], rtol=0.02, atol=0.02)


@torch.no_grad()
def test_bound_does_not_depend_on_the_draw_within_the_cells() -> None:
    model, x_NCHW = shaken(config()), images(6)
    values = [importance_weighted_nll(model, x_NCHW, samples, seed=0) for samples in (1, 20)]
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-3)


def test_vq_saved_and_loaded_gives_identical_images(tmp_path: Path) -> None:
    of = config()
    model, prior = shaken(of), Normal({"latent_dim": torch.tensor(8)})
    original = Generator(model, of, prior, {})
    save_artefact(tmp_path, original)
    loaded = load_artefact(tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)
    np.testing.assert_array_equal(loaded.sample(4, seed=2), original.sample(4, seed=2))
    np.testing.assert_array_equal(loaded.reconstruct(pictures), original.reconstruct(pictures))
    assert torch.equal(loaded.rate_per_dim(pictures), original.rate_per_dim(pictures))


def test_vq_with_more_codes_than_can_be_drawn_is_refused_with_the_remedy() -> None:
    reason = str(problem(config(image_shape=(256, 256, 3), widths=(8,))))
    assert "32768 codes of an image" in reason and "fit.widths" in reason and "base.image_size" in reason
    assert problem(replace(config(), image_shape=(64, 64, 3), widths=(8, 8, 8))) is None

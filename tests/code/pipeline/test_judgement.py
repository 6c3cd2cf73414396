"""judgement: slices, extremes, copies and intervals of planted images whose answers are known; and the gate on the doctor's word."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.assessment import _finite
from pipeline.doctor import HEALTHY, Finding
from pipeline.errors import TrainingFailedError
from pipeline.evaluate import _healthy
from pipeline.judgement import SHOWN, extremes, intervals, remembered, slices
from pipeline.scores import Featured
from vae.data import ImageShards, ShardWriter
from vae.metrics.frechet import frechet_distance, moments
from vae.pictures import GAP_PIXELS, ZOOM

SIDE = 4
NETWORK = SimpleNamespace(features=lambda images: torch.as_tensor(images).flatten(1).double())


def noise(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 1)).astype(np.uint8)


def shards(folder, images: np.ndarray) -> ImageShards:
    writer = ShardWriter(folder, images.shape[1:], 100)
    writer.add_all(images)
    writer.close()
    return ImageShards(folder)


def tile(path, row: int, column: int) -> np.ndarray:
    """The image at a place of a picture that ``grid`` made."""
    step, gap = (SIDE + GAP_PIXELS) * ZOOM, GAP_PIXELS * ZOOM
    left, top = column * step + gap, row * step + gap
    return np.asarray(Image.open(path).crop((left, top, left + SIDE * ZOOM, top + SIDE * ZOOM)))[::ZOOM, ::ZOOM]


def test_copies_among_the_samples_are_counted_and_shown_first_above_their_originals(tmp_path):
    training, unseen = noise(700, 0), noise(300, 1)
    drawn = noise(300, 2)
    drawn[40:100] = training[600:660]
    found = remembered(
        Featured.by(NETWORK, drawn), Featured.by(NETWORK, unseen), NETWORK, shards(tmp_path, training), "L", tmp_path / "p.png"
    )
    assert found["near_share"] == pytest.approx(0.2 + 0.8 * 0.05, abs=0.05)
    for column in range(SHOWN):
        sample, original = (tile(tmp_path / "p.png", row, column) for row in (0, 1))
        np.testing.assert_array_equal(sample, original)
        assert any((original == image[..., 0]).all() for image in training[600:660])
    assert any((tile(tmp_path / "p.png", 2, 0) == image[..., 0]).all() for image in unseen)
    assert any((tile(tmp_path / "p.png", 3, 0) == image[..., 0]).all() for image in training)


def test_share_of_near_samples_needs_images(tmp_path, caplog):
    drawn, few = (Featured.by(NETWORK, noise(count, seed)) for count, seed in ((300, 2), (100, 1)))
    found = remembered(drawn, few, NETWORK, shards(tmp_path, noise(50, 0)), "L", tmp_path / "p.png")
    assert found == {"near_share": None} and "no near_share" in caplog.text and (tmp_path / "p.png").exists()


def test_slices_are_means_by_label_the_worst_bound_first():
    terms_N2 = torch.tensor([[10.0, 1.0], [30.0, 3.0], [50.0, 5.0], [20.0, 2.0]], dtype=torch.float64)
    test = pd.DataFrame({"label": ["bee", "ape", "ape", ""], "path": ["a/1.png", "b/1.png", "b/2.png", "3.png"]})
    table = slices(test, terms_N2, torch.tensor([20.0, 30.0, 40.0, 50.0]))
    assert set(table["by"]) == {"label"}  # the folders say the same
    assert list(table["name"]) == ["ape", "", "bee"] and list(table["images"]) == [2, 1, 1]
    assert list(table["elbo_nats"]) == [-44, -22, -11] and list(table["psnr_db"]) == [35, 50, 20]
    assert list(table["distortion_nats"] + table["rate_nats"]) == list(-table["elbo_nats"])


def test_slices_by_folder_are_those_of_the_images_sources():
    terms_N2 = torch.tensor([[10.0, 1.0], [30.0, 3.0], [50.0, 5.0], [20.0, 2.0]], dtype=torch.float64)
    test = pd.DataFrame({"label": ["x", "y", "x", "y"], "path": ["scan/x/1.png", "web/y/1.png", "web/x/2.png", "web/y/3.png"]})
    table = slices(test, terms_N2, torch.tensor([20.0, 30.0, 40.0, 50.0]))
    folders = table[table["by"] == "folder"]
    assert list(folders["name"]) == ["web/x", "web/y", "scan/x"] and list(folders["images"]) == [1, 2, 1]
    assert list(folders["elbo_nats"]) == [-55, -27.5, -11]


def test_extremes_are_the_worst_copies_and_the_likeliest_images_above_their_copies(tmp_path):
    images, copies = noise(40, 0), noise(40, 1)
    psnr_N, terms_N2 = torch.arange(40.0).flip(0), torch.stack([torch.arange(40.0), torch.zeros(40)], 1)
    extremes(images, copies, psnr_N, terms_N2, "L", tmp_path)
    for name, first in (("worst", 39), ("typical", 0)):
        np.testing.assert_array_equal(tile(tmp_path / f"{name}.png", 0, 0), images[first, ..., 0])
        np.testing.assert_array_equal(tile(tmp_path / f"{name}.png", 1, 0), copies[first, ..., 0])
    np.testing.assert_array_equal(tile(tmp_path / "worst.png", 0, SHOWN - 1), images[40 - SHOWN, ..., 0])


def test_intervals_hold_their_scores_and_leave_out_what_there_is_not():
    generator = torch.Generator().manual_seed(0)
    terms_N2, psnr_N, nll_N = torch.rand(400, 2, generator=generator), torch.rand(400, generator=generator), torch.rand(50)
    features = torch.randn(400, 3, generator=generator), torch.randn(400, 3, generator=generator) + 1
    fcd = frechet_distance(*map(moments, features))
    found = intervals({"fcd": fcd}, terms_N2, psnr_N, nll_N, features, 0)
    for name, value in (("elbo_nats", -terms_N2.sum(1).mean()), ("psnr_db", psnr_N.mean()), ("nll_nats", nll_N.mean())):
        assert found[name][0] < value < found[name][1]
    assert found["fcd"][0] < fcd < found["fcd"][1]
    assert set(intervals({"fcd": None}, terms_N2, psnr_N, nll_N, features, 0)) == {"elbo_nats", "psnr_db", "nll_nats"}


@pytest.mark.parametrize("asked", [True, False])
def test_faulty_model_is_refused_where_parameters_ask_for_a_healthy_one(asked):
    values = SimpleNamespace(evaluate=SimpleNamespace(must_be_healthy=asked))
    _healthy([Finding(HEALTHY, "fine", "")], values)
    faulty = [Finding("collapsed", "rate 0", "train.beta"), Finding("prior hole", "FCD 9", "fit.prior")]
    if asked:
        with pytest.raises(
            TrainingFailedError, match=r"collapsed .rate 0.: change train.beta; prior hole .FCD 9.: change fit.prior"
        ):
            _healthy(faulty, values)
    else:
        _healthy(faulty, values)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_model_whose_bound_or_prior_is_no_number_is_refused(value):
    good = torch.ones(3, 2, dtype=torch.float64)
    generator = SimpleNamespace(prior=SimpleNamespace(name="flow", tensors={"a": torch.zeros(2), "b": torch.zeros(2)}))
    _finite(generator, good)
    bad = good.clone()
    bad[1, 0] = value
    with pytest.raises(TrainingFailedError, match=r"the bound of 1 of 3 test images is not finite"):
        _finite(generator, bad)
    generator.prior.tensors["b"][1] = value
    with pytest.raises(TrainingFailedError, match=r"the fitted prior flow is not finite \(b\)"):
        _finite(generator, good)

"""known: the nearest training images, by a plain computation beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saved import saved_model
from vae.artefact import load_artefact, save_artefact
from vae.known import Known

KNOWN_KD = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [0.0, 1.0]])


def test_nearest_come_in_the_order_of_their_distance_and_equal_ones_as_given():
    found = Known(["a", "b", "ĉ", "d"], KNOWN_KD).nearest(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), 9)
    assert found["name"].tolist() == [["a", "ĉ", "d", "b"], ["b", "ĉ", "d", "a"]]
    np.testing.assert_allclose(found["distance"], [[0, 1, 1, 5], [0, 18**0.5, 18**0.5, 5]])


def test_nearest_of_many_are_those_of_numpy():
    generator = torch.Generator().manual_seed(0)
    known_KD, asked_ND = torch.randn(500, 7, generator=generator) + 1000, torch.randn(150, 7, generator=generator) + 1000
    found = Known([str(i) for i in range(500)], known_KD).nearest(asked_ND, 10)
    away = np.linalg.norm(asked_ND.numpy()[:, None].astype(float) - known_KD.numpy()[None].astype(float), axis=2)
    np.testing.assert_array_equal(found["name"].astype(int), away.argsort(1)[:, :10])
    np.testing.assert_allclose(found["distance"], np.sort(away, 1)[:, :10], rtol=1e-12)


def test_a_training_image_is_its_own_nearest(tmp_path):
    generator = saved_model(tmp_path / "m")
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3)).astype(np.uint8)  # those of saved_model
    found = generator.nearest(images, count=2)
    assert found["name"][:, 0].tolist() == [f"{i:02d}.png" for i in range(60)]
    assert (found["distance"][:, 0] == 0).all() and (found["distance"][:, 1] > 0).all()


def test_model_that_knows_no_images_says_so(tmp_path):
    of = saved_model(tmp_path / "m")
    (tmp_path / "none").mkdir()
    of.known = None
    save_artefact(tmp_path / "none", of)
    with pytest.raises(ValueError, match=r"train\.known_images 0"):
        load_artefact(tmp_path / "none").nearest(np.zeros((1, 8, 8, 3), np.uint8))


def test_names_without_latents_are_refused():
    with pytest.raises(ValueError, match="3 names"):
        Known(["a", "b", "c"], KNOWN_KD)

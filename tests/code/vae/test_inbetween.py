"""inbetween: the given frames stay to the bit, new ones lie on the way, and what the model cannot draw is carried over."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saved import saved_model
from vae.inbetween import inbetween


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    found = saved_model(tmp_path_factory.mktemp("film") / "m")
    with torch.no_grad():  # random weights draw images that hardly differ
        next(found.model.decoder.parameters()).mul_(8)
    return found


@pytest.fixture(scope="module")
def film(generator) -> np.ndarray:
    noise = np.random.default_rng(0).integers(-40, 40, (5, 8, 8, 3))
    return np.clip(generator.sample(5, 3).astype(int) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("frames", [1, 3])
def test_given_frames_stay_and_new_ones_are_between(generator, film, frames):
    found, steps = inbetween(generator, film, frames), frames + 1
    assert found.shape == (4 * steps + 1, 8, 8, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found[::steps], film)
    z_ND = generator.encode(film)[0]
    lost = film.astype(float) - generator.decode(z_ND)
    for pair in range(4):
        for step in range(1, steps):
            t = step / steps
            drawn = generator.decode(((1 - t) * z_ND[pair] + t * z_ND[pair + 1])[None])[0]
            expected = drawn + (1 - t) * lost[pair] + t * lost[pair + 1]
            assert np.abs(found[pair * steps + step] - expected.clip(0, 255)).max() <= 1.01


def test_redrawn_film_is_the_decoder_along_the_way(generator, film):
    found, z_ND = inbetween(generator, film, 1, redraw=True), generator.encode(film)[0]
    assert np.abs(found[::2].astype(int) - generator.decode(z_ND)).max() <= 1
    assert np.abs(found[1::2].astype(int) - generator.decode((z_ND[1:] + z_ND[:-1]) / 2)).max() <= 1


def test_what_stands_still_stays_as_it_is(generator, film):
    still = film[:1].repeat(3, 0)
    np.testing.assert_array_equal(inbetween(generator, still, 2), still[:1].repeat(7, 0))


def test_film_of_a_class_keeps_it(tmp_path):
    model = saved_model(tmp_path / "k", classes=3)
    for parameter in model.model.parameters():  # before training a model does not look at the class
        parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    frames = model.sample(3, 1, label_N=torch.tensor([2, 2, 2]))
    found = inbetween(model, frames, 1, torch.tensor([2, 2, 2]))
    np.testing.assert_array_equal(found[::2], frames)
    assert (
        inbetween(model, frames, 1, torch.tensor([0, 0, 0]), redraw=True)
        != inbetween(model, frames, 1, torch.tensor([2, 2, 2]), redraw=True)
    ).any()

"""denoise_scores: every way is measured on the same noisy files, against numbers that are known otherwise."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.denoise_scores import PICTURE, STRENGTHS, TABLE, best_of, filters, write
from saved import saved_model
from vae.corruption import noisy
from vae.data import ImageShards, ShardWriter
from vae.denoise import averaged
from vae.metrics.terms import mean_psnr_db


@pytest.fixture
def test_images(tmp_path) -> ImageShards:
    """40 even grey pictures, in which whatever varies is noise."""
    writer = ShardWriter(tmp_path / "test", (8, 8, 3), 100)
    writer.add_all(np.broadcast_to(np.linspace(100, 155, 40).astype(np.uint8)[:, None, None, None], (40, 8, 8, 3)))
    writer.close()
    return ImageShards(tmp_path / "test")


def test_table_says_what_each_way_leaves_of_the_noise(tmp_path, test_images):
    generator = saved_model(tmp_path / "m", denoise_levels=20.0)
    scores = write(generator, test_images, 3, tmp_path)
    table = pd.read_csv(tmp_path / TABLE).set_index(["levels", "way"])["psnr_db"]
    clean = test_images.gather(np.arange(40))
    for levels in (20.0 * share for share in STRENGTHS):
        seen = noisy(clean, levels, 3)
        assert table[levels, "input"] == pytest.approx(20 * math.log10(255 / math.hypot(levels, 12**-0.5)), abs=0.1)
        assert table[levels, "model"] == mean_psnr_db(averaged(generator, seen), clean)
        assert table[levels, "mean"] == mean_psnr_db(generator.reconstruct(seen), clean)
        # Of even pictures the widest filter leaves least: the mean of 64 pixels is 18 dB better, of a normal's median nearly so.
        assert table[levels, "input"] + 9 < table[levels, "median"] < table[levels, "gaussian"] < table[levels, "input"] + 18
    assert scores == {
        "denoise_psnr_db": table[20.0, "model"],
        "denoise_input_psnr_db": table[20.0, "input"],
        "denoise_filter_psnr_db": table[20.0, "gaussian"],
    }
    assert Image.open(tmp_path / PICTURE).size[0] > 16 * 8


def test_each_filter_has_the_width_that_suits_it_best(test_images):
    clean = test_images.gather(np.arange(40))
    for ways in filters().values():
        for seen in (clean, noisy(clean, 30.0, 0)):
            found = mean_psnr_db(best_of(ways, seen, clean), clean)
            assert found == max(mean_psnr_db(way(seen), clean) for way in ways)


def test_model_that_was_not_trained_for_it_is_not_judged_by_it(tmp_path, test_images):
    assert write(saved_model(tmp_path / "m"), test_images, 0, tmp_path) == {}
    assert not (tmp_path / TABLE).exists()

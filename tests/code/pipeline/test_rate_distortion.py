"""rate_distortion and codec_scores: curves that are known otherwise, JPEG's own bytes counted by its markers."""

from __future__ import annotations

import io
import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.codec_scores import CURVE, DEVIATIONS, PICTURE, TABLE, write
from pipeline.rate_distortion import QUALITIES, bd_rate, jpeg, jpeg_payload_bytes, lossless_bytes
from saved import saved_model
from vae.compress import compress, compress_lossless
from vae.data import ImageShards, ShardWriter
from vae.metrics.terms import mean_psnr_db

PSNRS = [20.0, 24.0, 29.0, 33.0, 40.0]


def test_bd_rate_of_curves_that_are_known():
    rates = [math.exp(0.1 * psnr) for psnr in PSNRS]
    assert bd_rate([rate / 2 for rate in rates], PSNRS, rates, PSNRS) == pytest.approx(-50)
    assert bd_rate(rates, PSNRS, [rate / 2 for rate in rates], PSNRS) == pytest.approx(100)
    # Straight lines in log rate, of which one begins and ends elsewhere: over 24 to 33 dB the mean of 0.02 (psnr - 24).
    other = [math.exp(0.1 * psnr + 0.02 * (psnr - 24)) for psnr in PSNRS[1:4]]
    assert bd_rate(other, PSNRS[1:4], rates, PSNRS) == pytest.approx(100 * (math.exp(0.09) - 1))


def test_bd_rate_leaves_out_points_that_another_one_beats_and_curves_that_do_not_meet():
    rates = [math.exp(0.1 * psnr) for psnr in PSNRS]
    assert bd_rate([*rates, 90.0], [*PSNRS, 21.0], rates, PSNRS) == pytest.approx(0, abs=1e-9)
    assert bd_rate([*rates, 99.0], [*PSNRS, math.inf], rates, PSNRS) == pytest.approx(0, abs=1e-9)
    assert bd_rate([0.0, *rates], [10.0, *PSNRS], rates, PSNRS) == pytest.approx(0, abs=1e-9)  # of a collapsed model
    assert bd_rate(rates, PSNRS, rates, [psnr + 30 for psnr in PSNRS]) is None
    assert bd_rate(rates[:1], PSNRS[:1], rates, PSNRS) is None


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_payload_of_a_jpeg_is_what_its_markers_leave(mode):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, len(mode))).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, format="JPEG", quality=40, optimize=True)
    content = buffer.getvalue()
    # Every segment before the coded picture says its own length.
    place = 2
    while True:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        place += 2 + length
        if marker == 0xDA:
            break
    assert content[-2:] == b"\xff\xd9"
    assert jpeg_payload_bytes(content) == len(content[place:-2])


def test_jpeg_points_are_those_of_its_files():
    images = np.random.default_rng(0).integers(60, 90, (3, 16, 16, 3)).astype(np.uint8)
    points = jpeg(images, "RGB", 0)
    assert [point.setting for point in points] == list(QUALITIES)
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=QUALITIES[3], optimize=True, subsampling=0)
        files.append(buffer)
    assert points[3].file_bytes == np.mean([len(each.getvalue()) for each in files])
    decoded = np.stack([np.asarray(Image.open(each)) for each in files])
    assert points[3].psnr_db == mean_psnr_db(decoded, images)
    assert all(point.payload_bytes < point.file_bytes for point in points)
    assert lossless_bytes(images, "RGB").keys() == {"png", "webp"}


def test_scores_are_those_of_the_files(tmp_path):
    generator = saved_model(tmp_path / "m", mode="L", tables=True)
    writer = ShardWriter(tmp_path / "test", (8, 8, 1), 100)
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
    writer.add_all(images)
    writer.close()
    scores = write(generator, ImageShards(tmp_path / "test"), tmp_path)
    table = pd.read_csv(tmp_path / TABLE)
    ours = table[table["coder"] == "ours"].set_index("setting")
    assert list(ours.index) == list(DEVIATIONS)
    found = compress(generator, images, 3.5)
    assert ours.loc[3.5, "file_bytes"] == len(found.container.pack()) / 40
    assert ours.loc[3.5, "psnr_db"] == pytest.approx(mean_psnr_db(found.images_NHWC, images))
    lossless = compress_lossless(generator, images)
    assert scores["codec_lossless_bytes"] == len(lossless.container.pack()) / 40
    assert scores["codec_bound_bytes"] == lossless.estimated_bits / 8 / 40
    assert scores["codec_png_bytes"] > 64  # noise
    assert set(table["coder"]) == {"ours", "jpeg", "lossless", "bound", "png", "webp"}
    assert (tmp_path / CURVE).exists() and (tmp_path / PICTURE).exists()


def test_model_without_tables_is_not_judged_by_it(tmp_path):
    generator = saved_model(tmp_path / "m")
    assert write(generator, None, tmp_path) == {} and not (tmp_path / TABLE).exists()

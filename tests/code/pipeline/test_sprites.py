"""Sprites: the factors are what the pixels show, measured on the pictures alone."""

from __future__ import annotations

import colorsys
import io
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from pipeline.download import PARAMS
from pipeline.raw import FILES, RawWriter, read_files
from pipeline.sources import moving_sprites, sprites
from vae.files import sha256_file

SIZE = 32


def factors(count: int = 1, **fixed: float) -> pd.DataFrame:
    """``count`` rows of a middle sprite, with some factors given."""
    middle = {"shape": 0, "scale": 0.8, "orientation": 0.0, "x": 0.5, "y": 0.5, "hue": 0.0}
    return pd.DataFrame({name: np.broadcast_to(fixed.get(name, value), count) for name, value in middle.items()})


def coverage(table: pd.DataFrame, size: int = SIZE) -> np.ndarray:
    """(N, size, size) in [0, 1]."""
    return sprites.render(table, size, colour=False)[..., 0] / 255


def centroids(pictures: np.ndarray) -> np.ndarray:
    """(N, 2): x and y of the mass, in pixels from the picture's left and upper edge."""
    places = np.arange(pictures.shape[1]) + 0.5
    mass = pictures.sum((1, 2))
    return np.stack([(pictures.sum(1) * places).sum(1) / mass, (pictures.sum(2) * places).sum(1) / mass], 1)


def test_draw_factors_are_uniform_in_their_ranges():
    drawn = sprites.draw_factors(20_000, 3, colour=True)
    ranges = {"x": (0, 1), "y": (0, 1), "scale": sprites.SCALES, "orientation": sprites.ORIENTATIONS, "hue": sprites.HUES}
    for name, (low, high) in ranges.items():
        assert drawn[name].between(low, high).all()
        assert stats.kstest(drawn[name], stats.uniform(low, high - low).cdf).pvalue > 1e-3, name
    assert stats.chisquare(drawn["shape"].value_counts()[[0, 1, 2]]).pvalue > 1e-3


def test_draw_factors_are_independent():
    drawn = sprites.draw_factors(20_000, 4, colour=True)
    correlations = drawn.corr("spearman").to_numpy()[np.triu_indices(6, 1)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(20_000)


def test_draw_factors_no_two_orientations_of_the_square_are_one_picture():
    low, high = sprites.ORIENTATIONS
    assert high - low <= 0.25


def test_draw_factors_depend_on_the_seed_and_hue_changes_no_other():
    colour, grey = sprites.draw_factors(100, 5, colour=True), sprites.draw_factors(100, 5, colour=False)
    assert "hue" not in grey
    pd.testing.assert_frame_equal(colour[list(grey)], grey)
    assert not sprites.draw_factors(100, 6, colour=False).equals(grey)


@pytest.mark.parametrize("shape", [0, 1])
def test_render_centroid_is_the_position_factor(shape):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 1, (2, 60))
    table = factors(60, shape=shape, x=x, y=y, scale=rng.uniform(0.5, 1, 60), orientation=rng.uniform(0, 1, 60))
    margin = sprites.MARGIN * sprites.LARGEST_RADIUS
    expected = (margin + np.stack([x, y], 1) * (1 - 2 * margin)) * SIZE
    assert np.abs(centroids(coverage(table)) - expected).max() < 0.5


@pytest.mark.parametrize("shape", [0, 1, 2])
def test_render_area_grows_with_the_square_of_scale(shape):
    scale = np.linspace(0.5, 1, 11)
    area = coverage(factors(11, shape=shape, scale=scale, orientation=0.1), 64).sum((1, 2))
    slope = np.polyfit(np.log(scale), np.log(area), 1)[0]
    assert abs(slope - 2) < 0.03


@pytest.mark.parametrize(("shape", "expected"), [(0, 1.6**2), (1, np.pi * 0.55)])
def test_render_area_is_that_of_the_figure(shape, expected):
    radius = sprites.LARGEST_RADIUS * 0.8 * 64
    assert coverage(factors(shape=shape, orientation=0.05), 64).sum() == pytest.approx(expected * radius**2, rel=0.02)


def test_render_orientation_of_the_ellipse_is_its_long_axis():
    turn = np.linspace(0, 1, 25, endpoint=False)
    pictures = coverage(factors(25, shape=1, scale=1.0, orientation=turn), 64)
    places, middle = np.arange(64) + 0.5, centroids(pictures)
    for picture, (x, y), expected in zip(pictures, middle, turn, strict=True):
        dx, dy = np.meshgrid(places - x, places - y)
        second = np.array([[(picture * dx * dx).sum(), (picture * dx * dy).sum()], [0, (picture * dy * dy).sum()]])
        second[1, 0] = second[0, 1]
        long_axis = np.linalg.eigh(second)[1][:, 1]
        angle = np.arctan2(long_axis[1], long_axis[0]) / (2 * np.pi)
        away = (angle - expected + 0.25) % 0.5 - 0.25  # an axis has no sense of direction
        assert abs(away) < 0.01, (expected, angle)


def test_render_square_and_heart_turn_with_orientation():
    for shape in (0, 2):
        pictures = coverage(factors(3, shape=shape, orientation=np.array([0.0, 0.125, 0.25])))
        assert np.abs(pictures[0] - pictures[1]).max() > 0.5
        quarter = np.abs(np.rot90(pictures[0], -1) - pictures[2]).max()  # orientation grows clockwise on the picture
        assert quarter < 0.26


@pytest.mark.parametrize("shape", sprites.SHAPES)
def test_inside_no_shape_reaches_beyond_the_margin(shape):
    u, v = np.meshgrid(np.linspace(-2, 2, 801), np.linspace(-2, 2, 801))
    farthest = np.hypot(u, v)[sprites._inside(shape, u, v)].max()
    assert 0.9 < farthest < sprites.MARGIN


def test_render_no_sprite_leaves_the_picture():
    for shape in range(3):
        turn, x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, 1, 16), [0, 1], [0, 1]))
        table = factors(64, scale=1.0, x=x, y=y, orientation=turn, shape=shape)
        area = coverage(table, 64).sum((1, 2))
        whole = coverage(table.assign(x=0.5, y=0.5), 64).sum((1, 2))
        np.testing.assert_allclose(area, whole, rtol=0.03)  # a sharp edge on the sampling grid counts 2 % more or less


def test_render_edges_are_antialiased():
    picture = sprites.render(factors(shape=1, orientation=0.07), SIZE, colour=False)
    levels = np.unique(picture)
    assert levels.min() == 0 and levels.max() == 255
    between = ((picture > 0) & (picture < 255)).sum()
    assert 10 < between < (picture > 0).sum() / 2


def test_render_shapes_differ():
    pictures = coverage(factors(3, shape=np.arange(3)))
    assert min(np.abs(pictures[a] - pictures[b]).sum() for a, b in ((0, 1), (0, 2), (1, 2))) > 10


def test_render_colour_shows_the_hue():
    hue = np.linspace(0, 0.75, 16)
    pictures = sprites.render(factors(16, hue=hue, scale=1.0), SIZE, colour=True)
    assert pictures.shape == (16, SIZE, SIZE, 3) and pictures.dtype == np.uint8
    for picture, expected in zip(pictures, hue, strict=True):
        r, g, b = picture[SIZE // 2, SIZE // 2] / 255
        found, saturation, value = colorsys.rgb_to_hsv(r, g, b)
        assert abs(found - expected) < 0.005 and saturation == 1 and value == 1


def test_render_colour_and_grey_show_the_same_figure():
    table = sprites.draw_factors(50, 1, colour=True)
    grey, colour = sprites.render(table, SIZE, colour=False), sprites.render(table, SIZE, colour=True)
    assert grey.shape == (50, SIZE, SIZE, 1)
    np.testing.assert_array_equal(colour.max(3), grey[..., 0])


def test_render_picture_does_not_depend_on_its_neighbours():
    table = sprites.draw_factors(40, 2, colour=True)
    whole = sprites.render(table, 16, colour=True)
    alone = np.concatenate([sprites.render(table.iloc[i : i + 1], 16, colour=True) for i in range(40)])
    np.testing.assert_array_equal(whole, alone)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pack_archive_holds_the_rendered_factors(project, mode):
    values = project.values(PARAMS, base__mode=mode, base__image_size=16, download__sprite_images=130, base__seed=7)
    with RawWriter(project.root) as writer:
        sprites.pack(values, writer)
    assert (writer.files, writer.failures) == (130, 0)
    table = read_files(project.root).to_pandas()
    names = ["shape", "scale", "orientation", "x", "y"] + ["hue"] * (mode == "RGB")
    assert [c for c in table if c.startswith("factor_")] == [f"factor_{name}" for name in names]
    drawn = pd.DataFrame({name: table[f"factor_{name}"] for name in names})
    expected = sprites.render(drawn, 16, mode == "RGB")
    with zipfile.ZipFile(project.root / "images-00000.zip") as archive:
        assert archive.namelist() == list(table["path"])
        for row, name in enumerate(table["path"]):
            assert name.split("/")[0] == sprites.SHAPES[int(table["factor_shape"][row])]
            with Image.open(io.BytesIO(archive.read(name))) as picture:
                assert picture.mode == mode
                np.testing.assert_array_equal(np.asarray(picture), expected[row] if mode == "RGB" else expected[row, ..., 0])


def test_pack_same_seed_same_bytes_other_seed_other_bytes(project, tmp_path):
    hashes = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / folder).mkdir()
        with RawWriter(tmp_path / folder) as writer:
            sprites.pack(project.values(PARAMS, download__sprite_images=120, base__seed=seed), writer)
        hashes.append([sha256_file(tmp_path / folder / name) for name in ("images-00000.zip", FILES)])
    assert hashes[0] == hashes[1]
    assert hashes[0][0] != hashes[2][0] and hashes[0][1] != hashes[2][1]


def test_moving_sprites_go_evenly_from_one_state_to_another(project):
    values = project.values(PARAMS, download__source="moving_sprites", download__sprite_images=200)
    values.download = replace(values.download, sprite_images=200)
    out = project.root / "out"
    out.mkdir()
    with RawWriter(out) as writer:
        moving_sprites.pack(values, writer)
    table = read_files(out).to_pandas()
    assert len(table) == 12 * moving_sprites.FRAMES
    clips = table.groupby(table["path"].str.rsplit("/", n=1).str[0])
    assert clips.ngroups == 12 and (clips.size() == moving_sprites.FRAMES).all()
    with zipfile.ZipFile(out / "images-00000.zip") as archive:
        for _, clip in clips:
            known = clip.filter(regex="^factor").reset_index(drop=True)
            assert known.iloc[:, 0].nunique() == 1  # the shape
            np.testing.assert_allclose(np.diff(known.to_numpy(), 2, axis=0), 0, atol=1e-12)
            drawn = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in clip["path"]])
            places = centroids(drawn.reshape(*drawn.shape[:3], -1).max(3) / 255.0)
            assert np.abs(np.diff(places, 2, axis=0)).max() < 0.25  # pixels: even steps, but for the raster
            assert np.abs(places[-1] - places[0]).max() > 0.1

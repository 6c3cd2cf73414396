"""films: frames follow one another as a person counts them, are scored against the truth, and vae inbetween draws more of them."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import film, models
from pipeline.cli.app import app
from pipeline.film_scores import PICTURE, TABLE, between, triples, write
from pipeline.films import following
from pipeline.paths import INDEX
from pipeline.preprocess import PARAMS, preprocess
from saved import saved_model
from vae.data import ImageShards, ShardWriter, save_following
from vae.inbetween import inbetween
from vae.metrics.terms import mean_psnr_db

film.add_to(app)
models.add_to(app)  # an app of one command takes its name for an argument


def test_frames_are_counted_as_a_person_counts():
    paths = ["b/frame10.png", "a/2.png", "b/frame9.png", "a/1.png", "b/frame1.png", "alone.png", "a/x/1.png"]
    assert following(paths).tolist() == [-1, -1, 0, 1, 2, -1, -1]
    assert following([]).tolist() == []
    mixed = ["c/001.png", "c/1.png", "c/one.png", "c/01a2.png", "c/01a10.png"]  # no name is like another one's
    chain = following(mixed)
    assert sorted(chain[chain >= 0].tolist()) == sorted(set(range(5)) - {int(np.setdiff1d(np.arange(5), chain)[0])})


def test_triples_stay_within_a_film():
    next_N = np.array([1, 2, 3, 4, -1, 6, 7, -1])
    assert triples(next_N, 2).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [5, 6, 7]]
    assert triples(next_N, 4).tolist() == [[0, 2, 4]]
    assert triples(next_N, 8).tolist() == []


def test_preprocess_writes_which_frame_follows(project, picture):
    files = {f"clip{clip:02d}/{frame}.png": picture(100 * clip + frame) for clip in range(40) for frame in range(8, 12)}
    project.raw(files)
    preprocess(project.values(PARAMS, base__image_size=8, preprocess__split_by="folder"), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX)
    for split, rows in index.groupby("split", sort=False):
        names = rows["path"].tolist()
        next_N = ImageShards(project.paths.processed / split).following_N
        assert next_N is not None
        for name, after in zip(names, next_N, strict=True):
            clip, frame = name.removesuffix(".png").split("/")
            assert (names[after] if after >= 0 else None) == (f"{clip}/{int(frame) + 1}.png" if frame != "11" else None)


@pytest.fixture
def test_films(tmp_path) -> ImageShards:
    """Ten films of nine frames in which a square goes down."""
    images = np.zeros((10, 9, 8, 8, 3), np.uint8)
    for clip in range(10):
        for frame in range(9):
            images[clip, frame, min(frame, 7), :] = 100 + 10 * clip
    writer = ShardWriter(tmp_path / "test", (8, 8, 3), 100)
    writer.add_all(images.reshape(-1, 8, 8, 3))
    writer.close()
    rows = np.arange(90)
    save_following(tmp_path / "test", np.where(rows % 9 == 8, -1, rows + 1))
    return ImageShards(tmp_path / "test")


def test_table_says_how_far_each_way_is_from_the_frame_that_was_there(tmp_path, test_films):
    generator = saved_model(tmp_path / "m")
    scores = write(generator, test_films, tmp_path)
    table = pd.read_csv(tmp_path / TABLE).set_index(["gap", "way"])["psnr_db"]
    assert set(table.index.get_level_values("gap")) == {2, 4, 8}  # a film has nine frames
    every = test_films.slice(0, 90).reshape(10, 9, 8, 8, 3)
    first, middle, last = every[:, 0], every[:, 4], every[:, 8]
    faded = np.rint((first.astype(float) + last) / 2).astype(np.uint8)
    assert table[8, "fade"] == pytest.approx(mean_psnr_db(faded, middle), abs=1e-6)
    assert table[8, "reconstruction"] == mean_psnr_db(generator.reconstruct(middle), middle)
    middles = np.concatenate([inbetween(generator, np.stack(pair), 1)[1:2] for pair in zip(first, last, strict=True)])
    assert table[8, "inbetween"] == pytest.approx(mean_psnr_db(middles, middle), abs=0.01)
    assert np.abs(between(generator, first, last, None).carried_FHWC.astype(int) - middles).max() <= 1
    a_ND, b_ND = generator.encode(first)[0], generator.encode(last)[0]
    assert table[8, "redraw"] == pytest.approx(mean_psnr_db(generator.decode((a_ND + b_ND) / 2), middle), abs=0.01)
    assert scores == {"film_psnr_db": table[2, "inbetween"], "film_fade_psnr_db": table[2, "fade"]}
    assert (tmp_path / PICTURE).stat().st_size > 200


def test_images_that_are_no_films_have_no_such_scores(tmp_path, test_films):
    (tmp_path / "test/following.npy").unlink()
    assert write(saved_model(tmp_path / "m"), ImageShards(tmp_path / "test"), tmp_path) == {}
    save_following(tmp_path / "test", np.full(90, -1))
    assert write(saved_model(tmp_path / "k"), ImageShards(tmp_path / "test"), tmp_path) == {}


def vae(*arguments: str):
    return CliRunner().invoke(app, ["inbetween", *arguments])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to be in: a model, a film of four frames as GIF and as folder, and the frames."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    generator = saved_model(tmp_path / "m")
    frames = generator.sample(4, 1)
    (tmp_path / "film").mkdir()
    for number, image in enumerate(frames):
        Image.fromarray(image).save(tmp_path / f"film/f{number + 8}.png")  # f8 to f11: by name f10 would be first
    first, *rest = map(Image.fromarray, frames)
    first.save(tmp_path / "film.webp", save_all=True, append_images=rest, lossless=True)
    return generator, frames


@pytest.mark.parametrize("source", ["film", "film.webp"])
def test_new_frames_lie_on_the_way_and_the_old_ones_stay(here, source):
    generator, frames = here
    told = vae(source, "--frames", "2", "-m", "m", "-o", "out.npz")
    assert told.exit_code == 0, told.output
    with np.load("out.npz") as stored:
        found = stored["images"]
    assert len(found) == 10
    np.testing.assert_array_equal(found[::3], frames)
    np.testing.assert_array_equal(found, inbetween(generator, frames, 2))


def test_redrawn(here):
    generator, frames = here
    assert vae("film", "--redraw", "-m", "m", "-o", "out.npz").exit_code == 0
    with np.load("out.npz") as stored:
        np.testing.assert_array_equal(stored["images"], inbetween(generator, frames, 1, redraw=True))


def test_film_goes_out_as_an_animation(here):
    assert vae("film", "-m", "m", "-o", "out.webp").exit_code == 0
    assert Image.open("out.webp").n_frames == 7


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("none.gif",), 66, "none.gif does not exist: name an animation or a folder"),
        (("still.png",), 65, "still.png holds one frame"),
        (("text.gif",), 65, "text.gif cannot be used: not_an_image"),
        (("film", "-o", "a.mp4"), 78, ".mp4 is not written"),
        (("film", "--label", "ape"), 78, "the model has no classes"),
    ],
)
def test_what_is_no_film_is_told(here, tmp_path, arguments, code, words):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    (tmp_path / "still.png").write_bytes(buffer.getvalue())
    (tmp_path / "text.gif").write_bytes(b"no picture")
    result = vae(*arguments, "-m", "m")
    assert result.exit_code == code, result.output
    assert words in result.stderr and "Traceback" not in result.output

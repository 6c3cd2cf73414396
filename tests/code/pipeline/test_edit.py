"""vae restyle and vae inpaint: what they write is what the model's parts say, and whatever is wrong is one line and a code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline.cli import edit, models
from pipeline.cli.app import app
from saved import saved_model
from vae.artefact import load_artefact
from vae.inpaint import inpainted

models.add_to(app)
edit.add_to(app)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to be in, with a model ``m`` that knows a factor and two labels, ``k`` of three classes, and two pictures."""
    monkeypatch.chdir(tmp_path)
    plain = saved_model(tmp_path / "plain")
    saved_model(tmp_path / "m", attributes=True)
    saved_model(tmp_path / "k", classes=3)
    for number, image in enumerate(plain.sample(2, 5)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :3] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def vae(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def drawn(*arguments: str) -> np.ndarray:
    result = vae(*arguments, "-o", "a.npz")
    assert result.exit_code == 0, result.output
    with np.load("a.npz") as stored:
        return stored["images"]


def pictures(here: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(here / f"{number}.png")) for number in (0, 1)])


def test_restyle_draws_the_moved_latents(here):
    generator = load_artefact(here / "m")
    assert generator.attributes is not None
    mean_ND, _ = generator.encode(pictures(here))
    moved = generator.decode(generator.attributes.moved(mean_ND, {"height": 0.5}, "right"))
    np.testing.assert_array_equal(
        drawn("restyle", "0.png", "1.png", "-m", "m", "--move", "height=+0.5", "--make", "right"), moved
    )
    assert vae("restyle", "0.png", "-m", "m", "--move", "height = -.25", "-o", "a.png").exit_code == 0
    assert Image.open(here / "a.png").size == (10 + 2, 2 * 10 + 2)  # the picture above what became of it


def test_restyle_of_a_model_that_is_told_labels_keeps_the_latents(here):
    generator = load_artefact(here / "k")
    mean_ND, _ = generator.encode(pictures(here), torch.tensor([0, 0]))
    expected = generator.decode(mean_ND, torch.tensor([2, 2]))
    np.testing.assert_array_equal(drawn("restyle", "0.png", "1.png", "-m", "k", "--label", "ape", "--make", "cat"), expected)


def test_inpaint_keeps_what_is_known_and_draws_the_rest(here):
    generator, missing = load_artefact(here / "m"), np.zeros((2, 8, 8), bool)
    missing[:, :, :3] = True
    found = drawn("inpaint", "0.png", "1.png", "--mask", "mask.png", "-m", "m", "--seed", "3")
    np.testing.assert_array_equal(found, inpainted(generator, pictures(here), missing, seed=3))
    np.testing.assert_array_equal(found[~missing], pictures(here)[~missing])
    Image.open(here / "mask.png").resize((80, 80), Image.Resampling.NEAREST).convert("RGBA").save(here / "large.png")
    np.testing.assert_array_equal(drawn("inpaint", "0.png", "1.png", "--mask", "large.png", "-m", "m", "--seed", "3"), found)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("restyle", "0.png", "-m", "m"), 78, ("nothing is to be changed",)),
        (("restyle", "0.png", "-m", "m", "--move", "height", "--move", "a=b"), 78, ("--move 'height' is none", "--move 'a=b'")),
        (("restyle", "0.png", "-m", "m", "--move", "age=1"), 78, ("'age'", "known are height, left, right")),
        (("restyle", "0.png", "-m", "m", "--make", "up"), 78, ("'up'", "known are height, left, right")),
        (("restyle", "0.png", "-m", "m", "--move", "height=99"), 78, ("height of image 0 would be", "move it less")),
        (("restyle", "0.png", "-m", "plain", "--move", "height=1"), 78, ("knows no properties", "train.attribute_steps")),
        (("restyle", "0.png", "-m", "k", "--make", "cat"), 78, ("--label is needed",)),
        (("restyle", "0.png", "-m", "k", "--label", "ape", "--make", "dog"), 78, ("unknown label 'dog'",)),
        (("restyle", "none.png", "-m", "m", "--make", "left"), 66, ("none.png does not exist",)),
        (("inpaint", "0.png", "-m", "m", "--mask", "none.png"), 66, ("--mask none.png does not exist",)),
        (("inpaint", "0.png", "-m", "m", "--mask", "broken.png"), 65, ("--mask broken.png cannot be used",)),
        (("inpaint", "0.png", "-m", "m", "--mask", "black.png"), 78, ("nothing is missing",)),
        (("inpaint", "0.png", "-m", "v", "--mask", "mask.png"), 78, ("latents without a gradient",)),
    ],
)
def test_what_cannot_be_done_is_one_line_and_a_code(here, arguments, code, words):
    saved_model(here / "v", name="vq")
    (here / "broken.png").write_bytes((here / "0.png").read_bytes()[:40])
    Image.new("L", (8, 8)).save(here / "black.png")
    result = vae(*arguments)
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    assert all(word in result.stderr for word in words), result.stderr
    assert not (here / "restyled.png").exists() and not (here / "inpainted.png").exists()

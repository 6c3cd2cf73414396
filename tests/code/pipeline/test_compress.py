"""vae compress and decompress: files in and out, and whatever does not go is one line and an exit code."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline.cli import compress
from pipeline.cli.app import app
from saved import saved_model
from vae.artefact import load_artefact
from vae.codec.container import Container
from vae.compress import compress as compressed

compress.add_to(app)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with the models ``m`` (grey, with tables) and ``plain`` (in colour, without), and ten grey pictures in ``in``."""
    monkeypatch.chdir(tmp_path)
    saved_model(tmp_path / "m", mode="L", tables=True)
    saved_model(tmp_path / "plain")
    (tmp_path / "in").mkdir()
    for i, pixels in enumerate(images()):
        Image.fromarray(pixels).save(tmp_path / "in" / f"cat {i}.png")
    return tmp_path


def images() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (10, 8, 8)).astype(np.uint8)


def vae(*arguments: str, given: bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=given)


def refused(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output and all(word in result.stderr for word in words), result.stderr


def test_pictures_come_back_to_the_last_bit_under_their_names(here):
    told = vae("compress", "in", "-m", "m", "--lossless", "-o", "some.vaec")
    assert told.exit_code == 0, told.output
    assert "10 pictures, lossless" in told.stderr and f"{(here / 'some.vaec').stat().st_size:,} bytes" in told.stderr
    assert vae("decompress", "some.vaec", "-m", "m", "-o", "back").exit_code == 0
    assert sorted(path.name for path in (here / "back").iterdir()) == [f"cat {i}.png" for i in range(10)]
    for i, pixels in enumerate(images()):
        np.testing.assert_array_equal(np.asarray(Image.open(here / "back" / f"cat {i}.png")), pixels)


def test_lossy_file_holds_what_the_model_makes_of_the_pictures(here):
    told = vae("compress", "in", "-m", "m", "--step", "2", "-o", "some.vaec")
    assert told.exit_code == 0 and " dB: " in told.stderr
    expected = compressed(load_artefact(here / "m"), images()[..., None], 2.0).images_NHWC
    assert vae("decompress", "some.vaec", "-m", "m", "-o", "back.npz").exit_code == 0
    with np.load(here / "back.npz") as stored:
        np.testing.assert_array_equal(stored["images"], expected)


def test_through_standard_input_and_output(here):
    content = (here / "in" / "cat 4.png").read_bytes()
    told = vae("compress", "-", "-m", "m", "--lossless", "-o", "-", given=content)
    assert told.exit_code == 0 and Container.unpack(told.stdout_bytes).shape == (1, 8, 8, 1)
    back = vae("decompress", "-", "-m", "m", "-o", "-", given=told.stdout_bytes)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(back.stdout_bytes))), images()[4])


def test_names_that_would_leave_the_folder_or_collide_are_not_used(here):
    assert vae("compress", "in", "-m", "m", "--lossless", "-o", "some.vaec").exit_code == 0
    container = Container.unpack((here / "some.vaec").read_bytes())
    for names in ([f"../{i}" for i in range(10)], ["a"] * 10, [".."] * 10, ["a"]):
        changed = Container(**{**vars(container), "names": tuple(names)})
        (here / "bad.vaec").write_bytes(changed.pack())
        assert vae("decompress", "bad.vaec", "-m", "m", "-o", "back").exit_code == 0
        assert sorted(path.name for path in (here / "back").iterdir()) == [f"{i:05d}.png" for i in range(10)]


def test_what_cannot_be_compressed_is_refused_and_nothing_is_written(here):
    Image.new("L", (9, 8)).save(here / "wide.png")
    Image.new("RGB", (8, 8), (200, 3, 4)).save(here / "red.png")
    (here / "no.png").write_bytes(b"no picture")
    cases = [
        (("wide.png", "-m", "m"), 65, ("wide.png", "9x8 pixels, and this model compresses 8x8")),
        (("wide.png", "no.png", "-m", "m"), 65, ("wide.png", "no.png")),
        (("red.png", "-m", "m", "--lossless"), 65, ("would not come back as it is",)),
        (("nothing", "-m", "m"), 66, ("does not exist",)),
        (("red.png", "-m", "plain"), 78, ("no tables", "train.coding_images")),
        (("in", "-m", "m", "--step", "0.1"), 78, ("step is 0.1: 0.25 to 64",)),
        (("in", "-m", "m", "--step", "nan"), 78, ("step is nan",)),
    ]
    for arguments, code, words in cases:
        refused(vae("compress", *arguments, "-o", "some.vaec"), code, *words)
    assert not (here / "some.vaec").exists()
    assert vae("compress", "red.png", "-m", "plain", "--lossless", "-o", "some.vaec").exit_code == 0  # needs no tables


def test_file_that_cannot_be_opened_is_refused(here):
    assert vae("compress", "in", "-m", "m", "-o", "some.vaec").exit_code == 0
    content = (here / "some.vaec").read_bytes()
    for name, damaged in (
        ("cut", content[:-9]),
        ("flipped", content[:50] + bytes([content[50] ^ 4]) + content[51:]),
        ("x", b"GIF89a"),
    ):
        (here / name).write_bytes(damaged)
        refused(vae("decompress", name, "-m", "m", "-o", "back"), 65, f"{name} cannot be used: it ")
    refused(vae("decompress", "some.vaec", "-m", "plain", "-o", "back"), 78, "was made by model", "(m)", "--model")
    refused(vae("decompress", "nothing.vaec", "-m", "m"), 66, "does not exist")
    refused(vae("decompress", "some.vaec", "-m", "m", "-o", "back.txt"), 78, ".txt is not written")
    assert not (here / "back").exists()

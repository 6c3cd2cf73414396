"""dataset: the same bytes however often it was cut off, with the labels that were drawn, and never over something else."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.dataset import PART_IMAGES, Dataset, _folder_name, ordered
from pipeline.errors import BadConfigError
from saved import saved_model
from vae.files import DamagedError, read_json, read_manifest
from workspace import ROOT

COUNT = 2 * PART_IMAGES + 345


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written(folder: Path, generator, form: str = "folder", images: int = COUNT, seed: int = 5, draw=None) -> dict[str, bytes]:
    Dataset(folder, ordered("m", generator, images, seed, 1.0, "", form), generator, draw or generator.sample).write()
    return files(folder)


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_images_and_labels_are_those_that_the_model_draws_part_by_part(tmp_path, form):
    generator = saved_model(tmp_path / "k", classes=3)
    whole = written(tmp_path / "d", generator, form)
    order = Dataset(tmp_path / "e", ordered("m", generator, COUNT, 5, 1.0, "", form), generator, generator.sample)
    if form == "folder":
        rows = list(csv.DictReader(io.StringIO(whole["labels.csv"].decode())))
        found = [(row["file_name"], row["category"], whole[row["file_name"]]) for row in rows]
        assert [int(row["id"]) for row in rows] == list(range(COUNT))
        assert {(row["width"], row["height"]) for row in rows} == {("8", "8")}
        assert all(row["file_name"].startswith(f"{row['category']}/") for row in rows)
        assert len([name for name in whole if name.endswith(".png")]) == COUNT + 1  # and the sheet
    else:
        tables = [pq.read_table(io.BytesIO(whole[name])).to_pylist() for name in sorted(whole) if name.endswith(".parquet")]
        found = [(row["name"], row["label"], row["image"]) for table in tables for row in table]
    assert len(found) == COUNT and {label for _, label, _ in found} == {"ape", "bee", "cat"}
    for part, start in enumerate(range(0, COUNT, PART_IMAGES)):
        n = min(PART_IMAGES, COUNT - start)
        label_N = generator.classes(n, order._seed(part))
        drawn = generator.sample(n, order._seed(part), 1.0, label_N)
        for place in (0, n // 2, n - 1):
            _, label, content = found[start + place]
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), drawn[place])
            assert label == ["ape", "bee", "cat"][label_N[place]]
    assert len({content for _, _, content in found}) == COUNT  # no part is another one again


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_cut_off_it_goes_on_and_leaves_the_same_bytes(tmp_path, form):
    generator = saved_model(tmp_path / "m")
    whole = written(tmp_path / "whole", generator, form)
    drawn: list[int] = []

    def cut(n: int, seed: int, temperature: float) -> np.ndarray:
        drawn.append(n)
        if len(drawn) == 2:
            if form == "folder":  # it was writing the second part
                (tmp_path / "cut/images/000001000.png").write_bytes(b"half")
            raise KeyboardInterrupt
        return generator.sample(n, seed, temperature)

    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "cut", generator, form, draw=cut)
    assert not (tmp_path / "cut/MANIFEST.json").exists()
    assert written(tmp_path / "cut", generator, form) == whole
    assert read_manifest(tmp_path / "cut")["images"] == COUNT
    assert Dataset(tmp_path / "cut", ordered("m", generator, COUNT, 5, 1.0, "", form), generator, generator.sample).write() == 0


def test_killed_command_goes_on(tmp_path):
    saved_model(tmp_path / "m")
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "sample",
        "30000",
        "--dataset",
        "folder",
        "-m",
        str(tmp_path / "m"),
        "-o",
        "d",
    ]
    command[1:3] = ["-c", "from pipeline.cli.app import main; main()"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "d").glob(".parts/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "d/MANIFEST.json").exists()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "of 30000 images now" in done.stderr and "drew 30000 of" not in done.stderr, done.stderr
    assert read_manifest(tmp_path / "d")["images"] == 30000
    assert sum(name.endswith(".png") for name in files(tmp_path / "d")) == 30001


def test_folder_that_holds_something_else_is_refused(tmp_path):
    one, other = saved_model(tmp_path / "m"), saved_model(tmp_path / "n", seed=1)
    written(tmp_path / "d", one, images=50)
    for generator, images, seed, said in [
        (one, 60, 5, "images 50, not 60"),
        (one, 50, 6, "seed 5, not 6"),
        (other, 50, 5, "draws_sha256"),
    ]:
        with pytest.raises(BadConfigError, match=said):
            written(tmp_path / "d", generator, images=images, seed=seed)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(BadConfigError, match="is not empty"):
        written(tmp_path / "mine", one)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_damaged_data_set_is_not_called_whole(tmp_path):
    generator = saved_model(tmp_path / "m")
    written(tmp_path / "d", generator, images=50)
    (tmp_path / "d/images/000000007.png").write_bytes(b"damaged")
    with pytest.raises(DamagedError, match="000000007"):
        written(tmp_path / "d", generator, images=50)


def test_card_says_what_it_is(tmp_path):
    generator = saved_model(tmp_path / "k", classes=3)
    card = written(tmp_path / "d", generator, images=70)["README.md"].decode()
    assert "70 synthetic images" in card and "| seed, temperature | 5, 1 |" in card and "8 x 8 pixels, RGB" in card
    assert sum(int(line.split("|")[2]) for line in card.splitlines() if line.startswith(("| ape", "| bee", "| cat"))) == 70
    assert read_json(tmp_path / "d/dataset.json")["images"] == 70


def test_label_that_is_no_folder_name_is_made_one():
    assert [_folder_name(label) for label in ("cat", "", "../etc", "a/b", " .", "Ärger 7")] == [
        "cat", "images", "_etc", "a_b", "images", "Ärger 7"
    ]  # fmt: skip

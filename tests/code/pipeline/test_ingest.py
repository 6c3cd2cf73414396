"""Ingest: a block's answer, whatever its members are; the same blocks here and on a real Ray cluster."""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline import ingest
from pipeline.cluster import connected, load_profile
from pipeline.ingest import Block, Task, decode_block, decode_here, decode_on_ray
from pipeline.measures import Filters
from vae.decode import Rules

RULES = Rules(8, 8, "RGB", "crop", "lanczos", (255, 255, 255), 4, 20.0, 10**6)
OPEN = Filters(0, 0, 0, 255)
DEADLY_WIDTH = 77


def archive_of(path: Path, files: dict[str, bytes]) -> list[str]:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return list(files)


def facts(block: Block) -> tuple:
    measures = {name: values.tolist() for name, values in block.measures.items()}
    return block.pixels.tolist(), block.numbers, block.sha256, block.widths, block.heights, block.modes, measures, block.rejected


def test_decode_block_answers_for_every_member(tmp_path, picture, monkeypatch):
    path, good = tmp_path / "a.zip", picture(1, 9, 7)
    archive_of(path, {"b.png": good, "damaged.png": good, "huge.png": good + b"\0" * 5000, "text.png": b"text", "a.png": good})
    data = bytearray(path.read_bytes())
    data[data.index(b"damaged.png") + 200] ^= 0xFF
    path.write_bytes(data)
    monkeypatch.setattr(ingest, "MAX_FILE_BYTES", len(good) + 100)
    names = ["b.png", "damaged.png", "huge.png", "missing.png", "text.png", "a.png"]
    block = decode_block(Task(path, [10, 11, 12, 13, 14, 15], names), RULES, OPEN)
    assert block.numbers == [10, 15] and block.pixels.shape == (2, 8, 8, 3)
    assert (block.widths, block.heights, block.modes) == ([9, 9], [7, 7], ["RGB", "RGB"])
    assert block.sha256 == [hashlib.sha256(image.tobytes()).hexdigest() for image in block.pixels]
    assert [(n, r) for n, r, _ in block.rejected] == [
        (11, "unreadable"),
        (12, "unreadable"),
        (13, "unreadable"),
        (14, "not_an_image"),
    ]
    assert "CRC" in block.rejected[0][2] and "bytes" in block.rejected[1][2]


def test_decode_block_filters_keep_the_picture_for_the_report(tmp_path, picture):
    path = tmp_path / "a.zip"
    names = archive_of(path, {f"{i}.png": picture(i) for i in range(6)})
    everything = decode_block(Task(path, list(range(6)), names), RULES, OPEN)
    limit = float(np.median(everything.measures["brightness"]))
    block = decode_block(Task(path, list(range(6)), names), RULES, Filters(0, 0, limit, 255))
    refused = [n for n, reason, _ in block.rejected if reason == "too_dark"]
    assert sorted(block.numbers + refused) == list(range(6)) and 0 < len(refused) < 6
    for number in refused:
        np.testing.assert_array_equal(block.refused_pixels[number], everything.pixels[number])
    np.testing.assert_array_equal(block.measures["brightness"], everything.measures["brightness"][block.numbers])


class Deadly(int):
    """A pixel limit that ends the process for a picture of one width, as a broken decoder would."""

    def __lt__(self, other: int) -> bool:
        if other == DEADLY_WIDTH * 12:
            os._exit(1)
        return int(self) < other


@pytest.mark.usefixtures("ray_settings", "ray_paths")
def test_decode_on_ray_gives_the_blocks_of_one_process_and_survives_a_decoder_that_dies(tmp_path, picture, project):
    path = tmp_path / "a.zip"
    names = archive_of(path, {f"{i}.png": picture(i, 9 + i % 4, 12) for i in range(40)})
    names += archive_of(tmp_path / "b.zip", {"deadly.png": picture(99, DEADLY_WIDTH, 12), "well.png": picture(98)})
    tasks = [Task(path, list(range(s, s + 10)), names[s : s + 10]) for s in range(0, 40, 10)]
    with connected(load_profile(project.paths), project.paths, 1):
        import ray  # not before: it reads its settings when it is imported

        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        there = [facts(block) for block in decode_on_ray(tasks, RULES, OPEN)]
        deadly = Rules(8, 8, "RGB", "crop", "lanczos", (255, 255, 255), 4, 20.0, Deadly(10**6))
        broken = list(decode_on_ray([Task(tmp_path / "b.zip", [0, 1], ["deadly.png", "well.png"])], deadly, OPEN))
    assert there == [facts(block) for block in decode_here(tasks, RULES, OPEN)]
    assert [n for block in broken for n in block.numbers] == [1]
    assert [(n, r) for block in broken for n, r, _ in block.rejected] == [(0, "decoder_crashed")]


@pytest.fixture
def ray_paths(project):
    (project.root / "infra" / "ray").mkdir(parents=True)
    text = "address: local\nworkers: 1\ncpus_per_worker: 1\ngpus_per_worker: 0\nthreads_per_worker: 1\n"
    (project.root / "infra" / "ray" / "laptop.yaml").write_text(text)

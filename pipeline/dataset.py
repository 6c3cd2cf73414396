"""A data set of images that a model draws, for other people's tests: any number, in parts, each a function of (model, seed, part).

A folder of PNGs by label with labels.csv, or Parquet files; beside them a card that says what they are, and a manifest of hashes. Killed
at any time, the same command goes on with the part that it was at, and leaves the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.console import progress
from pipeline.errors import BadConfigError
from vae.artefact import Generator
from vae.files import MANIFEST, canonical_json, read_json, read_manifest, replaced_file, write_manifest, write_text
from vae.pictures import grid, pictures, save_png

PART_IMAGES = 1000
FORMS = ("folder", "parquet")
DESCRIPTION, DONE, CARD, CONTACT, TABLE = "dataset.json", ".parts", "README.md", "contact.png", "labels.csv"
MOST = 10**9
SHOWN, COLUMNS, PROBE = 64, 16, 8
UNLABELLED = "images"


@dataclass(frozen=True)
class Order:
    """What is drawn: everything that decides a byte of it."""

    model: str
    draws_sha256: str  # of images that it draws for seed 0: tells other weights, another prior, another kind of machine
    images: int
    seed: int
    temperature: float
    kept: str  # of how many candidates which
    form: str


Draw = Callable[[int, int, float], np.ndarray]  # so many images for a seed at a temperature


def ordered(called: str, generator: Generator, images: int, seed: int, temperature: float, kept: str, form: str) -> Order:
    """The order of so many images of a model."""
    draws = hashlib.sha256(generator.sample(PROBE, 0).tobytes()).hexdigest()
    return Order(called, draws, images, seed, temperature, kept, form)


class Dataset:
    """The data set of an order in a folder, which is empty or holds a part of the very same one.

    ``draw`` draws the images of a part, of the classes that the model has for its seed. BadConfigError where the folder holds anything
    else.
    """

    def __init__(self, folder: Path, order: Order, generator: Generator, draw: Draw) -> None:
        self._folder, self._order, self._generator, self._draw = folder, order, generator, draw
        self._names: list[str] = generator.contract["labels"] if generator.config.classes else []
        told, ours = folder / DESCRIPTION, asdict(order)
        if told.exists():
            theirs = read_json(told)
            differing = [f"{key} {theirs.get(key)!r}, not {value!r}" for key, value in ours.items() if theirs.get(key) != value]
            if differing:
                raise BadConfigError(f"--out {folder} holds another data set ({'; '.join(differing)}): name another folder")
        elif folder.exists() and any(folder.iterdir()):
            raise BadConfigError(f"--out {folder} is not empty: name a new folder")
        (folder / DONE).mkdir(parents=True, exist_ok=True)
        write_text(told, canonical_json(ours))

    def write(self) -> int:
        """Draw what is missing, then the card; returns how many images were drawn now."""
        if (self._folder / MANIFEST).exists():
            read_manifest(self._folder)
            return 0
        parts = range(-(-self._order.images // PART_IMAGES))
        missing = [part for part in parts if not (self._folder / DONE / f"{part:06d}").exists()]
        drawn = 0
        for part in progress(missing, len(missing), "parts", "drawing"):
            drawn += self._write_part(part)
        if self._order.form == "folder":
            self._write_table()
        self._write_card()
        for mark in (self._folder / DONE).iterdir():
            mark.unlink()
        (self._folder / DONE).rmdir()
        write_manifest(self._folder, **asdict(self._order))
        return drawn

    def _count(self, part: int) -> int:
        return min(PART_IMAGES, self._order.images - part * PART_IMAGES)

    def _seed(self, part: int) -> int:
        return int(np.random.SeedSequence([self._order.seed, part]).generate_state(1, np.uint64)[0] >> 1)

    def _labels(self, part: int) -> list[str]:
        """The label of each image of a part, '' where the model knows none."""
        label_N = self._generator.classes(self._count(part), self._seed(part))
        return [""] * self._count(part) if label_N is None else [self._names[label] for label in label_N.tolist()]

    def _files(self, part: int) -> list[str]:
        """The name of each image's file below the folder."""
        numbers = range(part * PART_IMAGES, part * PART_IMAGES + self._count(part))
        folders = [_folder_name(label) for label in self._labels(part)]
        return [f"{folder}/{number:09d}.png" for number, folder in zip(numbers, folders, strict=True)]

    def _write_part(self, part: int) -> int:
        drawn, mode = self._draw(self._count(part), self._seed(part), self._order.temperature), self._generator.contract["mode"]
        contents, names, labels = [_png(picture) for picture in pictures(drawn, mode)], self._files(part), self._labels(part)
        if part == 0:
            save_png(grid(drawn[:SHOWN], COLUMNS, mode=mode), self._folder / CONTACT)
        if self._order.form == "parquet":
            table = pa.table({"name": names, "label": labels, "image": pa.array(contents, pa.binary())})
            with replaced_file(self._folder / f"part-{part:06d}.parquet") as beside:
                pq.write_table(table, beside)
        else:
            for folder in {name.partition("/")[0] for name in names}:
                (self._folder / folder).mkdir(exist_ok=True)
            # A part that was cut off is written again, with the same bytes.
            for name, content in zip(names, contents, strict=True):
                (self._folder / name).write_bytes(content)
        (self._folder / DONE / f"{part:06d}").touch()
        return len(names)

    def _write_table(self) -> None:
        height, width, _ = self._generator.config.image_shape
        with replaced_file(self._folder / TABLE) as beside, beside.open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream, lineterminator="\n")
            rows.writerow(["id", "file_name", "width", "height", "category"])
            for part in range(-(-self._order.images // PART_IMAGES)):
                for place, (name, label) in enumerate(zip(self._files(part), self._labels(part), strict=True)):
                    rows.writerow([part * PART_IMAGES + place, name, width, height, label])

    def _write_card(self) -> None:
        counts: dict[str, int] = {}
        for part in range(-(-self._order.images // PART_IMAGES)):
            for label in self._labels(part):
                counts[label] = counts.get(label, 0) + 1
        write_text(self._folder / CARD, _card(self._order, self._generator, counts))


def _folder_name(label: str) -> str:
    """A label as the name of a folder: no separators, nothing hidden."""
    return "".join(c if c.isalnum() or c in "-_ ." else "_" for c in label).strip(" .") or UNLABELLED


def _png(picture: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=False)  # type: ignore[attr-defined]
    return buffer.getvalue()


def _card(order: Order, generator: Generator, counts: dict[str, int]) -> str:
    (height, width, _), mode = generator.config.image_shape, generator.contract["mode"]
    where = (
        f"`<label>/<number>.png`; `{TABLE}`: id, file_name, width, height, category"
        if order.form == "folder"
        else "`part-*.parquet`: name, label, image (the bytes of a PNG)"
    )
    labels = "\n".join(f"| {label or 'none'} | {count:,} |" for label, count in sorted(counts.items()))
    trained = generator.contract.get("data_manifest", "not recorded")
    return f"""# {order.images:,} synthetic images

Drawn by a variational autoencoder; none is a photograph of anything. Looks: `{CONTACT}`.

| | |
|---|---|
| model | {order.model} ({generator.config.name}, {generator.config.latent_dim} latents) |
| what it draws for seed 0 | sha256 of {PROBE} images: {order.draws_sha256} |
| trained on | the data set whose manifest has sha256 {trained} |
| seed, temperature | {order.seed}, {order.temperature:g} |
| of the candidates | {order.kept} |
| images | {width} x {height} pixels, {"L" if mode == "L" else "RGB"} |
| files | {where} |
| hashes | `{MANIFEST}` |

| label | images |
|---|---|
{labels}

Labels are those that the model was told to draw, as frequent as among its training images; nobody has looked whether each image
shows its label (`class_accuracy` of the model's report says how often a classifier agrees). The same command on the same kind of
machine gives the same bytes.

Good for trying out software that reads images. Not for judging a model that was trained on the same data, and not free of what the
training images show: a model may come near to some of them (`near_share` of its report).
"""

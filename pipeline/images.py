"""Points params.yaml at one's own images: the source, and what a look at some of them suggests for size, mode and model name.

This is a person's command, no stage: it writes params.yaml, in the open, where `git diff` shows what it chose.
"""

from __future__ import annotations

import logging
import re
import statistics
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from pipeline import params
from pipeline.errors import BadDataError, InputMissingError
from pipeline.paths import Paths
from pipeline.raw import Content, Unreadable, opened
from pipeline.sources import manifest
from pipeline.sources.archive import ARCHIVE_SUFFIXES, Limits, count_files, read_tar, read_zip
from pipeline.sources.arrays import npz_shapes
from pipeline.sources.folder import open_regular, walk
from pipeline.sources.path import FILE_SUFFIXES
from vae.files import write_text

LOOKED_AT = 200  # files, evenly spread
MOST_BYTES = 2**26  # of one of them
ANY = Limits(members=10**8, total_bytes=2**60)  # the stage has limits that one can set; here only what is never right is refused
SIDES = (32, 64)  # offered to photographs: what two cores train in minutes
SMALLEST = 8  # the least base.image_size
SMALL = 48  # up to here a square set keeps its own size
LATENT_DIMS = ((16, 64), (32, 128))  # searched for small and for large pictures: natural images have more than six factors
BETAS = (0.3, 2.0)  # searched: around the bound itself, where pictures are sharpest
FEW_IMAGES = 3000  # below: too few validation images for the Fréchet distance, so the search ranks by the bound
COLUMN_NAMES = {  # of a list, in the order of preference
    "url": ("url", "image_url", "image", "link", "path", "image_path", "file", "filename", "file_name"),
    "label": ("label", "class", "category"),
    "split": ("split", "subset"),
    "sha256": ("sha256",),
}
log = logging.getLogger("pipeline.images")


@dataclass(frozen=True)
class Look:
    """What some of the input's images are like."""

    files: int
    grey: bool
    square_side: int | None  # the one size of all of them, where they are square and agree
    short_side: int  # 0 where none could be looked at


def _sampled(origin: Path) -> tuple[int, Iterator[bytes]]:
    """The number of files, and the bytes of about LOOKED_AT of them."""
    name = origin.name.lower()
    if origin.is_dir():
        files = [entry.path for entry in walk(origin) if not entry.reason]
        return len(files), _read(origin, files)
    if name.endswith(ARCHIVE_SUFFIXES):
        count = count_files(origin, ANY)
        return count, _members(origin, max(1, count // LOOKED_AT))
    if name.endswith(manifest.SUFFIXES):  # links are not asked for; what lies here may be looked at
        rows = list(manifest.read(origin, SimpleNamespace(**_columns(origin))))
        return len(rows), _read(origin.parent, [row.place for row in rows if row.place and not row.is_url])
    raise BadDataError(f"{origin} is neither a folder nor a .zip, .tar or .tar.gz: pack the images or name their folder")


def _members(origin: Path, step: int) -> Iterator[bytes]:
    is_zip = origin.name.lower().endswith(".zip")
    found: Iterator[tuple[str, Content]] = read_zip(origin, ANY, step) if is_zip else islice(read_tar(origin, ANY), 0, None, step)
    for _, content in islice(found, LOOKED_AT):
        with suppress(Unreadable), opened(content) as stream:
            yield stream.read(MOST_BYTES)


def _columns(origin: Path) -> dict[str, str]:
    """The list's columns by what their names say; BadDataError where none says that it holds links."""
    have = {name.lower(): name for name in manifest.columns(origin)}
    found = {f"{key}_column": next((have[n] for n in names if n in have), "") for key, names in COLUMN_NAMES.items()}
    if not found["url_column"]:
        raise BadDataError(
            f"{origin} has no column named {', '.join(COLUMN_NAMES['url'])}: name yours in params.yaml "
            f"(download.source: manifest, download.url_column); it has {', '.join(have.values()) or 'none'}"
        )
    return found


def _read(folder: Path, files: list[str]) -> Iterator[bytes]:
    for file in files[:: max(1, len(files) // LOOKED_AT)][:LOOKED_AT]:
        with suppress(Unreadable), open_regular(folder / file) as stream:
            yield stream.read(MOST_BYTES)


def _look_at_arrays(origin: Path) -> Look:
    shapes = npz_shapes(origin)
    if not shapes or any(len(shape) not in (3, 4) for shape in shapes):
        raise BadDataError(f"{origin} has no arrays of images named x_train, train_images, images or x: name a folder or archive")
    heights, widths = {shape[1] for shape in shapes}, {shape[2] for shape in shapes}
    one_square = heights == widths and len(heights) == 1
    grey = all(shape[3:] in ((), (1,)) for shape in shapes)
    return Look(sum(shape[0] for shape in shapes), grey, min(heights) if one_square else None, min(heights | widths))


def look(origin: Path) -> Look:
    """Open some files and say what they are like; InputMissingError or BadDataError where there is no image among them."""
    if not origin.exists():
        raise InputMissingError(
            f"{origin} does not exist: IMAGES names a folder, .zip, .tar or .tar.gz of images, or a .csv or .parquet of links"
        )
    if origin.name.lower().endswith(".npz") and origin.is_file():
        return _look_at_arrays(origin)
    sizes, grey = [], True
    try:
        count, contents = _sampled(origin)
        if not count:
            raise InputMissingError(f"{origin} holds no files: put images into it, or name another folder or archive")
        for data in contents:
            try:
                with Image.open(BytesIO(data)) as picture:
                    sizes.append(picture.size)
                    grey = grey and picture.mode in ("1", "L", "LA", "I", "I;16", "F")
            except Exception:  # whatever a file is, preprocess will say so; here it is just no hint
                log.debug("a file that is no image", exc_info=True)
    except tarfile.TarError as error:
        raise BadDataError(f"{origin} cannot be read ({error}): make the archive anew, or name a folder") from None
    if not sizes and origin.name.lower().endswith(manifest.SUFFIXES):
        return Look(count, False, None, 0)
    if not sizes:
        raise BadDataError(
            f"no image found among {count} files of {origin}: name a folder or archive of PNG, JPEG, WebP, ... files"
        )
    width, height = sizes[0]
    one_square = width == height and all(size == sizes[0] for size in sizes)
    return Look(count, grey, width if one_square else None, int(statistics.median(min(size) for size in sizes)))


def _source(origin: Path) -> str:
    return "manifest" if origin.name.lower().endswith(manifest.SUFFIXES) and not origin.is_dir() else "path"


def suggest(origin: Path, seen: Look, strides: int) -> dict[str, Any]:
    """Values of params.yaml for such images; ``strides`` is what the picture's side must divide by."""
    size = SIDES[0] if seen.short_side < SIDES[1] else SIDES[1]
    if seen.square_side and SMALLEST <= seen.square_side <= SMALL and seen.square_side % strides == 0:
        size = seen.square_side
    stem = origin.resolve().name.lower()
    for suffix in (*FILE_SUFFIXES, *manifest.SUFFIXES):
        stem = stem.removesuffix(suffix)
    values: dict[str, Any] = {
        "download.source": _source(origin),
        "download.path": str(origin),
        "preprocess.duplicates": "near",
        "fit.beta_anneal_share": 0.0,  # separated factors cost sharpness; on the embedded set they are what there is to see
        "augment.copies": 0,  # mirrored digits or text would be other images; whoever knows the data switches it on
        "augment.on_the_fly": False,
        "register.name": re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-") or "images",
    }
    if seen.short_side:
        values |= {"base.image_size": size, "base.mode": "L" if seen.grey else "RGB"}
    if _source(origin) == "manifest":
        values |= {f"download.{key}": name for key, name in _columns(origin).items()}
    low, high = LATENT_DIMS[0] if size < SIDES[1] else LATENT_DIMS[1]
    values |= {"tune.latent_dim_min": low, "tune.latent_dim_max": high, "tune.beta_min": BETAS[0], "tune.beta_max": BETAS[1]}
    values["train.latent_dim"] = high  # of a training without search: beta prices out those that are not needed
    if seen.files < FEW_IMAGES:
        values["tune.score"] = "elbo_nats"
    return values


def use(origin: str, paths: Paths) -> dict[str, Any]:
    """Write the suggestions for ``origin`` into params.yaml, unless it is the source already; returns what was written."""
    expanded = Path(origin).expanduser()
    text = params.read_text(paths.params)
    current = params.check(text, paths.params.name)
    if current.download.source == _source(expanded) and current.download.path == str(expanded):
        return {}
    values = suggest(expanded, look(expanded), 2 ** len(current.fit.widths))
    changed = params.edited(text, values)
    params.check(changed, paths.params.name)
    write_text(paths.params, changed)
    return values

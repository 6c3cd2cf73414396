"""Stages download and preprocess on sets made for them: how time and memory go with the number of images, and a set that grows.

Rows of benchmarks/ingest.py.
"""

from __future__ import annotations

import io
import itertools
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.peak import Peak
from benchmarks.project import Project
from benchmarks.rows import REAL

STAGES = "download", "preprocess"


def photograph(seed: int, width: int, height: int, quality: int = 80) -> bytes:
    """A JPEG with large shapes and fine grain, about 1 MB at 12 megapixels."""
    rng = np.random.default_rng(seed)
    large = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    grain = Image.fromarray(rng.integers(100, 156, (height // 4, width // 4, 3), np.uint8)).resize((width, height))
    buffer = io.BytesIO()
    Image.blend(large, grain, 0.25).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def project_of(root: Path, values: dict[str, Any]) -> Project:
    project = Project(root)
    project.set({"base.mode": "RGB"} | values)
    return project


def _tiny(count: int, side: int, form: str, **options: object) -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(0)
    for i in range(count):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(buffer, form, **options)
        yield f"{i % 10}/{i:07d}.{form.lower()}", buffer.getvalue()


def _stage(name: str, project: Project) -> dict[str, float]:
    started = time.perf_counter()
    process = project.start(name)
    peak = Peak(process.pid)
    process.wait()
    seconds = time.perf_counter() - started
    peak.close()
    if process.returncode:
        raise SystemExit(f"stage {name} failed with exit code {process.returncode} in {project.root}")
    return {
        "seconds": round(seconds, 1),
        "peak_mib": round(peak.own_mib),
        "peak_mib_with_ray": round(peak.tree_mib),
    }


def _both(project: Project) -> dict[str, dict[str, float]]:
    """Both stages, each on a disk that has nothing of earlier ones left to write, as on the day on which images are added.

    Nobody looks at their memory meanwhile: to count the pages of a process holds it up.
    """
    found = {}
    for name in STAGES:
        os.sync()
        found[name] = {"seconds": round(project.stage(name), 2)}
    return found


def scale(work: Path, counts: tuple[int, ...] = (10_000, 100_000, 1_000_000)) -> dict[str, Any]:
    """Both stages on archives of tiny images of 16x16 pixels."""
    found = {}
    for count in counts:
        root = work / f"scale-{count}"
        root.mkdir()
        with zipfile.ZipFile(root / "input.zip", "w") as archive:
            for name, data in _tiny(count, 16, "PNG", compress_level=1):
                archive.writestr(name, data)
        values = {"download.source": "path", "download.path": "input.zip", "base.image_size": 16, "preprocess.duplicates": "near"}
        project = project_of(root, values)
        found[str(count)] = {name: _stage(name, project) for name in STAGES}
        print(count, found[str(count)], flush=True)
        shutil.rmtree(root)
    return found


def _grown(work: Path, files: Iterator[tuple[str, bytes]], count: int, added: int, kind: str = "near") -> dict[str, Any]:
    """Both stages on an archive of ``count`` files, then on the same with ``added`` more; duplicates of that ``kind`` are looked for."""
    project = project_of(work, {"download.source": "path", "download.path": "input.zip", "preprocess.duplicates": kind})
    with zipfile.ZipFile(work / "input.zip", "w") as archive:
        for _, (name, data) in zip(range(count), files, strict=False):
            archive.writestr(name, data)
    whole = _both(project)
    with zipfile.ZipFile(work / "input.zip", "a") as archive:
        for name, data in files:
            archive.writestr(name, data)
    grown = _both(project)
    share = {name: round(grown[name]["seconds"] / whole[name]["seconds"], 4) for name in whole}
    return {"images": count, "added": added, "whole": whole, "grown": grown, "share_of_the_time": share}


def grow(work: Path, count: int = 100_000, added: int = 100) -> dict[str, Any]:
    """preprocess of JPEGs of 128x128 pixels, then of the same and some more."""
    return _grown(work, _tiny(count + added, 128, "JPEG", quality=75), count, added)


def grow_pictures(work: Path, count: int = 100_000, added: int = 100) -> dict[str, Any]:
    """The same of pictures of 640x480 pixels, as scrapes have them: no two alike."""
    with get_context("spawn").Pool() as pool:
        made = pool.imap(partial(photograph, width=640, height=480), range(count + added), chunksize=64)
        return _grown(work, ((f"{i % 10}/{i:07d}.jpg", data) for i, data in enumerate(made)), count, added)


def _exposures(jpeg: bytes) -> Iterator[bytes]:
    """The JPEG 200 times, no two of the same pixels: other mean steps of light and of colour, which no new encoding is needed for."""
    light, colour = (jpeg.index(b"\xff\xdb\x00\x43" + bytes([table])) + 5 for table in (0, 1))
    for step_of_light in range(4, 14):
        for step_of_colour in range(4, 24):
            changed = bytearray(jpeg)
            changed[light], changed[colour] = step_of_light, step_of_colour
            yield bytes(changed)


def grow_photographs(work: Path, count: int = 100_000, added: int = 100) -> dict[str, Any]:
    """The same of photographs of 2 megapixels: every scene in 200 exposures, so that only exact duplicates are looked for."""
    made = (each for seed in itertools.count() for each in _exposures(photograph(seed, 1632, 1224)))
    files = ((f"{i % 10}/{i:07d}.jpg", data) for i, data in enumerate(itertools.islice(made, count + added)))
    return _grown(work, files, count, added, "exact")


def grow_digits(work: Path, added: int = 100) -> dict[str, Any]:
    """The same of MNIST's digits, of which hundreds of thousands of pairs look alike: each is looked at once."""
    with zipfile.ZipFile(REAL / "mnist-png.zip") as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        late = names[:: len(names) // added][:added]
        ordered = [*(name for name in names if name not in set(late)), *late]
        return _grown(work, ((name, archive.read(name)) for name in ordered), len(names) - added, added)

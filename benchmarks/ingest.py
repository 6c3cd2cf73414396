"""How fast images come in: ``python -m benchmarks.ingest [row ...]`` writes docs/results/ingest.json.

small, photographs: decode + convert + resize + pack of this project against a bare Pillow loop that only decodes and resizes, on
as many processes, alternating, medians. scale: time and peak memory of stages download and preprocess for 10,000, 100,000 and
1,000,000 tiny images. grow, grow-pictures, grow-photographs, grow-digits: both of a set grown
by 100 against the whole set (benchmarks/growth.py).
duplicates: recall on planted copies, and groups found among real training images. Everything is generated but the real images, which
lie beside the checkout.
"""

from __future__ import annotations

import io
import os
import resource
import shutil
import statistics
import time
import zipfile
from collections.abc import Callable
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.growth import grow, grow_digits, grow_photographs, grow_pictures, photograph, project_of, scale
from benchmarks.project import Project
from benchmarks.rows import REAL, Row, measure
from pipeline.cluster import connected, load_profile
from pipeline.duplicates import groups, look, perceptual_hash
from pipeline.ingest import BLOCK_FILES, Task, decode_on_ray
from pipeline.measures import Filters, luminance
from pipeline.paths import Paths
from vae.data import ShardWriter
from vae.decode import Rules

ROUNDS = 5
RULES = Rules(32, 32, "RGB", "crop", "lanczos", (255, 255, 255), 8, 20.0, 10**8)
OPEN = Filters(0, 0, 0, 255)


@lru_cache(maxsize=1)
def _opened(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _bare(task: Task) -> int:
    archive = _opened(task.archive)  # once per process
    for name in task.names:
        picture = Image.open(io.BytesIO(archive.read(name)))
        picture.draft("RGB", (2 * RULES.width, 2 * RULES.height))
        picture.convert("RGB").resize((RULES.width, RULES.height), Image.Resampling.LANCZOS)
    return len(task.names)


def _tasks(archive: Path, block_files: int) -> list[Task]:
    with zipfile.ZipFile(archive) as opened:
        names = [info.filename for info in opened.infolist() if not info.is_dir()]
    starts = range(0, len(names), block_files)
    return [Task(archive, list(range(s, min(s + block_files, len(names)))), names[s : s + block_files]) for s in starts]


def _ours(tasks: list[Task], directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    writer = ShardWriter(directory, RULES.shape, 8192)
    for block in decode_on_ray(tasks, RULES, OPEN):
        writer.add_all(block.pixels)
    writer.close()


def _versus_bare(archive: Path, block_files: int, rounds: int, project: Project) -> dict[str, Any]:
    paths = Paths(project.root)
    tasks, processes = _tasks(archive, block_files), os.cpu_count() or 1
    files, seconds = sum(len(task.names) for task in tasks), {"ours": [], "bare": []}
    with get_context("spawn").Pool(processes) as pool, connected(load_profile(paths), paths, 1):
        runs: dict[str, Callable[[], Any]] = {
            "bare": lambda: sum(pool.imap(_bare, tasks)),
            "ours": lambda: _ours(tasks, paths.root / "packed"),
        }
        for run in runs.values():  # processes start, files come into memory
            run()
        for _ in range(rounds):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "files": files,
        "processes": processes,
        "rounds": rounds,
        "images_per_second": {name: round(files / value) for name, value in medians.items()},
        "ours_over_bare": round(medians["bare"] / medians["ours"], 3),
    }


def small(work: Path) -> dict[str, Any]:
    """60,000 small JPEGs."""
    return _versus_bare(REAL / "cifar10-jpg.zip", BLOCK_FILES, ROUNDS, project_of(work, {}))


def photographs(work: Path, count: int = 2000, different: int = 50) -> dict[str, Any]:
    """2,000 photographs of 12 megapixels, in copies of some that differ."""
    made = [photograph(seed, 4000, 3000) for seed in range(different)]
    archive = work / "photographs.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for i in range(count):
            opened.writestr(f"{i:05d}.jpg", made[i % different])
    result = _versus_bare(archive, 16, 3, project_of(work, {}))
    archive.unlink()
    return result | {"different": different, "mean_bytes": round(sum(map(len, made)) / different)}


def _changed(image: np.ndarray, change: str) -> np.ndarray:
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    if change == "mirrored":
        return image[:, ::-1]
    kind, number = change.split()
    if kind == "jpeg":
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=int(number))
        picture = Image.open(buffer)
    else:
        sides = [round(side * float(number)) for side in picture.size]
        picture = picture.resize(sides, Image.Resampling.LANCZOS).resize(picture.size, Image.Resampling.LANCZOS)
    return np.asarray(picture).reshape(image.shape)


def duplicates(_work: Path, planted: int = 600) -> dict[str, Any]:
    """Recall on planted copies among the real training images, and the groups that the real images alone give."""
    changes = ("jpeg 30", "jpeg 50", "jpeg 75", "jpeg 90", "resized 0.5", "resized 0.75", "resized 1.5", "resized 2", "mirrored")
    found = {}
    for name, mode in (("mnist-png", "L"), ("cifar10-jpg", "RGB")):
        with zipfile.ZipFile(REAL / f"{name}.zip") as archive:
            names = sorted(n for n in archive.namelist() if n.startswith("train/") and not n.endswith("/"))
            images = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(n))).convert(mode)) for n in names])
        images = images.reshape(*images.shape[:3], -1)
        light = luminance(images, mode)
        number = groups(len(light), look(perceptual_hash(light), lambda rows, light=light: light[rows]).near_pairs())
        real = int((np.bincount(number) > 1).sum())
        chosen = np.random.default_rng(0).choice(len(images), planted, replace=False)
        recall = {}
        for change in changes:
            copies = np.stack([_changed(images[i], change) for i in chosen])
            both = np.concatenate([light, luminance(copies, mode)])
            pairs = {
                tuple(pair) for pair in look(perceptual_hash(both), lambda rows, both=both: both[rows]).near_pairs().tolist()
            }
            recall[change] = round(sum((i, len(images) + j) in pairs for j, i in enumerate(chosen.tolist())) / planted, 4)
        found[name] = {
            "images": len(images),
            "groups_found": real,
            "groups_per_image": round(real / len(images), 6),
            "recall": recall,
        }
    return found


ROWS: dict[str, Row] = {
    "small": small, "photographs": photographs, "scale": scale, "grow": grow, "grow-pictures": grow_pictures,
    "grow-photographs": grow_photographs, "grow-digits": grow_digits, "duplicates": duplicates,
}  # fmt: skip


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    measure("ingest", ROWS, __doc__)

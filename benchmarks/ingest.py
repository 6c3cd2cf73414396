"""How fast images come in: ``python -m benchmarks.ingest [row ...]`` writes docs/results/ingest.json.

small, photographs: decode + convert + resize + pack of this project against a bare Pillow loop that only decodes and resizes, on
as many processes, alternating, medians. scale: time and peak memory of stages download and preprocess for 10,000, 100,000 and
1,000,000 tiny images. grow, grow-pictures: both of a set grown by 100 against the whole set. duplicates: recall on planted
copies, and groups found among real training images. Everything is generated here but the real images, which lie beside the checkout.
"""

from __future__ import annotations

import io
import os
import resource
import shutil
import statistics
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.peak import Peak
from benchmarks.project import Project
from benchmarks.rows import REAL, Row, measure
from pipeline.cluster import connected, load_profile
from pipeline.duplicates import groups, near_pairs, perceptual_hash
from pipeline.ingest import BLOCK_FILES, Task, decode_on_ray
from pipeline.measures import Filters, luminance
from pipeline.paths import Paths
from vae.data import ShardWriter
from vae.decode import Rules

ROUNDS = 5
RULES = Rules(32, 32, "RGB", "crop", "lanczos", (255, 255, 255), 8, 20.0, 10**8)
OPEN = Filters(0, 0, 0, 255)


def _photograph(seed: int, width: int, height: int, quality: int = 80) -> bytes:
    """A JPEG with large shapes and fine grain, about 1 MB at 12 megapixels."""
    rng = np.random.default_rng(seed)
    large = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    grain = Image.fromarray(rng.integers(100, 156, (height // 4, width // 4, 3), np.uint8)).resize((width, height))
    buffer = io.BytesIO()
    Image.blend(large, grain, 0.25).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


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
    return _versus_bare(REAL / "cifar10-jpg.zip", BLOCK_FILES, ROUNDS, _project(work, {}))


def photographs(work: Path, count: int = 2000, different: int = 50) -> dict[str, Any]:
    """2,000 photographs of 12 megapixels, in copies of some that differ."""
    made = [_photograph(seed, 4000, 3000) for seed in range(different)]
    archive = work / "photographs.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for i in range(count):
            opened.writestr(f"{i:05d}.jpg", made[i % different])
    result = _versus_bare(archive, 16, 3, _project(work, {}))
    archive.unlink()
    return result | {"different": different, "mean_bytes": round(sum(map(len, made)) / different)}


def _project(root: Path, values: dict[str, Any]) -> Project:
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
        project = _project(root, values)
        found[str(count)] = {name: _stage(name, project) for name in ("download", "preprocess")}
        print(count, found[str(count)], flush=True)
        shutil.rmtree(root)
    return found


def _grown(work: Path, files: Iterator[tuple[str, bytes]], count: int, added: int) -> dict[str, Any]:
    """Both stages on an archive of ``count`` files, then on the same with ``added`` more."""
    values = {"download.source": "path", "download.path": "input.zip", "preprocess.duplicates": "near"}
    project = _project(work, values)
    with zipfile.ZipFile(work / "input.zip", "w") as archive:
        for _, (name, data) in zip(range(count), files, strict=False):
            archive.writestr(name, data)
    whole = {name: _stage(name, project) for name in ("download", "preprocess")}
    with zipfile.ZipFile(work / "input.zip", "a") as archive:
        for name, data in files:
            archive.writestr(name, data)
    grown = {name: _stage(name, project) for name in ("download", "preprocess")}
    share = {name: round(grown[name]["seconds"] / whole[name]["seconds"], 4) for name in whole}
    return {"images": count, "added": added, "whole": whole, "grown": grown, "share_of_the_time": share}


def grow(work: Path, count: int = 100_000, added: int = 100) -> dict[str, Any]:
    """preprocess of JPEGs of 128x128 pixels, then of the same and some more."""
    return _grown(work, _tiny(count + added, 128, "JPEG", quality=75), count, added)


def grow_pictures(work: Path, count: int = 100_000, added: int = 100) -> dict[str, Any]:
    """The same of pictures of 640x480 pixels, as scrapes have them: no two alike."""
    with get_context("spawn").Pool() as pool:
        made = pool.imap(partial(_photograph, width=640, height=480), range(count + added), chunksize=64)
        return _grown(work, ((f"{i % 10}/{i:07d}.jpg", data) for i, data in enumerate(made)), count, added)


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
        number = groups(len(light), near_pairs(perceptual_hash(light), lambda rows, light=light: light[rows]))
        real = int((np.bincount(number) > 1).sum())
        chosen = np.random.default_rng(0).choice(len(images), planted, replace=False)
        recall = {}
        for change in changes:
            copies = np.stack([_changed(images[i], change) for i in chosen])
            both = np.concatenate([light, luminance(copies, mode)])
            pairs = {tuple(pair) for pair in near_pairs(perceptual_hash(both), lambda rows, both=both: both[rows]).tolist()}
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
    "duplicates": duplicates,
}  # fmt: skip


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    measure("ingest", ROWS, __doc__)

"""How fast a data set is drawn: ``python -m benchmarks.testdata`` after ``make run RECIPE=testdata`` writes docs/results/testdata.json.

100,000 labelled images by one command, as a folder of PNGs and as Parquet; seconds from start to end, the most memory that the process
held, bytes on the disk; and how long the same command takes to find that all is there.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.machine import machine
from benchmarks.rows import RESULTS, result
from pipeline.dataset import CONTACT, FORMS
from pipeline.paths import Paths
from vae.files import canonical_json, write_text

IMAGES = 100_000


def _seconds(folder: Path, form: str, paths: Paths) -> float:
    started = time.perf_counter()
    command = ["vae", "sample", str(IMAGES), "--dataset", form, "-m", str(paths.model), "-o", str(folder)]
    subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=True, cwd=paths.root)
    return time.perf_counter() - started


def main() -> None:
    """Measure both forms with the last run's model."""
    paths = Paths.here()
    paths.work.mkdir(exist_ok=True)
    found: dict[str, Any] = {"images": IMAGES, "machine": machine()}
    for form in FORMS:
        with tempfile.TemporaryDirectory(prefix="testdata-", dir=paths.work) as name:
            folder = Path(name) / "set"
            seconds = _seconds(folder, form, paths)
            sizes = [each.stat().st_size for each in folder.rglob("*") if each.is_file()]
            found[form] = {
                "seconds": round(seconds, 1), "images_per_second": round(IMAGES / seconds), "bytes": sum(sizes), "files": len(sizes),
                "again_seconds": round(_seconds(folder, form, paths), 1),
                "peak_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),  # of both forms so far
            }  # fmt: skip
            shutil.copyfile(folder / CONTACT, RESULTS / "testdata.png")
        print(form, found[form], flush=True)
    write_text(result("testdata"), canonical_json(found))
    tables.write()


if __name__ == "__main__":
    main()

"""The report of stage preprocess: what came in, what became of it, and what the data are like, in numbers and pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.drawing import Drawing
from pipeline.fates import Fates
from pipeline.paths import METRICS
from pipeline.plots import draw_classes, draw_histograms, draw_labelled
from pipeline.split import SPLITS
from vae.data import ImageShards, evenly
from vae.files import canonical_json, write_text
from vae.pictures import grid, save_png

SHEET_IMAGES, SHEET_GROUPS, GROUP_IMAGES = 64, 24, 4
BLOCK_IMAGES = 4096
BINS = 40
SUMMING_THREADS = 2  # each holds a block and its squares


def _channels(images: ImageShards) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel in levels, over all training images."""

    def sums(start: int) -> np.ndarray:
        block = images.slice(start, start + BLOCK_IMAGES)
        # Over the images first: a place's sums fit 32 bits, and numpy adds whole rows, which is nine times as fast as channels.
        return np.stack([block.sum(0, dtype=np.uint32), np.square(block, dtype=np.uint16).sum(0, dtype=np.uint32)])

    with ThreadPoolExecutor(SUMMING_THREADS) as threads:
        both = sum(threads.map(sums, range(0, len(images), BLOCK_IMAGES)), np.zeros((2, *images.image_shape), np.int64))
    total, squares = both.sum((1, 2))
    count = len(images) * images.image_shape[0] * images.image_shape[1]
    mean = total / count
    spread = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return {"mean_levels": [round(float(x), 4) for x in mean], "deviation_levels": [round(float(x), 4) for x in spread]}


def _sizes(index: pa.Table) -> dict[str, int]:
    sides = {name: index[name].to_numpy() for name in ("width", "height")}
    rules: dict[str, Callable[[np.ndarray], Any]] = {"smallest": np.min, "median": np.median, "largest": np.max}
    return {f"{rule}_{name}_pixels": int(function(side)) for name, side in sides.items() for rule, function in rules.items()}


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value stands in a column, in the order of the values."""
    counts = column.value_counts()
    return dict(sorted(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)))


def metrics(index: pa.Table, fates: Fates, directory: Path) -> dict[str, Any]:
    """The numbers; accepted + rejected + skipped = seen, and an error of ours where that does not hold."""
    in_group = index["group"].value_counts().field("counts").to_numpy()
    splits = _counts(index["split"])
    return {
        "seen": len(index) + len(fates.rejected) + len(fates.skipped),
        "accepted": len(index),
        "rejected": len(fates.rejected),
        "skipped": len(fates.skipped),
        "rejected_for": fates.reasons(),
        "skipped_for": dict(sorted(Counter(reason for _, reason, _ in fates.skipped).items())),
        "exact_duplicates": len(index) - pc.count_distinct(index["sha256"]).as_py(),
        "duplicate_groups": int((in_group > 1).sum()),
        "images_in_duplicate_groups": int(in_group[in_group > 1].sum()),
        "labels": len(_counts(index["label"]).keys() - {""}),
        "modes": _counts(index["mode"]),
        "sizes": _sizes(index),
        "training_channels": _channels(ImageShards(directory / "train")),
        **{f"{split}_images": splits.get(split, 0) for split in SPLITS},
    }


def _duplicate_sheet(index: pa.Table, directory: Path) -> np.ndarray | None:
    """A row of up to GROUP_IMAGES members for each of some groups, spread over all of them."""
    names = index["group"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.argsort(names, kind="stable")
    starts = np.flatnonzero(np.r_[True, names[order][1:] != names[order][:-1]])
    sizes = np.diff(np.r_[starts, len(order)])
    several = starts[sizes > 1]
    if not len(several):
        return None
    images = ImageShards(*(directory / split for split in SPLITS))  # the index is in this order
    shown = several[evenly(len(several), SHEET_GROUPS)]
    tiles = []
    for start in shown:
        members = order[start : start + GROUP_IMAGES]
        members = np.sort(members[names[members] == names[order[start]]])
        blank = np.full((GROUP_IMAGES - len(members), *images.image_shape), 255, np.uint8)
        tiles += [*images.gather(members), *blank]
    return np.stack(tiles)


def _histograms(found: pa.Table, section: SimpleNamespace) -> dict[str, tuple[np.ndarray, np.ndarray, list[float]]]:
    """Counts and edges of what each filter looks at, and its limits."""
    width, height = (found[name].to_numpy() for name in ("width", "height"))
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    values = {
        "shorter side (pixels)": (shorter, [section.min_side_pixels]),
        "aspect ratio": (longer / shorter, [section.max_aspect_ratio]),
        "brightness (levels)": (found["brightness"].to_numpy(), [section.min_brightness_levels, section.max_brightness_levels]),
        "deviation (levels)": (found["deviation"].to_numpy(), [section.min_deviation_levels]),
        "sharpness (levels)": (found["sharpness"].to_numpy(), [section.min_sharpness_levels]),
    }
    return {name: (*np.histogram(numbers, BINS), limits) for name, (numbers, limits) in values.items()}


def drawings(report: Path, found: pa.Table, fates: Fates, section: SimpleNamespace, mode: str) -> list[Drawing]:
    """The pictures that need no packed image; classes.csv is written at once."""
    classes = found.group_by(["label", "split"]).aggregate([([], "count_all")]).to_pandas()
    classes = classes.rename(columns={"count_all": "images"}).sort_values(["label", "split"])
    classes.to_csv(report / "classes.csv", index=False)
    drawn: list[Drawing] = [
        (draw_labelled, (fates.pictures, mode, report / "rejected.png", "no file was rejected")),
        (draw_classes, (classes, report / "classes.png")),
        (draw_histograms, (_histograms(found, section), report / "histograms.png")),
    ]
    if pc.count_distinct(found["group"]).as_py() == len(found):
        drawn.append((draw_labelled, ([], mode, report / "duplicates.png", "no duplicates were found")))
    return drawn


def write(report: Path, directory: Path, index: pa.Table, fates: Fates, mode: str) -> None:
    """metrics.json and the pictures of packed images: accepted, duplicates."""
    write_text(report / METRICS, canonical_json(metrics(index, fates, directory)))
    save_png(grid(ImageShards(directory / "train").spread(SHEET_IMAGES), columns=16, mode=mode), report / "images.png")
    sheet = _duplicate_sheet(index, directory)
    if sheet is not None:
        save_png(grid(sheet, columns=4 * GROUP_IMAGES, mode=mode), report / "duplicates.png")

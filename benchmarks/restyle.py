"""What a move of one factor does to the picture: ``python -m benchmarks.restyle`` after ``make run`` on sprites.

Writes docs/results/restyle.json and a picture. Test sprites are moved by one factor at a time, half a standard deviation toward the
middle of its range, and by ``--make heart``. The judge knows nothing of the model: it finds the factors of any picture by rendering
(pipeline/sources/sprites.py) and comparing pixels. Changes are of what it finds in the result against what it finds in the plain
reconstruction, in standard deviations of the factor; beside it what it finds wrong in pictures whose truth is known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks import tables
from benchmarks.machine import machine
from benchmarks.rows import RESULTS, result
from pipeline.paths import INDEX, Paths
from pipeline.sources.sprites import LARGEST_RADIUS, MARGIN, ORIENTATIONS, SCALES, SHAPES, render
from vae.artefact import load_artefact
from vae.data import ImageShards
from vae.files import canonical_json, write_text
from vae.pictures import grid, save_png

FACTORS, IMAGES, MOVE, SHOWN = ["scale", "orientation", "x", "y"], 200, 0.5, 8
COARSE, ROUNDS, NEIGHBOURS = 8, 6, 24
WIDTHS = np.array([0.05, 0.03, 0.04, 0.04])  # of the first round of refinement, in the factors' units


def _found(image_HW: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """The factors whose rendering is nearest: of each shape the best of a grid, refined, and then the best shape."""
    size, x = len(image_HW), image_HW.astype(float)
    place, total = (np.arange(size) + 0.5) / size, x.sum() + 1e-9
    margin = MARGIN * LARGEST_RADIUS
    centre = [((x.sum(axis) * place).sum() / total - margin) / (1 - 2 * margin) for axis in (0, 1)]
    best: list[tuple[float, dict[str, float]]] = []
    for shape in range(len(SHAPES)):
        sizes, turns = np.linspace(*SCALES, COARSE), np.linspace(*ORIENTATIONS, COARSE)
        tried = pd.DataFrame([(shape, scale, turn, *centre) for scale in sizes for turn in turns], columns=["shape", *FACTORS])
        width = WIDTHS
        for _ in range(ROUNDS):
            errors = ((render(tried, size, colour=False)[..., 0] - x) ** 2).mean((1, 2))
            top = tried.iloc[np.argsort(errors)[:2]]
            lowest = float(errors.min())
            near = pd.concat([top] * NEIGHBOURS, ignore_index=True)
            near[FACTORS] += rng.normal(size=(len(near), len(FACTORS))) * width
            tried, width = pd.concat([top, near], ignore_index=True), width / 1.8
        best.append((lowest, {str(name): float(value) for name, value in top.iloc[0].items()}))
    error, found = min(best, key=lambda each: each[0])
    return found | {"error_levels": error**0.5}


def judged(images_NHWC: np.ndarray) -> pd.DataFrame:
    """What the renderer finds in each picture."""
    rng = np.random.default_rng(0)
    return pd.DataFrame([_found(image[..., 0], rng) for image in images_NHWC])


def main() -> None:
    """Measure the last run's model."""
    torch.set_num_threads(1)
    paths = Paths.here()
    generator, test = load_artefact(paths.model), ImageShards(paths.processed / "test")
    index = pd.read_parquet(paths.processed / INDEX)
    places = test.places(IMAGES)
    truth = (
        index[index["split"] == "test"]
        .iloc[places]
        .filter(like="factor_")
        .rename(columns=lambda name: name.removeprefix("factor_"))
    )
    spread = index.filter(like="factor_").std().rename(lambda name: name.removeprefix("factor_"))[FACTORS]
    middle = index.filter(like="factor_").mean().rename(lambda name: name.removeprefix("factor_"))[FACTORS]
    images, attributes = test.gather(places), generator.attributes
    assert attributes is not None, "train.attribute_steps was 0"
    mean_ND, _ = generator.encode(images)
    plain = generator.decode(mean_ND)
    before, of_truth = judged(plain), judged(images)
    wrong = (of_truth[FACTORS] - truth[FACTORS].to_numpy()).abs().mean() / spread
    found: dict[str, Any] = {
        "judge": {
            **wrong.round(3).to_dict(),
            "shape_right": round(float((of_truth["shape"] == truth["shape"].to_numpy()).mean()), 3),
        },
        "reconstructions": {
            **((before[FACTORS] - truth[FACTORS].to_numpy()).abs().mean() / spread).round(3).to_dict(),
            "shape_right": round(float((before["shape"] == truth["shape"].to_numpy()).mean()), 3),
        },
    }
    shown = np.linspace(0, IMAGES - 1, SHOWN).round().astype(int)
    rows = [plain[shown]]
    for name in FACTORS:
        change_N = np.where(truth[name] > middle[name], -1, 1) * MOVE * float(spread[name])
        moved = [attributes.moved(mean_ND[i : i + 1], {name: float(change)}) for i, change in enumerate(change_N)]
        pictures = generator.decode(torch.cat(moved))
        after = judged(pictures)
        change = (after[FACTORS] - before[FACTORS]) / spread
        told = {other: round(float(change[other].abs().mean()), 3) for other in FACTORS if other != name}
        own = change[name] * np.sign(change_N)
        kept = float((after["shape"] == before["shape"]).mean())
        found[name] = {"asked": MOVE, "moved": round(float(own.mean()), 3), "others": told, "shape_kept": round(kept, 3)}
        rows.append(pictures[shown])
        print(name, found[name], flush=True)
    pictures = generator.decode(attributes.moved(mean_ND, {}, "heart"))
    after = judged(pictures)
    told = {name: round(float((after[name] - before[name]).abs().mean() / spread[name]), 3) for name in FACTORS}
    found["heart"] = {"shape_is": round(float((after["shape"] == SHAPES.index("heart")).mean()), 3), "others": told}
    print("heart", found["heart"], flush=True)
    rows.append(pictures[shown])
    write_text(result("restyle"), canonical_json(found | {"images": IMAGES, "machine": machine()}))
    save_png(grid(np.concatenate(rows), columns=SHOWN, mode=generator.contract["mode"]), RESULTS / "restyle.png")
    tables.write()


if __name__ == "__main__":
    main()

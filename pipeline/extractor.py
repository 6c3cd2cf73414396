"""Stage extractor: trains the small frozen networks that FCD looks through, once per data set.

In: data/processed. Out: models/extractor; reports/extractor/metrics.json. Two, of different architecture and seed: the search and the
registry go by the first, and evaluate asks the second whether it agrees. It is a stage of its own, not a step of evaluate,
because tune and evaluate must look through the same network, and because a challenger is compared with the champion through it.
"""

from __future__ import annotations

import logging
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch

from pipeline import stage
from pipeline.console import Progress
from pipeline.paths import METRICS, SECOND, Paths
from vae.data import ImageShards
from vae.extractor import TURNS, ExtractorConfig, save_extractor, train_extractor
from vae.files import canonical_json, read_manifest, replaced_directory, write_text

PARAMS = ("base.seed", "extractor")
THREADS = 2  # fixed: the number of threads changes the last bits of the result
log = logging.getLogger("pipeline.extractor")


def _labels(images: ImageShards) -> np.ndarray | None:
    """Class number of every image, or None where fewer than two labels (or unlabelled images) are found."""
    labels_N = images.labels_N
    return None if labels_N is None or labels_N.min() < 0 or labels_N.min() == labels_N.max() else labels_N


def extractor(values: SimpleNamespace, paths: Paths) -> None:
    """Train both on the training split and freeze them."""
    torch.set_num_threads(THREADS)
    facts = read_manifest(paths.processed)
    images, found = ImageShards(paths.processed / "train"), {}
    labels, section = _labels(images), values.extractor
    shown = Progress(2 * section.total_images, "images", "training")

    def told(before: int, seen: int, right: float) -> None:
        shown.to(before + seen, f"accuracy {right:.3f}")

    opinions = (("first", "residual", section.width), ("second", "plain", section.second_width))
    for number, (opinion, architecture, width) in enumerate(opinions):
        config = ExtractorConfig(
            channels=facts["image_shape"][2],
            width=width,
            feature_dim=section.feature_dim,
            classes=TURNS if labels is None else len(facts["labels"]),
            task="turns" if labels is None else "labels",
            architecture=architecture,
        )
        found[opinion] = train_extractor(
            config,
            images,
            labels,
            total_images=section.total_images,
            batch_size=section.batch_size,
            peak_learning_rate=section.learning_rate,
            seed=values.base.seed + number,
            on_progress=partial(told, number * section.total_images),
        )
    shown.close()
    with replaced_directory(paths.extractor) as directory:
        (directory / SECOND).mkdir()
        save_extractor(directory / SECOND, found["second"][0])
        save_extractor(directory, found["first"][0])  # its manifest holds the second's files too
    accuracies = {f"{opinion}_accuracy": accuracy for opinion, (_, accuracy) in found.items()}
    with replaced_directory(paths.extractor_report) as report:
        metrics = {"classes": config.classes, "by_labels": int(labels is not None)}
        write_text(report / METRICS, canonical_json(metrics | {f"train_{name}": value for name, value in accuracies.items()}))
    log.info("%d %s told apart on training images: %s", config.classes, config.task, accuracies)


if __name__ == "__main__":
    stage.main("extractor", PARAMS, extractor, __doc__)

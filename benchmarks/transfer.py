"""What beginning from another model is worth: ``python -m benchmarks.transfer`` writes docs/results/transfer.json and a picture.

``horses``: a model of the other nine classes of CIFAR-10, then 1,000 images of horses, from nothing and from that model, by the same
network, data and steps, each at the better of two learning rates; judged by the bound of 500 other horses. Medians of three seeds.
``horses-other``: the same where the new model has other channels (the old one saw grey pictures) and fewer latents.
``horses-classifier``: what the encoder begins with is a classifier that was taught the nine labels; the decoder begins anew.
``digits``: a model of MNIST, then the 1,000 first of scikit-learn's digits enlarged to its size; judged by 400 others.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import tables
from benchmarks.case import FIT, bordered, shards, unpacked
from benchmarks.rows import RESULTS, measure, result
from pipeline.plots import ACCENT, INK, save, subplots
from vae.config import FitConfig, ModelConfig
from vae.data import ImageShards, save_labels
from vae.extractor import ExtractorConfig, train_extractor
from vae.files import read_json
from vae.trainer import fit
from vae.transfer import Origin

SIDE, TRAINED, JUDGED, SEEDS, RATES = 32, 1000, 500, (0, 1, 2), (0.001, 0.003)
HELD_OUT, SOURCE_IMAGES, IMAGES, REPORT = "horse", 200_000, 40_000, 1000
WAYS = {"anew": {}, "carried": {}, "frozen for 3,000 images": {"frozen_images": 3000}, "layer_decay 0.7": {"layer_decay": 0.7}}
TAUGHT = {"batch_size": 64, "peak_learning_rate": 0.002, "seed": 0}
State = dict[str, torch.Tensor]
Curve = list[tuple[int, float]]


def _model(channels: int, latent_dim: int) -> ModelConfig:
    return ModelConfig(
        name="conv", image_shape=(SIDE, SIDE, channels), latent_dim=latent_dim, widths=(16, 32), hidden_units=256, blocks=1,
        stochastic_layers=2, codes=2, sigma=0.1, likelihood="logistic",
    )  # fmt: skip


def _fit_config(**changes: Any) -> FitConfig:
    own = {"global_batch_size": 64, "learning_rate": 0.003, "warmup_images": 2000, "ema_decay": 0.99}
    return FitConfig(**(FIT | own | changes))


def _grey(images_NHWC: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images_NHWC])[..., None]


def _cifar(folder: Path, grey_source: bool) -> tuple[ImageShards, ImageShards, ImageShards]:
    """The source's images, and those of the held-out class to train on and to judge by."""
    names, images = unpacked("cifar10")
    split, label, _ = (np.array(part) for part in zip(*(name.split("/") for name in names), strict=True))
    held, training = label == HELD_OUT, np.char.startswith(split, "train")
    order = np.random.default_rng(0).permutation(len(images))
    parts = (
        order[(training & ~held)[order]],
        order[(training & held)[order]][:TRAINED],
        order[(~training & held)[order]][:JUDGED],
    )
    source, train, judged = (images[part] for part in parts)
    shards(folder / "source", _grey(source) if grey_source else source)
    save_labels(folder / "source", np.unique(label[parts[0]], return_inverse=True)[1])
    return ImageShards(folder / "source"), shards(folder / "t", train), shards(folder / "j", judged)


def _digits(folder: Path) -> tuple[ImageShards, ImageShards, ImageShards]:
    from sklearn.datasets import load_digits

    names, images = unpacked("mnist")
    training = images[[name.startswith("train") for name in names]]
    source = bordered(training)
    levels = (load_digits().images * 255 / 16).round().astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(each).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for each in levels])[
        ..., None
    ]
    large = large[np.random.default_rng(0).permutation(len(large))]
    return (
        shards(folder / "source", source),
        shards(folder / "t", large[:TRAINED]),
        shards(folder / "j", large[TRAINED : TRAINED + 400]),
    )


def _curve(model: ModelConfig, config: FitConfig, sets: Sequence[ImageShards], **begin: Any) -> Curve:
    found: Curve = []
    fit(
        model,
        config,
        *sets,
        on_report=lambda told, _: found.append((int(told["images"]), round(told["val_elbo_nats"], 2))),
        **begin,
    )
    return found


def _best(curves: list[Curve]) -> float:
    return statistics.median(max(bound for _, bound in curve) for curve in curves)


def _old(there: Origin, source: ImageShards, judged: ImageShards) -> State:
    """What the training begins from: a model, or a classifier, of the source's images."""
    network: torch.nn.Module
    if isinstance(there, ExtractorConfig):
        network, accuracy = train_extractor(there, source, source.labels_N, total_images=SOURCE_IMAGES, **TAUGHT)
        print("classifier", round(accuracy, 3), flush=True)
    else:
        config = _fit_config(total_images=SOURCE_IMAGES, validate_every_images=SOURCE_IMAGES, ema_decay=0.999)
        network = fit(there, config, source, judged_as(source, judged)).model
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def compared(images: Any, there: Origin, here: ModelConfig, ways: Sequence[str], work: Path) -> dict[str, Any]:
    """The curve of every way at the learning rate of its best bound, and how soon each reaches the best one of training anew."""
    torch.set_num_threads(1)
    source, train, judged = images(work)
    old = _old(there, source, judged)
    found: dict[str, Any] = {}
    for way in ways:
        changes = WAYS[way]
        begin = {} if way == "anew" else {"initial": old, "initial_config": there}
        config = _fit_config(total_images=IMAGES, validate_every_images=REPORT, **changes)
        tried = {rate: _curve(here, replace(config, learning_rate=rate), (train, judged), **begin) for rate in RATES}
        rate = max(tried, key=lambda each: _best([tried[each]]))
        others = [replace(config, learning_rate=rate, seed=seed) for seed in SEEDS[1:]]
        curves = [tried[rate], *(_curve(here, other, (train, judged), **begin) for other in others)]
        if found:
            goal = found["anew"]["best_elbo_nats"]
            reached = [next((images for images, bound in curve if bound >= goal), None) for curve in curves]
        else:
            reached = [max(curve, key=lambda each: each[1])[0] for curve in curves]
        middle = [round(statistics.median(bound for _, bound in at_once), 1) for at_once in zip(*curves, strict=True)]
        found[way] = {"learning_rate": rate, "best_elbo_nats": _best(curves), "elbo_nats": middle}
        if all(each is not None for each in reached):
            found[way]["images_to_best_anew"] = statistics.median(reached)
        print(way, {key: value for key, value in found[way].items() if key != "elbo_nats"}, flush=True)
    return found


CLASSIFIER = ExtractorConfig(channels=3, width=16, feature_dim=64, classes=9, task="labels")
SEEING = replace(_model(3, 64), name="classifier_encoder", widths=(16, 32, 64))


def judged_as(source: ImageShards, judged: ImageShards) -> ImageShards:
    """Something to validate the source's training by, of its own shape: nothing is decided by it."""
    return judged if judged.image_shape == source.image_shape else source


ROWS = {
    "horses": partial(compared, partial(_cifar, grey_source=False), _model(3, 64), _model(3, 64), list(WAYS)),
    "horses-other": partial(compared, partial(_cifar, grey_source=True), _model(1, 64), _model(3, 48), list(WAYS)[:3]),
    "horses-classifier": partial(compared, partial(_cifar, grey_source=False), CLASSIFIER, SEEING, list(WAYS)[:3]),
    "digits": partial(compared, _digits, _model(1, 16), _model(1, 16), list(WAYS)[:2]),
}


def draw() -> None:
    """The bound over the images seen, of every row: anew, and carried."""
    rows = read_json(result("transfer"))
    figure, all_axes = subplots(4 * len(rows), 3.2, columns=len(rows), squeeze=False)
    for axes, (row, found) in zip(all_axes[0], rows.items(), strict=True):
        for way, colour in (("anew", INK), ("carried", ACCENT)):
            axes.plot(
                [min(REPORT * (i + 1), IMAGES) for i in range(len(found[way]["elbo_nats"]))],
                found[way]["elbo_nats"],
                color=colour,
                label=way,
            )
        best = found["anew"]["best_elbo_nats"]
        axes.axhline(best, color=INK, linestyle=":", linewidth=0.8)
        axes.set_ylim(best - 0.12 * abs(best), best + 0.07 * abs(best))
        axes.set_xlabel("images seen")
        axes.set_title(row, fontsize=10)
    all_axes[0][0].set_ylabel("bound of other images (nats)")
    all_axes[0][0].legend(fontsize=8)
    save(figure, RESULTS / "transfer.png")


if __name__ == "__main__":
    measure("transfer", ROWS, __doc__)
    draw()
    tables.write()

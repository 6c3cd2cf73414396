"""The way of a label: index, labels.npy beside the shards, copies, extractor, model; and what is said where labels are missing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import augment as augment_stage
from pipeline import preprocess as preprocess_stage
from pipeline.augment import augment
from pipeline.errors import BadDataError
from pipeline.extractor import _labels
from pipeline.job import classes
from pipeline.paths import INDEX
from pipeline.preprocess import preprocess
from pipeline.pyfunc import VaePyfunc
from pipeline.scores import label_scores
from vae.data import LABELS, ImageShards, ShardWriter
from vae.files import read_manifest

SMALL = {"base__image_size": 8, "preprocess__val_fraction": 0.3, "preprocess__test_fraction": 0.3}
NAMES = ("ape", "bee", "cat")


def prepared(project, picture, folders: tuple[str, ...] = NAMES):
    """A workspace after stage preprocess: 90 images in folders named by their label ('': in none)."""
    project.raw({f"{folders[i % len(folders)]}/{i:03d}.png".lstrip("/"): picture(i, 8, 8) for i in range(90)})
    preprocess(project.values(preprocess_stage.PARAMS, **SMALL), project.paths)
    return project


def told(project, value: bool) -> SimpleNamespace:
    return project.values(("fit",), fit__class_conditional=value)


def test_labels_lie_beside_the_shards_in_their_order(project, picture):
    prepared(project, picture)
    index = pd.read_parquet(project.paths.processed / INDEX)
    assert read_manifest(project.paths.processed)["labels"] == list(NAMES)
    for split in ("train", "val", "test"):
        images = ImageShards(project.paths.processed / split)
        assert [NAMES[k] for k in images.labels_N] == list(index.loc[index["split"] == split, "label"])


def test_images_without_label_are_minus_one_and_without_any_label_there_is_no_file(project, picture):
    prepared(project, picture, ("", "bee"))
    index = pd.read_parquet(project.paths.processed / INDEX)
    known = ImageShards(project.paths.processed / "train").labels_N
    assert list(known == 0) == list(index.loc[index["split"] == "train", "label"] == "bee") and set(known) == {-1, 0}


def test_without_labels_there_is_no_file_of_them(project, picture):
    prepared(project, picture, ("",))
    assert not list(project.paths.processed.rglob(LABELS))


@pytest.mark.parametrize("copies", [0, 2])
def test_copies_have_the_labels_of_their_originals(project, picture, copies):
    prepared(project, picture)
    augment(project.values(augment_stage.PARAMS, **SMALL, augment__copies=copies), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX).set_index("sha256")["label"]
    rows = pd.read_parquet(project.paths.augmented / INDEX)
    if copies:
        images = ImageShards(project.paths.augmented / "train")
        assert [NAMES[k] for k in images.labels_N] == list(index[rows["sha256"]])
    else:
        assert not list(project.paths.augmented.rglob(LABELS))


@pytest.mark.parametrize(("folders", "expected"), [(NAMES, {0, 1, 2}), (("", "bee"), None), (("bee",), None), (("",), None)])
def test_extractor_is_told_labels_where_all_images_have_one_of_several(project, picture, folders, expected):
    prepared(project, picture, folders)
    found = _labels(ImageShards(project.paths.processed / "train"))
    assert (expected is None and found is None) or set(found) == expected


def test_model_is_told_as_many_classes_as_there_are_labels_if_it_is_asked_for(project, picture):
    prepared(project, picture)
    assert classes(told(project, True), project.paths.processed) == 3
    assert classes(told(project, False), project.paths.processed) == 0


@pytest.mark.parametrize(
    ("folders", "what"),
    [
        (("", "bee", "cat"), r"in the split \w+ \d+ of \d+ images have none of the 2 classes"),
        (("", "bee"), "the images have one label, 'bee'"),
        (("",), "the images have no labels"),
    ],
)
def test_missing_labels_are_bad_data_where_the_model_is_to_be_told_them(project, picture, folders, what):
    prepared(project, picture, folders)
    with pytest.raises(BadDataError, match=f"fit.class_conditional is true, but {what}"):
        classes(told(project, True), project.paths.processed)
    assert classes(told(project, False), project.paths.processed) == 0


def test_what_the_network_takes_samples_for_is_told_beside_test_and_training_images(tmp_path):
    def pictures(*classes: int) -> np.ndarray:  # a picture is its class, in black
        return np.repeat(np.array(classes, np.uint8), 64).reshape(-1, 8, 8, 1)

    writer = ShardWriter(tmp_path, (8, 8, 1), 40)
    writer.add_all(pictures(0, 0, 0, 1, 1, 1, 2, 2))
    writer.close()
    train = ImageShards(tmp_path)
    network = SimpleNamespace(
        config=SimpleNamespace(task="labels"), told=lambda images: torch.as_tensor(images)[:, 0, 0, 0].long()
    )
    drawn, test, labels = pictures(0, 0, 0, 0, 0, 0, 1, 1), pictures(0, 1, 2, 2), ["ape", "bee", "cat"]
    scores, table = label_scores(network, (drawn, None), (test, None), train, labels)
    # samples 6/8, 2/8, 0; test images 1/4, 1/4, 1/2; training images 3/8, 3/8, 2/8
    assert scores == {"label_distance": pytest.approx(0.5), "label_distance_real": pytest.approx(0.25)}
    assert table.loc["ape"].tolist() == [0.25, 0.75] and table.loc["cat"].tolist() == [0.5, 0.0]
    asked_N, label_N = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 2, 2])  # 2 of 8 and 1 of 4 otherwise
    scores, _ = label_scores(network, (drawn, asked_N), (test, label_N), train, labels)
    assert (scores["class_accuracy"], scores["class_accuracy_real"]) == (6 / 8, 3 / 4)
    network.config.task = "turns"
    assert label_scores(network, (drawn, asked_N), (test, label_N), train, []) == ({}, None)


def test_request_by_label_draws_that_class_and_others_say_what_is_wrong():
    asked = []

    def sample(n, seed, temperature, label_N):
        asked.append(None if label_N is None else label_N.tolist())
        return np.zeros((n, 8, 8, 1), np.uint8)

    model = VaePyfunc()
    model.generator = SimpleNamespace(sample=sample, config=SimpleNamespace(classes=3), contract={"labels": list(NAMES)})
    request = pd.DataFrame({"n": [2, 1, 1], "seed": [0, 0, 0], "label": ["cat", "ape", None]})
    assert len(model.predict(None, request)) == 4 and asked == [[2, 2], [0], None]
    model.predict(None, request[["n", "seed"]])
    assert asked[3:] == [None] * 3
    with pytest.raises(ValueError, match="unknown label 'cats': did you mean 'cat'"):
        model.predict(None, pd.DataFrame({"n": [1], "seed": [0], "label": ["cats"]}))
    model.generator.config.classes = 0
    with pytest.raises(ValueError, match="unknown label 'cat': known are none"):
        model.predict(None, pd.DataFrame({"n": [1], "seed": [0], "label": ["cat"]}))

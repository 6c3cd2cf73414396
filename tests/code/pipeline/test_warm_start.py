"""warm_start: which weights a training may begin from, and what is said of them."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from configs import model_config
from pipeline.errors import BadConfigError, BadDataError, InputMissingError
from pipeline.train import PARAMS
from pipeline.warm_start import Start, start
from vae.extractor import Extractor, ExtractorConfig, save_extractor
from vae.files import DamagedError, canonical_json, sha256_file, write_manifest, write_text
from vae.models import build

MODEL = model_config(latent_dim=3)


@pytest.fixture
def tuned(project):
    """What tune leaves: the weights of trial 5."""
    folder = project.paths.tuned
    folder.mkdir(parents=True)
    save_file(build(MODEL).state_dict(), folder / "model.safetensors")
    write_text(folder / "config.json", canonical_json({"model": asdict(MODEL), "trial": 5}))
    write_manifest(folder)
    return project


def asked(project, warm_start: str = "tuned", model=MODEL, **changes) -> Start:
    values = project.values(PARAMS, train__warm_start=warm_start, **{f"train__{key}": value for key, value in changes.items()})
    return start(values, model, project.paths)


def test_training_begins_anew_unless_asked(tuned):
    assert asked(tuned, "") == Start("begun anew")


def test_weights_of_the_search_are_named_by_their_hash(tuned):
    begin = asked(tuned)
    assert begin.weights == str(tuned.paths.tuned / "model.safetensors") and begin.config is None and begin.layers is None
    assert begin.identity == {"warm_start": sha256_file(tuned.paths.tuned / "model.safetensors")}


def test_weights_of_another_model_are_refused_with_each_difference(tuned):
    other = replace(MODEL, latent_dim=4, hidden_units=77)
    with pytest.raises(BadConfigError) as caught:
        asked(tuned, model=other)
    told = str(caught.value)
    assert (
        "trial 5 fit another model" in told
        and "latent_dim is 3 there and 4 here" in told
        and "set train.transfer to true" in told
    )
    assert f"hidden_units is {MODEL.hidden_units} there and 77 here" in told and "widths" not in told


def test_weights_of_another_model_are_carried_where_that_is_asked(tuned, caplog):
    caplog.set_level("INFO")
    begin = asked(tuned, model=replace(MODEL, latent_dim=4), transfer=True)
    assert begin.told.endswith("layer by layer") and begin.config is not None and begin.config["latent_dim"] == 3
    assert begin.identity["transfer"] == begin.config
    layers = begin.layers.set_index("name")
    assert layers.loc["expand.0.weight"].tolist() == ["in part", "16x4", "16x3", 0]
    assert (layers["outcome"] == "as it is").sum() == len(layers) - 3
    assert "tensors of trial 5: " in caplog.text and "3 in part" in caplog.text
    with pytest.raises(BadConfigError, match=r"trial 5: no layer of the other model fits"):
        asked(tuned, model=replace(MODEL, name="ladder"), transfer=True)


def test_file_of_weights_lies_beside_its_configuration(tuned):
    begin = asked(tuned, "models/tuned/model.safetensors")
    assert begin.weights == str(tuned.paths.tuned / "model.safetensors") and "models/tuned/model.safetensors" in begin.told
    with pytest.raises(InputMissingError, match=r"absent/w\.safetensors and .*absent/config\.json do not exist"):
        asked(tuned, "absent/w.safetensors")


def classifier(folder, seed: int) -> None:
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    save_extractor(folder, Extractor(ExtractorConfig(channels=1, width=8, feature_dim=6, classes=3, task="labels")))


def test_encoder_may_begin_as_the_classifier_of_another_project(tuned):
    classifier(tuned.root / "other", 1)
    where, model = "other/extractor.safetensors", replace(MODEL, name="classifier_encoder", widths=(8, 16, 32))
    begin = asked(tuned, where, model=model, transfer=True)
    layers = begin.layers.set_index("name")
    assert (layers["outcome"] == "as it is").sum() == layers.index.str.match(r"encoder\.[0-3]\.").sum() > 20
    assert begin.told == f"begun from the weights of {where}, layer by layer" and begin.identity["transfer"]["width"] == 8
    with pytest.raises(BadConfigError, match=r"of a classifier.* set train\.transfer to true"):
        asked(tuned, where, model=model)
    with pytest.raises(BadConfigError, match=r"set fit\.model to classifier_encoder, and fit\.widths to \[8, 16, 32\]"):
        asked(tuned, where, transfer=True)
    write_text(tuned.root / "other" / "extractor.json", canonical_json({**begin.identity["transfer"], "architecture": "wide"}))
    with pytest.raises(BadDataError, match=r"is not one of this code .'wide'"):
        asked(tuned, where, model=model, transfer=True)


@pytest.mark.parametrize("opinion", [".", "second"])
def test_network_that_judges_the_samples_is_no_beginning(tuned, opinion):
    classifier(tuned.paths.extractor / opinion, 2)
    shutil.copytree(tuned.paths.extractor / opinion, tuned.root / "copy")
    for where in (f"models/extractor/{opinion}/extractor.safetensors", "copy/extractor.safetensors"):
        with pytest.raises(BadConfigError, match="would be judged by what it came from"):
            asked(tuned, where, model=replace(MODEL, name="classifier_encoder", widths=(8, 16, 32)), transfer=True)


@pytest.mark.parametrize(
    ("config", "weights", "said"),
    [
        ({"flux": 3}, None, "is not one of this code"),
        ({"name": "cnov"}, None, "did you mean 'conv'"),
        ({}, b"no weights", "is damaged or not of its config.json"),
        ({"hidden_units": 99}, None, "is damaged or not of its config.json"),
    ],
)
def test_file_that_is_not_what_it_says_is_told(tuned, config, weights, said):
    folder = tuned.root / "other"
    folder.mkdir()
    (folder / "w.safetensors").write_bytes(weights or (tuned.paths.tuned / "model.safetensors").read_bytes())
    write_text(folder / "config.json", canonical_json({"model": asdict(MODEL) | config}))
    with pytest.raises(BadDataError, match=said):
        asked(tuned, "other/w.safetensors", model=replace(MODEL, latent_dim=4), transfer=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"warm_start": "my-model"}, "train.warm_start"),
        ({"transfer": True}, "train.transfer: is true, but warm_start is ''"),
        ({"warm_start": "tuned", "frozen_images": 5}, "train.frozen_images: is of carried layers"),
        ({"warm_start": "tuned", "layer_decay": 0.5}, "train.layer_decay: is of carried layers"),
        ({"warm_start": "tuned", "transfer": True, "frozen_images": 10**9}, "is not less than total_images"),
    ],
)
def test_wishes_that_contradict_each_other_are_told(tuned, changes, said):
    with pytest.raises(BadConfigError, match=said):
        tuned.values(PARAMS, **{f"train__{key}": value for key, value in changes.items()})


def test_trial_that_left_no_weights_and_damaged_ones_are_told(tuned):
    with (tuned.paths.tuned / "model.safetensors").open("r+b") as stream:
        stream.seek(200)
        stream.write(b"x")
    with pytest.raises(DamagedError):
        asked(tuned)
    (tuned.paths.tuned / "model.safetensors").unlink()
    write_manifest(tuned.paths.tuned)
    with pytest.raises(BadConfigError, match="trial 5 was stopped early and left no weights"):
        asked(tuned)

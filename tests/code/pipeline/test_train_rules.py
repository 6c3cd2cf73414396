"""Train's rules without Ray: which weights a training may begin from."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from safetensors.torch import save_file

from configs import model_config
from pipeline.errors import BadConfigError
from pipeline.train import PARAMS, warm_start
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


def test_training_begins_anew_unless_asked(tuned):
    assert warm_start(tuned.values(PARAMS, train__warm_start=""), MODEL, tuned.paths) == (None, {})


def test_weights_of_the_search_are_named_by_their_hash(tuned):
    weights, named = warm_start(tuned.values(PARAMS, train__warm_start="tuned"), MODEL, tuned.paths)
    assert weights == str(tuned.paths.tuned / "model.safetensors") and named == {
        "warm_start": sha256_file(tuned.paths.tuned / "model.safetensors")
    }


def test_weights_of_another_model_are_refused_with_each_difference(tuned):
    other = replace(MODEL, latent_dim=4, hidden_units=77)
    with pytest.raises(BadConfigError) as caught:
        warm_start(tuned.values(PARAMS, train__warm_start="tuned"), other, tuned.paths)
    told = str(caught.value)
    assert "trial 5 fit another model" in told and "latent_dim is 3 there and 4 here" in told
    assert f"hidden_units is {MODEL.hidden_units} there and 77 here" in told and "widths" not in told


def test_trial_that_left_no_weights_and_damaged_ones_are_told(tuned):
    values = tuned.values(PARAMS, train__warm_start="tuned")
    with (tuned.paths.tuned / "model.safetensors").open("r+b") as stream:
        stream.seek(200)
        stream.write(b"x")
    with pytest.raises(DamagedError):
        warm_start(values, MODEL, tuned.paths)
    (tuned.paths.tuned / "model.safetensors").unlink()
    write_manifest(tuned.paths.tuned)
    with pytest.raises(BadConfigError, match="trial 5 was stopped early and left no weights"):
        warm_start(values, MODEL, tuned.paths)

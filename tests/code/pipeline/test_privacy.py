"""vae privacy: what a private version says of itself; of any other nothing can be said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli import numbers
from pipeline.cli.app import app
from pipeline.export import write
from pipeline.register import _privacy
from pipeline.report import _privacy as told_on_the_page
from saved import saved_model
from vae.artefact import Generator, load_artefact, save_artefact
from vae.export import ExportError

numbers.add_to(app)
TOLD = {
    "epsilon": 9.97, "delta": 1e-5, "noise_multiplier": 0.6, "sample_norm": 1.0, "sample_rate": 0.01, "steps": 1200, "images": 60000,
    "accountant": "opacus 1.6.0 prv",
}  # fmt: skip


@pytest.fixture
def generator(tmp_path, monkeypatch) -> Generator:
    """A model that says it is private, in the folder ``p``; and ``m``, which is not."""
    monkeypatch.chdir(tmp_path)
    generator = saved_model(tmp_path / "m")
    generator.contract["privacy"] = TOLD
    (tmp_path / "p").mkdir()
    save_artefact(tmp_path / "p", generator)
    return load_artefact(tmp_path / "p")


def vae(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_budget_is_told_in_words_and_for_a_machine(generator):
    told = vae("privacy", "-m", "p")
    assert told.exit_code == 0, told.output
    assert "epsilon 9.970, delta 1e-05, for 60,000 training images" in told.stdout
    assert "1,200 steps, each with 1.000% of the images" in told.stdout and "opacus 1.6.0 prv" in told.stdout
    assert json.loads(vae("privacy", "-m", "p", "--json").stdout) == {"model": "p", **TOLD}


def test_model_that_was_trained_without_is_refused(generator):
    told = vae("privacy", "-m", "m")
    assert told.exit_code == 78 and "m was trained without train.epsilon" in told.stderr and "Traceback" not in told.output


@pytest.mark.parametrize("form", ["pruned", "student", "int8"])
def test_form_that_learns_from_the_images_anew_is_refused(generator, form, tmp_path):
    with pytest.raises(ExportError, match="private training promises"):
        write(generator, form, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_version_and_page_tell_it(generator):
    assert _privacy(generator)["vaeline.privacy_epsilon"] == "9.97" and len(_privacy(generator)) == len(TOLD)
    assert "epsilon 9.97, delta 1e-05 (opacus 1.6.0 prv)" in told_on_the_page(generator.contract["privacy"])
    assert told_on_the_page(None) == "" and _privacy(load_artefact(Path("m"))) == {}

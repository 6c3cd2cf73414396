"""Population-based training without Ray: what may change, between which ends, and that a fork is the donor's training going on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from configs import fit_config, model_config
from pipeline.errors import TrainingFailedError
from pipeline.job import CHECKPOINTS, Job, execute
from pipeline.population import changed, fork, within
from pipeline.spool import SpoolWriter, read
from pipeline.trial import Point, kept, outcome, point_of, trial_job, wait_until_kept
from vae.errors import ResumeRefusedError, StoppedError
from vae.state import checkpoint_path

SPACE = {
    "learning_rate": {"low": 0.001, "high": 0.01, "log": True},
    "beta_cycles": {"low": 2, "high": 5},
    "free_bits_nats": {"choices": [0.0, 0.1]},
    "widths": {"choices": [[8, 16], [8, 8]]},
    "model": {"choices": ["conv", "resnet"]},
    "adversary_weight": {"low": 0.0, "high": 1.0},
    "critic_width": {"low": 4, "high": 8},
}
SECTION = SimpleNamespace(beta_min=0.5, beta_max=2.0, latent_dim_min=2, latent_dim_max=6, space=SPACE)


def job(state: Path, **changes: float) -> Job:
    """40 steps with a report and a checkpoint every 10, on the images of ``shards``."""
    images = str(state.parent / "shards")
    return Job(
        model=model_config(),
        fit=fit_config(checkpoint_every_images=160, **changes),
        train_directories=(images,),
        val_directory=images,
        state_directory=str(state),
        threads=1,
        identity={"data": "these"},
    )


def test_what_changes_is_beta_and_the_recipe_but_neither_the_network_nor_whether_there_is_a_critic():
    assert set(changed(SECTION)) == {"beta", "learning_rate", "beta_cycles", "free_bits_nats"}


def test_changed_values_stay_between_the_ends_of_their_ranges():
    drawn = {"beta": 2.4, "latent_dim": 9, "learning_rate": 0.0008, "beta_cycles": 6, "free_bits_nats": 1, "number": 3}
    assert within(drawn, SECTION) == drawn | {"beta": 2.0, "learning_rate": 0.001, "beta_cycles": 5}
    inside = drawn | {"beta": 0.7, "learning_rate": 0.002, "beta_cycles": 2}
    assert within(inside, SECTION) == inside and isinstance(within(drawn, SECTION)["beta_cycles"], int)


@pytest.mark.usefixtures("shards")
def test_fork_goes_on_bit_for_bit_as_the_training_it_came_from_where_nothing_changes(tmp_path):
    donor, other = job(tmp_path / "donor"), job(tmp_path / "other")
    execute(donor)
    calm = load_file(donor.weights)
    halfway = job(tmp_path / "halfway")
    reported = []
    with pytest.raises(StoppedError):
        execute(halfway, after_report=reported.append, leave=lambda: len(reported) == 2)
    step = reported[-1]["step"]
    fork(halfway, other, step)
    execute(other)
    assert step == 20 and all(torch.equal(tensor, calm[name]) for name, tensor in load_file(other.weights).items())
    plain = [{k: v for k, v in record.items() if k not in ("time_ms", "images_per_second")} for record in read(other.spool)]
    assert plain == [{k: v for k, v in r.items() if k not in ("time_ms", "images_per_second")} for r in read(donor.spool)]


@pytest.mark.usefixtures("shards")
def test_report_whose_checkpoint_was_lost_is_handed_over_again_as_the_spool_has_it(tmp_path):
    one, first, again = job(tmp_path / "one"), [], []
    with pytest.raises(StoppedError):
        execute(one, after_report=first.append, leave=lambda: len(first) == 2)
    for step in (20, 24):
        shutil.rmtree(checkpoint_path(one.state / CHECKPOINTS, step))
    execute(one, after_report=again.append)
    # Step 10 at once, from its checkpoint; 20 is done again: with what only the first one was given.
    assert [r["step"] for r in again] == [10, 20, 30, 40] and again[:2] == first and "time_ms" in again[1]


@pytest.mark.usefixtures("shards")
def test_fork_takes_other_values_from_there_on_and_is_a_training_of_its_own(tmp_path):
    donor = job(tmp_path / "donor", beta_anneal_share=0.0)
    other = job(tmp_path / "other", beta_anneal_share=0.0, beta=3.0, learning_rate=1e-3)
    reported = []
    with pytest.raises(StoppedError):
        execute(donor, after_report=reported.append, leave=lambda: len(reported) == 2)
    fork(donor, other, 20)
    before = checkpoint_path(other.state / CHECKPOINTS, 20) / "model.safetensors"
    assert before.read_bytes() == (checkpoint_path(donor.state / CHECKPOINTS, 20) / "model.safetensors").read_bytes()
    execute(other)
    records = read(other.spool)
    assert [(r["step"], r["beta"]) for r in records] == [(10, 1.0), (20, 1.0), (30, 3.0), (40, 3.0)]
    assert records[:2] == read(donor.spool)[:2] and records[1]["learning_rate"] > 1e-3 >= records[2]["learning_rate"]
    with pytest.raises(ResumeRefusedError, match=r"fit\.beta"):
        execute(replace(donor, state_directory=other.state_directory))


@pytest.mark.usefixtures("shards")
def test_fork_that_is_there_is_left_alone_and_one_without_its_checkpoint_leaves_nothing(tmp_path):
    donor, other = job(tmp_path / "donor"), job(tmp_path / "other")
    SpoolWriter(donor.spool).append({"step": 10})
    with pytest.raises(OSError, match="step-00000010"):
        fork(donor, other, 10)
    assert [path.name for path in tmp_path.iterdir() if path.name.lstrip(".").startswith("other")] == []
    SpoolWriter(other.spool).append({"step": 30})
    fork(donor, other, 10)
    assert read(other.spool) == [{"step": 30}] and not (other.state / CHECKPOINTS).exists()


def test_trials_of_other_pasts_have_other_states_and_the_table_tells_them(tmp_path):
    template = job(tmp_path / "tune")
    past = {"trial": 4, "until_images": 160, "beta": 1.5}
    config = {"beta": 0.7, "latent_dim": 3, "number": 2}
    points = [point_of(config | {"history": history}, {}) for history in ([], [past], [past, past], [past | {"beta": 1.6}])]
    assert points[0] == point_of(config, {}) == Point(0.7, 3, {}, 2) and points[0].name == "0002-beta-0.7-latent-3"
    assert len({point.name for point in points}) == 4 and all(point.name.startswith("0002-") for point in points)
    assert outcome(template, points[2], False, "val_fcd")["history"] == "trial 4 until 160 images; trial 4 until 160 images"
    assert "history" not in outcome(template, points[0], False, "val_fcd")


def test_trial_waits_for_its_checkpoint_and_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.trial.CHECKPOINT_SECONDS", 0.1)
    one = trial_job(job(tmp_path / "tune"), Point(1.0, 3, {}))
    wait_until_kept(one, 10)  # it keeps none any more: another went on from it, or it left
    (one.state / CHECKPOINTS).mkdir(parents=True)
    assert not kept(one, 10)
    with pytest.raises(TrainingFailedError, match=r"checkpoint of step 10 did not come to .*checkpoints"):
        wait_until_kept(one, 10)
    checkpoint_path(one.state / CHECKPOINTS, 10).mkdir()
    wait_until_kept(one, 10)

"""The plan's rules against mathematics, against Ray's own scheduler, against checkpoints on the disk and the memory of a process."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from configs import model_config
from pipeline import forecast, params, probe
from pipeline.cluster import Profile
from pipeline.errors import BadConfigError, CannotWriteError
from pipeline.plan import PARAMS, check, table
from pipeline.tune import trial_fit
from vae.config import FitConfig
from vae.data import ImageShards
from vae.models import build
from vae.run import Run
from vae.state import Progress, Saver

ROOT = Path(__file__).resolve().parents[3]
VALUES = params.load(ROOT / "params.yaml", PARAMS)
MODEL = model_config(image_shape=(16, 16, 3), latent_dim=5, hidden_units=32, likelihood="gaussian")
COSTS = {"step_seconds": 0.1, "validation_images_per_second": 1000.0, "checkpoint_seconds": 0.5}
MEMORY_TOLERANCE = forecast.MARGIN - 1  # of what a process really held at its worst moment


def config(**changes: object) -> FitConfig:
    rest = {"seed": 0, "beta": 1.0, "total_images": 6400, "validate_every_images": 640, "checkpoint_every_images": 1280}
    kept = {
        "keep_checkpoints": 2,
        "patience_reports": 0,
        "frozen_images": 0,
        "layer_decay": 1.0,
        "epsilon": 0.0,
        "delta": 1e-5,
        "sample_norm": 1.0,
    }
    return replace(VALUES.fit.fit_config(**rest, **kept), **{"global_batch_size": 64, "exactness": "resume", **changes})


def profile(**changes: object) -> Profile:
    fields = {"address": "auto", "workers": 2, "cpus_per_worker": 1, "gpus_per_worker": 0, "threads_per_worker": 1}
    return Profile(**(fields | changes))


class FakeTrial:
    """What Ray's scheduler looks at."""

    def __init__(self, number: int, status: str) -> None:
        self.number, self.trial_id, self.status = number, str(number), status
        self.is_saving, self.reports = False, 0


def section(**changes: object):
    usual = {
        "trials": 10,
        "rungs": 3,
        "reduction_factor": 2,
        "workers_per_trial": 1,
        "searcher": "sobol",
        "scheduler": "hyperband",
    }
    return replace(VALUES.tune, **(usual | changes))


def test_parameter_bytes_is_four_for_each_weight_and_allocates_none():
    c, (w0, w1), hidden, latent = 3, MODEL.widths, MODEL.hidden_units, MODEL.latent_dim
    flat = w1 * 4 * 4
    norm, residual = (lambda w: 2 * w), (lambda w: 2 * w + 9 * w * w + w)
    encoder = (9 * 4 * c * w0 + w0) + norm(w0) + (16 * w0 * w1 + w1) + residual(w1) + norm(w1)
    heads = (flat * hidden + hidden) + (hidden * 2 * latent + 2 * latent) + (latent * hidden + hidden) + (hidden * flat + flat)
    decoder = residual(w1) + norm(w1) + (16 * w1 * w0 + w0) + norm(w0) + (9 * w0 * 4 * c + 4 * c)
    likelihood = sum(p.numel() for p in build(MODEL).likelihood.state_dict().values())
    assert forecast.parameter_bytes(MODEL) == 4 * (encoder + heads + decoder + likelihood)


def test_disk_bytes_are_those_of_checkpoints_really_written(tmp_path):
    fit = config(keep_checkpoints=2)
    run = Run(MODEL, fit, torch.device("cpu"), None)
    for p in run.model.parameters():
        p.grad = torch.zeros_like(p)
    run.optimizer.step()  # the moments come with the first step
    saver = Saver(tmp_path, fit.keep_checkpoints)
    for step in range(1, 7):
        saver.save(Progress(step=step, best_step=1), run.model, run.ema, run.optimizer)
    saver.close()
    kept = sorted(tmp_path.iterdir())
    written = [sum(path.stat().st_size for path in each.iterdir()) for each in kept]
    foreseen = forecast.CHECKPOINT_COPIES * forecast.parameter_bytes(MODEL)
    assert all(0 <= size - foreseen < 2**15 for size in written), "headers, state and manifest"
    disk = forecast.disk_bytes(foreseen, fit, section(), at_once=1)
    assert len(kept) == 3 and disk["checkpoints of train"] == (len(kept) + 1) * foreseen, "one more while it is written"


@pytest.mark.usefixtures("ray_settings")
@pytest.mark.parametrize(("trials", "rungs", "factor"), [(10, 3, 2), (4, 2, 2), (1, 1, 2), (7, 2, 3), (23, 3, 3), (25, 4, 2)])
def test_halved_reports_are_those_that_rays_hyperband_hands_out(trials, rungs, factor):
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import HyperBandScheduler

    top = factor ** (rungs - 1)
    scheduler = HyperBandScheduler(max_t=top, reduction_factor=factor, metric="score", mode="max")
    every = [FakeTrial(number, Trial.PENDING) for number in range(trials)]

    def stop(trial: FakeTrial) -> None:
        trial.status = Trial.TERMINATED
        scheduler.on_trial_remove(controller, trial)

    controller = SimpleNamespace(stop_trial=stop)
    for trial in every:
        scheduler.on_trial_add(controller, trial)
    made = 0
    while (trial := scheduler.choose_trial_to_run(controller)) is not None:
        trial.status, action = Trial.RUNNING, scheduler.CONTINUE
        while action == scheduler.CONTINUE:
            trial.reports, made = trial.reports + 1, made + 1
            result = {"training_iteration": trial.reports, "score": float(trial.number)}
            if trial.reports == top:
                scheduler._trial_info[trial][0].update_trial_stats(trial, result)
                trial.status = Trial.TERMINATED
                scheduler.on_trial_complete(controller, trial, result)
                break
            action = scheduler.on_trial_result(controller, trial, result)
        if action == scheduler.STOP and trial.status != Trial.TERMINATED:
            stop(trial)
        elif trial.status == Trial.RUNNING:
            trial.status = Trial.PAUSED
    assert made == forecast.halved_reports(trials, rungs, factor) <= trials * top


def test_training_seconds_are_steps_reports_and_checkpoints_times_what_each_costs():
    found = forecast.training_seconds(config(), COSTS, val_images=500)
    assert found["steps"] == forecast.Range(pytest.approx(10.0), pytest.approx(10.0))
    assert found["validation"].high == pytest.approx(10 * 0.5)
    assert found["checkpoints"].low == pytest.approx(10 * 0.5) and found["checkpoints"].high == pytest.approx(15 * 0.5)


def test_training_that_may_stop_early_takes_at_least_the_reports_of_its_patience():
    assert forecast.reports(config(patience_reports=3)) == forecast.Range(4, 10)
    found = forecast.training_seconds(config(patience_reports=3), COSTS, 0)
    assert found["steps"] == forecast.Range(pytest.approx(4.0), pytest.approx(10.0))


@pytest.mark.parametrize("total", [64, 6400, 6401, 9999])
def test_reports_are_as_many_as_the_trainers_loop_makes(total):
    fit = config(total_images=total)
    steps, every = fit.total_steps, fit.steps(fit.validate_every_images)
    assert forecast.reports(fit).high == sum(step % every == 0 or step == steps for step in range(1, steps + 1))


def test_search_lies_between_halving_without_idle_workers_and_every_trial_to_its_end():
    values = SimpleNamespace(base=VALUES.base, fit=replace(VALUES.fit, global_batch_size=50), tune=section(images_per_trial=2000))
    found = forecast.search(values.tune, trial_fit(values), COSTS, 0, at_once=2)
    assert found["images"] == forecast.Range(30 * 500, 40 * 500)  # by hand: brackets of 3, 3 and 4 trials report 12, 10 and 8
    report = 10 * 0.1 + 2 * 0.5
    begin, ray = forecast.TRIAL_SECONDS, forecast.CLUSTER_SECONDS
    assert found["seconds"].low == pytest.approx(ray + (30 * report + 10 * begin) / 2)
    assert found["seconds"].high == pytest.approx(ray + 5 * (4 * report + begin))


@pytest.mark.parametrize(
    ("scheduler", "workers", "begins", "groups"), [("none", 1, 1, 0), ("pbt", 1, 4, 0), ("none", 2, 1, 1), ("pbt", 2, 4, 4)]
)
def test_search_without_stopping_trains_all_to_their_end_and_begins_again_where_others_decide(scheduler, workers, begins, groups):
    tune = section(images_per_trial=2000, scheduler=scheduler, workers_per_trial=workers)
    values = SimpleNamespace(base=VALUES.base, fit=replace(VALUES.fit, global_batch_size=50), tune=tune)
    found = forecast.search(tune, trial_fit(values), COSTS, 0, at_once=2)
    assert found["images"] == forecast.Range(40 * 500, 40 * 500)
    report = 10 * 0.1 + 2 * 0.5
    each = 4 * report + begins * forecast.TRIAL_SECONDS + groups * forecast.GROUP_SECONDS
    assert found["seconds"].high == pytest.approx(forecast.CLUSTER_SECONDS + 5 * each)


@pytest.mark.parametrize(
    ("changes", "workers_per_trial", "nodes", "at_once"),
    [
        ({}, 1, [{"CPU": 2}], 2),
        ({"cpus_per_worker": 2}, 1, [{"CPU": 2}], 1),
        ({}, 2, [{"CPU": 6}], 3),
        ({}, 1, [{"CPU": 64}], 10),  # no more than there are
        ({"cpus_per_worker": 4}, 1, [{"CPU": 6}, {"CPU": 6}], 2),  # 12 processors, but no worker on two nodes
        ({"cpus_per_worker": 4, "cpus_per_trial": 1}, 1, [{"CPU": 4}], 4),  # a trial is smaller than a worker
        ({"cpus_per_worker": 4, "cpus_per_trial": 2}, 2, [{"CPU": 8}], 2),
        ({"gpus_per_worker": 1}, 1, [{"CPU": 16, "GPU": 3}], 3),
        ({"gpus_per_worker": 1}, 2, [{"CPU": 16, "GPU": 3}], 1),
    ],
)
def test_trials_at_once(changes, workers_per_trial, nodes, at_once):
    assert forecast.trials_at_once(profile(**changes), section(workers_per_trial=workers_per_trial), nodes) == at_once


@pytest.mark.parametrize(
    ("searcher", "scheduler", "at_once"), [("gp", "none", 3), ("tpe", "asha", 3), ("gp", "hyperband", 10), ("random", "none", 10)]
)
def test_no_more_trials_run_at_once_than_are_proposed_at_once(searcher, scheduler, at_once):
    tune = section(searcher=searcher, scheduler=scheduler, round_trials=3)
    assert forecast.trials_at_once(profile(), tune, [{"CPU": 64}]) == at_once
    assert forecast.trials_at_once(profile(), replace(tune, trials=2), [{"CPU": 64}]) == 2


@pytest.mark.parametrize(
    ("changes", "tuned", "fits", "nodes", "words"),
    [
        ({"address": "local", "workers": 512}, {}, {"global_batch_size": 512}, [{"CPU": 999}], "train (workers 512): .* need 512 CPU"),
        ({"address": "local", "gpus_per_worker": 16}, {}, {}, [{"CPU": 9, "GPU": 99}], "train (workers 2): .* need 32 GPU"),
        ({}, {"workers_per_trial": 4}, {}, [{"CPU": 3}], "tune (tune.workers_per_trial 4): .* can place 3"),
        ({"cpus_per_worker": 4}, {}, {}, [{"CPU": 6}, {"CPU": 3}], "train (workers 2): .* can place 1"),
        ({"cpus_per_worker": 1, "cpus_per_trial": 4}, {}, {}, [{"CPU": 3}], "tune (tune.workers_per_trial 1): .* can place 0"),
        ({"workers": 3}, {}, {}, [{"CPU": 3}], "global_batch_size 64 does not divide by 3 workers"),
        ({"workers": 5}, {}, {"exactness": "elastic"}, [{"CPU": 8}], "virtual_shards 12 does not divide by 5"),
    ],
)  # fmt: skip
def test_waiting_says_which_stage_what_it_needs_and_what_there_is(changes, tuned, fits, nodes, words):
    import re

    fit = replace(config(), **fits)
    found = forecast.waiting(profile(**changes), section(**tuned), fit, nodes)
    pattern = ".*".join(re.escape(part) for part in words.split(".*"))
    assert any(re.search(pattern, line) for line in found), found
    assert all("\n" not in line for line in found)


def test_waiting_is_silent_where_everything_has_a_place():
    assert forecast.waiting(profile(), section(workers_per_trial=2), config(), [{"CPU": 2}]) == []


def test_recommended_is_the_fastest_but_what_is_configured_within_noise():
    def variant(precision: str, layout: str, speed: float) -> dict:
        return {"precision": precision, "memory_format": layout, "compile": False, "images_per_second": speed}

    fit = config(precision="float32", memory_format="channels_last", compile=False)
    slow = variant("float32", "channels_last", 1000.0)
    assert forecast.recommended([slow, variant("bfloat16", "contiguous", 1040.0)], fit) == slow
    fast = variant("bfloat16", "channels_last", 1300.0)
    assert forecast.recommended([slow, variant("bfloat16", "contiguous", 1200.0), fast], fit) == fast


def test_most_allocated_bytes_counts_what_lies_there_at_the_worst_moment():
    def work() -> None:
        first = torch.ones(1000, 1000)
        second = first + 1
        del first
        torch.ones(10, 1000).sum()
        del second

    assert 8_000_000 <= probe.most_allocated_bytes(work, torch.device("cpu")) < 8_001_000


MEASURED = """
import sys, json
from pathlib import Path
from types import SimpleNamespace
import torch
from pipeline import forecast, probe
from vae.config import FitConfig, ModelConfig
from vae.data import ImageShards
from vae.trainer import fit
torch.set_num_threads(1)
told = json.loads(sys.argv[1])
model, config = ModelConfig(**told["model"]), FitConfig(**told["fit"])
shards = ImageShards(Path(told["shards"]))
base = probe.base_bytes(SimpleNamespace(model=model, fit=config))
fit(model, config, shards, shards, checkpoints=Path(told["checkpoints"]))
peak = probe.process_bytes("VmHWM")
rehearsed = probe._Rehearsed(SimpleNamespace(model=model, augment=None), config, shards)
rehearsed.step()
parts = forecast.memory_bytes(forecast.parameter_bytes(model), base, rehearsed.step_bytes(), config, 1)
print(json.dumps({"peak": peak, "foreseen": parts}))
"""


@pytest.mark.parametrize(
    ("exactness", "workers", "parameters", "rows"),
    [
        ("resume", 1, 100, 1),
        ("resume", 2, 100, 1 + 2 * 2),  # two halves, a row for each rank
        ("resume", 2, 2**30, 1),  # too much to share
        ("elastic", 1, 100, 1 + 12),
        ("elastic", 3, 100, 1 + 2 * 12),
        ("elastic", 3, 2**30, 1 + 12 + 4),  # all shards, and a copy of its own
    ],
)
def test_memory_of_gradients_is_what_the_level_and_the_workers_ask_for(exactness, workers, parameters, rows):
    fit = config(exactness=exactness, virtual_shards=12)
    assert forecast.memory_bytes(parameters, 0, 0, fit, workers)["gradients"] == rows * parameters


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize(
    "changes",
    [
        {"widths": (64, 64), "hidden_units": 64},
        {"widths": (16, 64), "hidden_units": 320},
        {"widths": (64, 64), "hidden_units": 64, "recompute": True},
    ],
    ids=["activations", "weights", "recompute"],
)
def test_memory_bytes_are_near_to_what_a_training_really_held(changes, tmp_path):
    import json
    from dataclasses import asdict

    import numpy as np

    from vae.data import ShardWriter

    changes = dict(changes)
    recompute = changes.pop("recompute", False)
    model = replace(MODEL, image_shape=(64, 64, 3), **changes)
    fit = config(total_images=192, validate_every_images=192, checkpoint_every_images=128, recompute=recompute)
    writer = ShardWriter(tmp_path / "shards", model.image_shape, 64)
    writer.add_all(np.random.default_rng(0).integers(0, 256, (64, *model.image_shape), np.uint8))
    writer.close()
    assert len(ImageShards(tmp_path / "shards")) == 64
    told = {
        "model": asdict(model),
        "fit": asdict(fit),
        "shards": str(tmp_path / "shards"),
        "checkpoints": str(tmp_path / "checkpoints"),
    }

    command = [sys.executable, "-c", MEASURED, json.dumps(told)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    foreseen, peak = found["foreseen"], found["peak"]
    print(f"foreseen {foreseen['in all'] / 1e6:.0f} MB, held {peak / 1e6:.0f} MB", foreseen)
    assert foreseen["in all"] - foreseen["process"] > peak / 5, "the part that the rules speak of must be large"
    assert math.isclose(foreseen["in all"], peak, rel_tol=MEMORY_TOLERANCE)


def report() -> dict:
    """A plan of made-up measurements."""
    costs = {**COSTS, "step_bytes": 10**8, "validation_bytes": 10**7, "images_per_second": 640.0, "peak_bytes": 0}
    names = {"precision": "float32", "memory_format": "channels_last", "compile": False}
    costs["variants"] = [{**names, "images_per_second": 640.0, "step_seconds": 0.1}]
    fit = config(precision="float32", memory_format="channels_last", compile=False)
    measured = {"train": costs, "trial": costs, "base_bytes": 10**8}
    found = forecast.foreseen(section(), profile(), (fit, fit), (10**6, 10**6), None, 2, 2, measured)
    found |= {"measured_on": "random images", "profile": vars(profile()), "notes": ["a note"]}
    found["memory_bytes"]["machine"], found["disk_bytes"]["free"], found["disk_bytes"]["data"] = 10**11, 10**11, 0
    return found


def test_table_is_readable_and_tells_of_memory_and_notes():
    text = table(report())
    assert "2 at once" in text and "fits" in text and "note: a note" in text and "keep: fit.precision: float32" in text
    assert max(map(len, text.splitlines())) <= 150


def test_check_names_what_is_too_small():
    check(report())
    small = report()
    small["memory_bytes"]["machine"] = 10**9
    with pytest.raises(BadConfigError, match=r"of memory are needed at once, there are 1\.0 GB: lower"):
        check(small)
    full = report()
    full["disk_bytes"]["free"] = 10**6
    with pytest.raises(CannotWriteError, match=r"of disk are needed, 1 MB are free"):
        check(full)

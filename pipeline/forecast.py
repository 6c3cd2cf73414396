"""The rules by which a few measured costs become a plan: time, memory, disk, how many trials at once, and why a job would wait.

Nothing is measured here and no file is read: the same numbers give the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pipeline.cluster import Nodes, Profile, check_local, slots
from pipeline.errors import BadConfigError
from pipeline.sections import Tune
from pipeline.trial import side_by_side
from vae import shared_sum
from vae.config import FitConfig, ModelConfig
from vae.gradients import check_division
from vae.models import build

MIB = 2**20
# Measured with Ray 2.60 on two cores: a cluster around a stage, a group of workers in it, and what a trial's actor costs to begin.
CLUSTER_SECONDS, GROUP_SECONDS, TRIAL_SECONDS = 11.0, 8.0, 1.5
# Beside the workers' own: Ray's servers and the stage's process; and what Ray adds to each worker.
RAY_BYTES, RAY_WORKER_BYTES = 900 * MIB, 150 * MIB
CHECKPOINT_COPIES = 4  # weights, their average, Adam's two moments
STATE_COPIES = 6  # these four, the averaged model that validation uses, gradients
REPORT_BYTES = 8 * MIB
MARGIN = 1.2  # of memory: what the parts leave unexplained in a real process
GAIN = 1.05  # a variant must be this much faster than what is configured: less is noise


@dataclass(frozen=True)
class Range:
    """At least and at most."""

    low: float
    high: float


def parameter_bytes(config: ModelConfig) -> int:
    """Of the model's weights in memory and on disk; nothing is allocated."""
    with torch.device("meta"):
        return sum(value.numel() * value.element_size() for value in build(config).state_dict().values())


def memory_bytes(parameters: int, base: int, transient: int, config: FitConfig, workers: int) -> dict[str, int]:
    """Of one worker at its worst moment, part by part: ``base`` is a process without a model, ``transient`` what a step or a
    validation holds for a moment. The snapshot is rank 0's, while a checkpoint is written.
    """
    elastic = config.exactness == "elastic"
    rows = config.virtual_shards if elastic else workers  # of gradients that all workers can read
    shared = shared_sum.memory_bytes(parameters, rows) if workers > 1 else 0
    sent = config.virtual_shards // workers if workers > 1 else 0  # through a network: a copy of its own shards
    own = config.virtual_shards + sent if elastic and not shared else 0
    parts = {
        "process": base,
        "model and averages": 3 * parameters,
        "gradients": (1 + own) * parameters + shared,
        "optimizer": 2 * parameters,
        "activations": transient,
        "checkpoint": CHECKPOINT_COPIES * parameters,
    }
    assert parts["model and averages"] + parameters + parts["optimizer"] == STATE_COPIES * parameters
    return {**parts, "in all": sum(parts.values())}


def reports(config: FitConfig) -> Range:
    """How many validations a training makes: with ``patience_reports``, it may end after the first ones."""
    every = config.steps(config.validate_every_images)
    most = -(-config.total_steps // every)
    return Range(min(most, 1 + config.patience_reports) if config.patience_reports else most, most)


def training_seconds(config: FitConfig, costs: Mapping[str, float], val_images: int) -> dict[str, Range]:
    """Of one training: steps, validation, checkpoints; ``costs`` are those of ``pipeline.rehearsal``."""
    made = reports(config)
    every = config.steps(config.validate_every_images)
    steps = Range(min(config.total_steps, made.low * every), config.total_steps)
    periodic = config.total_images / config.checkpoint_every_images
    validation = val_images / costs["validation_images_per_second"] + costs.get("score_seconds", 0.0)
    saves = Range(made.low, made.high + periodic)  # each better report, and each period
    return {
        name: Range(count.low * each, count.high * each)
        for name, count, each in (
            ("steps", steps, costs["step_seconds"]),
            ("validation", made, validation),
            ("checkpoints", saves, costs["checkpoint_seconds"]),
        )
    }


def halved_reports(trials: int, rungs: int, factor: int) -> int:
    """Reports that all trials together make under Ray's HyperBand where none fails.

    Li et al. 2018 as Ray counts it: brackets 0, 1, ... of a band are filled one after the other; bracket s begins with
    ceil(rungs / (s + 1) * factor ** s) places and a first milestone of factor ** (rungs - 1 - s) reports.
    """
    top, made, bracket = factor ** (rungs - 1), 0, 0
    while trials > 0:
        s = bracket % rungs
        places = math.ceil(rungs / (s + 1) * factor**s)
        alive, before, milestone = min(trials, places), 0, top // factor**s
        trials -= alive
        for _ in range(s + 1):
            made += alive * (milestone - before)
            places = math.ceil(places / factor)
            alive, before, milestone = min(alive, places), milestone, milestone * factor
        bracket += 1
    return made


def search(section: Tune, config: FitConfig, costs: Mapping[str, float], val_images: int, at_once: int) -> dict[str, Any]:
    """Images and seconds of a search: at least with HyperBand's stopping and no idle worker, at most where nothing stops.

    A population waits for all at every report, and begins anew after it; so does a worker group, for a scheduler to decide.
    """
    full = section.reports
    stopping = section.scheduler in ("hyperband", "asha")
    halved = halved_reports(section.trials, section.rungs, section.reduction_factor) if stopping else section.trials * full
    whole = sum(part.high for part in training_seconds(config, costs, val_images).values())
    group = GROUP_SECONDS if section.workers_per_trial > 1 else 0.0
    groups = full if section.scheduler != "none" else 1
    report, begin = whole / full + group * groups / full, TRIAL_SECONDS
    least = max(halved * report + section.trials * begin, at_once * (full * report + begin)) / at_once
    rounds = full if section.scheduler == "pbt" else 1
    most = math.ceil(section.trials / at_once) * (full * report + rounds * begin)
    images = config.total_images // full
    return {
        "images": Range(halved * images, section.trials * full * images),
        "seconds": Range(CLUSTER_SECONDS + least, CLUSTER_SECONDS + max(least, most)),
    }


def disk_bytes(checkpoint: int, config: FitConfig, section: Tune, at_once: int) -> dict[str, int]:
    """What comes beside the data: checkpoints that are kept (the newest ones, the best, and the one being written)."""
    kept = min(section.reports, 3)  # a trial keeps two and the best, until the search is over
    return {
        "checkpoints of train": (config.keep_checkpoints + 2) * checkpoint,
        "checkpoints of tune": (section.trials * kept + at_once) * checkpoint,
        "model": checkpoint // CHECKPOINT_COPIES,
        "reports": REPORT_BYTES,
    }


def trials_at_once(profile: Profile, section: Tune, nodes: Nodes) -> int:
    """How many trials run at the same time: what tune itself decides, and no more than have a place."""
    profile = profile.of_trials
    total = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    placed = slots(profile, nodes) // section.workers_per_trial
    return max(
        1,
        min(
            section.round_size or section.trials, section.trials, placed, side_by_side(profile, section.workers_per_trial, total)
        ),
    )


def waiting(profile: Profile, section: Tune, config: FitConfig, nodes: Nodes) -> list[str]:
    """Why a stage would wait for ever, or end at once, on these nodes: a line for each reason; empty where it would run."""
    found = []
    asked = {
        "train": (profile, profile.workers, "workers"),
        "tune": (profile.of_trials, section.workers_per_trial, "tune.workers_per_trial"),
    }
    for stage, (each_has, workers, key) in asked.items():
        try:
            check_local(each_has, workers)
            check_division(config, workers)
        except (BadConfigError, ValueError) as error:
            found.append(f"{stage} ({key} {workers}): {error}")
            continue
        if (places := slots(each_has, nodes)) < workers:
            each = f"{each_has.cpus_per_worker} CPU" + (f", {each_has.gpus_per_worker} GPU" if each_has.gpus_per_worker else "")
            found.append(
                f"{stage} ({key} {workers}): {workers} workers of {each} each, of which the nodes can place {places}: "
                f"a worker lies on one node; lower cpus_per_worker or `workers` in the cluster profile, or use larger nodes"
            )
    return found


def recommended(variants: Sequence[Mapping[str, Any]], config: FitConfig) -> Mapping[str, Any]:
    """The variant to write into params.yaml: the fastest one, or the configured one where that is as fast within noise."""
    names = ("precision", "memory_format", "compile")
    configured = next(v for v in variants if all(v[name] == getattr(config, name) for name in names))
    fastest = max(variants, key=lambda v: v["images_per_second"])
    return fastest if fastest["images_per_second"] > GAIN * configured["images_per_second"] else configured


def foreseen(
    section: Tune,
    profile: Profile,
    fits: tuple[FitConfig, FitConfig],
    parameters: tuple[int, int],
    val_images: int | None,
    at_once: int,
    measured_workers: int,
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    """All rules on what ``pipeline.probe`` measured; ``fits`` and ``parameters`` (bytes) are the training's and a trial's."""
    (fit, trial), variants = fits, measured["train"]["variants"]
    configured, chosen = variants[0], recommended(variants, fit)
    costs = {**measured["train"], "step_seconds": configured["step_seconds"]}
    times = training_seconds(fit, costs, val_images or 0)
    begin = CLUSTER_SECONDS + GROUP_SECONDS
    whole = Range(*(begin + sum(getattr(part, end) for part in times.values()) for end in ("low", "high")))
    found = search(section, trial, measured["trial"], val_images or 0, at_once)
    memory, at_worst = {}, 0
    for name, config, own, workers, groups in (
        ("train", fit, parameters[0], profile.workers, 1),
        ("trial", trial, parameters[1], section.workers_per_trial, at_once),
    ):
        transient = max(measured[name].get(f"{what}_bytes", 0) for what in ("step", "validation", "score"))
        memory[name] = memory_bytes(own, measured["base_bytes"] + RAY_WORKER_BYTES, transient, config, workers)
        at_worst = max(at_worst, groups * workers * memory[name]["in all"])
    checkpoint = CHECKPOINT_COPIES * max(parameters)
    return {
        "train": {
            "seconds": asdict(whole),
            **{f"{name}_seconds": asdict(part) for name, part in times.items()},
            "images": fit.total_images,
            "images_per_second": configured["images_per_second"] * (profile.workers / measured_workers),
            "reports": asdict(reports(fit)),
            "val_images": val_images,
        },
        "tune": {
            **{name: asdict(span) for name, span in found.items()},
            "trials": section.trials,
            "trials_at_once": at_once,
            "images_per_second_of_a_trial": measured["trial"]["images_per_second"],
            "score_seconds": measured["trial"].get("score_seconds"),
        },
        "memory_bytes": {
            **memory,
            "at_once": round(MARGIN * at_worst) + RAY_BYTES,
            "rehearsed_train": measured["train"]["peak_bytes"],
        },
        "disk_bytes": {"checkpoint": checkpoint, **disk_bytes(checkpoint, fit, section, at_once)},
        "variants": variants,
        "recommended": {key: chosen[key] for key in ("precision", "memory_format", "compile")},
        "gain": chosen["images_per_second"] / configured["images_per_second"],
        "accelerator_peak_bytes": measured["train"].get("accelerator_peak_bytes"),
        "compile_seconds": measured["train"].get("compile_seconds"),
    }

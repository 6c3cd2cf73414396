"""``python -m pipeline.plan``: what a run will cost, before it begins; from a few steps measured here and the cluster's resources.

Time of tune and train, memory of a worker, disk, trials at once, the fastest fit.precision and fit.memory_format; or exit code
78 with the reason why a job would wait for resources that there are not. Writes reports/plan.json, and never params.yaml.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pipeline import forecast, params, stage
from pipeline.cluster import DEFAULT_PROFILE, PROFILE_VARIABLE, Profile, connected, load_profile
from pipeline.console import set_up_logging
from pipeline.errors import BadConfigError, CannotWriteError
from pipeline.machine import memory_bytes, processors
from pipeline.paths import BEST, Paths
from pipeline.rehearsal import START_SECONDS, Data, data, rehearse, task
from pipeline.train import Choice, choose, configs
from pipeline.trial_score import OF_SAMPLES
from pipeline.tune import trial_fit
from vae.files import canonical_json, write_text

PARAMS = ("base", "download", "preprocess", "augment", "fit", "tune", "train")
SECONDS = 8.0  # of measuring, beside starting
ENDLESS = [{"CPU": 1e9, "GPU": 1e9}]
log = logging.getLogger("pipeline.plan")


def nodes_of(profile: Profile, paths: Paths, workers: int) -> list[dict[str, float]]:
    """What each node has; a cluster is joined for a moment. BadConfigError, UnavailableError as ``connected``."""
    if profile.address == "local":
        return [{"CPU": processors(), "GPU": torch.cuda.device_count(), "memory": memory_bytes()}]
    with connected(profile, paths, workers):
        import ray

        free = ray.available_resources()
        for name, wanted in (("CPU", workers * profile.cpus_per_worker), ("GPU", workers * profile.gpus_per_worker)):
            if wanted > free.get(name, 0):
                log.warning(
                    "only %g of the cluster's %s are free now, %d are needed: a job waits for others",
                    free.get(name, 0),
                    name,
                    wanted,
                )
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _notes(
    values: SimpleNamespace, profile: Profile, found: Data, what: Mapping[str, Any], measured: Mapping[str, Any]
) -> list[str]:
    """What the plan does not know, or knows from less than it will be."""
    notes = []
    if found.val_images is None:
        notes.append("how many images there will be is not known: validation and disk are without them")
    if what["workers"] < profile.workers:
        notes.append(
            f"one worker's share was measured, not all {profile.workers} together: what they exchange is not in the times"
        )
    if profile.gpus_per_worker and not torch.cuda.is_available():
        notes.append("measured without a GPU, which the profile asks for: times are at most, the GPUs' memory is not foreseen")
    if values.tune.score != "elbo_nats" and "score_seconds" not in measured["trial"]:
        why = ": models/extractor is not there" if values.tune.score in OF_SAMPLES else ""
        notes.append(f"what the score of a trial ({values.tune.score}) costs is not in the times{why}")
    if measured["train"]["variants_skipped"]:
        notes.append(
            f"a step takes {measured['train']['first_step_seconds']:.1f} s: variants are compared with a larger --seconds"
        )
    if values.fit.adversary_weight and values.fit.adversary_start_share:
        notes.append(
            "a critic takes part from fit.adversary_start_share on: steps then take about twice as long as is foreseen here"
        )
    if values.train.epsilon:
        notes.append(
            "the steps of the training are private ones (train.epsilon): they take several times as long as is foreseen here"
        )
    return notes


def _refuse(reasons: list[str]) -> None:
    if reasons:
        raise BadConfigError("\n".join(reasons))


def plan(values: SimpleNamespace, paths: Paths, seconds: float = SECONDS, compiled: bool = False) -> dict[str, Any]:
    """Measure, foresee, write reports/plan.json and return it. BadConfigError where a job would wait for ever."""
    started, profile, section = time.monotonic(), load_profile(paths), values.tune
    choice = Choice(values.train.beta, values.train.latent_dim, values.fit)
    if values.train.use_tuned:
        known = (paths.tune_report / BEST).exists()
        choice = choose(values, paths) if known else replace(choice, beta=section.beta_max, latent_dim=section.latent_dim_max)
    model, fit = configs(values, values.base.image_shape, choice, classes=0)  # a table of classes costs next to nothing
    _refuse(forecast.waiting(profile, section, fit, ENDLESS))  # what no cluster could mend is told without a look at it
    nodes = nodes_of(profile, paths, profile.workers)
    _refuse(forecast.waiting(profile, section, fit, nodes))
    at_once = forecast.trials_at_once(profile, section, nodes)
    paths.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="plan-", dir=paths.work) as name:
        found = data(values, paths, Path(name))
        log.info("measuring on %s for about %.0f s", found.source, seconds + START_SECONDS)
        fits = fit, trial_fit(values)
        what = task(values, paths, profile, model, fits, at_once, found, Path(name))
        measured = rehearse({**what, "seconds": seconds, "compile": compiled}, Path(name))
    widest = values.fit.model_config(model.image_shape, section.latent_dim_max)
    parameters = forecast.parameter_bytes(model), forecast.parameter_bytes(widest)
    report = {
        "measured_on": found.source,
        "profile": vars(profile),
        "notes": _notes(values, profile, found, what, measured),
        **forecast.foreseen(section, profile, fits, parameters, found.val_images, at_once, what["workers"], measured),
    }
    report["disk_bytes"]["data"] = found.bytes
    report["memory_bytes"]["machine"] = sum(node.get("memory", 0) for node in nodes)
    report["disk_bytes"]["free"] = shutil.disk_usage(paths.root).free
    report["seconds_to_measure"] = round(time.monotonic() - started, 1)
    paths.plan.parent.mkdir(parents=True, exist_ok=True)
    write_text(paths.plan, canonical_json(report))
    return report


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"


def _span(span: Mapping[str, float], shown: Any = _duration) -> str:
    low, high = shown(span["low"]), shown(span["high"])
    return low if low == high else f"{low} to {high}"


def _amount(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def table(report: Mapping[str, Any]) -> str:
    """The plan for a person."""
    train, tune, memory, disk = (report[name] for name in ("train", "tune", "memory_bytes", "disk_bytes"))
    rows = [
        ("time", "", ""),
        ("tune", _span(tune["seconds"]), f"{tune['trials']} trials, {tune['trials_at_once']} at once; "
         f"{_span(tune['images'], '{:,.0f}'.format)} images, {tune['images_per_second_of_a_trial']:,.0f} images/s each"),
        ("train", _span(train["seconds"]), f"{train['images']:,} images, {train['images_per_second']:,.0f} images/s over "
         f"{Profile(**report['profile']).told}"),
        ("  validation", _span(train["validation_seconds"]), f"{_span(train['reports'], '{:.0f}'.format)} times "
         + (f"{train['val_images']:,} images" if train["val_images"] is not None else "an unknown number of images")),
        ("  checkpoints", _span(train["checkpoints_seconds"]), f"{_amount(disk['checkpoint'])} each"),
        ("memory", "", ""),
    ]  # fmt: skip
    for name in ("train", "trial"):
        parts = ", ".join(f"{part} {size / 1e6:.0f}" for part, size in memory[name].items() if part != "in all")
        rows.append((f"a worker of {name}", _amount(memory[name]["in all"]), parts))
    rows.append(
        (
            "at once",
            _amount(memory["at_once"]),
            f"with {forecast.MARGIN - 1:.0%} to spare, of {_amount(memory['machine'])}: {_verdict(report) or 'fits'}",
        )
    )
    rows += [("disk", "", ""), *((name, _amount(disk[name]), "") for name in disk if name not in ("checkpoint", "free"))]
    rows += [("free", _amount(disk["free"]), ""), ("precision, layout", "", "")]
    for each in report["variants"]:
        name = f"{each['precision']}{', compiled' if each['compile'] else ''}"
        rows.append((name, f"{each['images_per_second']:,.0f} images/s", each["memory_format"]))
    lines = [f"  {name:<22}{value:<26}{text}".rstrip() if value else f"\n{name}" for name, value, text in rows]
    chosen = ", ".join(f"fit.{key}: {str(value).lower()}" for key, value in report["recommended"].items())
    advice = f"set in params.yaml: {chosen} ({report['gain']:.2f} times as fast)" if report["gain"] > 1 else f"keep: {chosen}"
    notes = [f"note: {note}" for note in report["notes"]]
    profile = os.environ.get(PROFILE_VARIABLE, DEFAULT_PROFILE)
    return "\n".join([f"params.yaml on {profile}, measured on {report['measured_on']}", *lines, "", advice, *notes])


def _verdict(report: Mapping[str, Any]) -> str:
    memory = report["memory_bytes"]
    return "too much" if memory["at_once"] > memory["machine"] > 0 else ""


def check(report: Mapping[str, Any]) -> None:
    """BadConfigError where the memory is too small, CannotWriteError where the disk is."""
    memory, disk = report["memory_bytes"], report["disk_bytes"]
    if _verdict(report):
        raise BadConfigError(
            f"{_amount(memory['at_once'])} of memory are needed at once, there are {_amount(memory['machine'])}: lower "
            f"fit.global_batch_size, set fit.micro_batch_size or fit.recompute, or take fewer workers in the cluster profile"
        )
    wanted = disk["model"] + disk["reports"] + max(disk["checkpoints of train"], disk["checkpoints of tune"])
    if wanted > disk["free"]:
        raise CannotWriteError(
            f"{_amount(wanted)} of disk are needed, {_amount(disk['free'])} are free: free some space, or lower "
            f"train.keep_checkpoints or tune.trials"
        )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.plan", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="how long to measure, beside starting (default: %(default)g)"
    )
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too: half a minute more")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and the libraries' own messages")
    arguments = parser.parse_args()
    if not 0 < arguments.seconds <= 3600:
        parser.error("--seconds must be more than 0 and at most 3600")
    set_up_logging("plan", arguments.debug)
    paths = Paths.here()

    def work() -> None:
        report = plan(params.load(paths.params, PARAMS), paths, arguments.seconds, arguments.compile)
        print(table(report))
        check(report)

    sys.exit(stage.guarded("plan", work, arguments.debug))


if __name__ == "__main__":
    main()

"""Stage report: one self-contained page on the version that was registered, for whoever decides about it.

In: everything below reports/, models/vae/config.json, params.yaml. Out: reports/report.html (no network, light and dark); a copy in
the training's MLflow run.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
from PIL import Image

from pipeline import stage
from pipeline.outbox import connect
from pipeline.pages import embedded, interval, number, render
from pipeline.params import read_text
from pipeline.paths import BEST, DECISION, DOCTOR, INTERVALS, LINEAGE, METRICS, PROTOCOL, RUN, SLICES, Paths
from pipeline.registry import Registry
from pipeline.tracking import patient
from vae.files import read_json, write_text
from vae.pictures import GAP_PIXELS, ZOOM

PARAMS = ("report",)
TEMPLATE = "report.html.jinja"
FIGURES = (  # score, title, what stands beside it
    ("fcd", "FCD", "fcd_real_floor"), ("nll_nats", "NLL, nats", None), ("bits_per_dim", "bits per dimension", None),
    ("coverage", "coverage", "coverage_real"), ("psnr_db", "PSNR, dB", None), ("class_accuracy", "class accuracy", "class_accuracy_real"),
    ("active_units", "active latents", "latent_dim"),
)  # fmt: skip
RULER = (
    ("fcd_real_floor", "real images"), ("fcd_reconstructions", "reconstructions"), ("fcd_noised", "noised"), ("fcd_blurred", "blurred"),
)  # fmt: skip
log = logging.getLogger("pipeline.report")


def film(path: Path, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """A grid of pictures whose columns are the steps of a movement, as the page's slider shows it; it starts in the middle."""
    height, width, _ = image_shape
    cell_width, cell_height = (width + GAP_PIXELS) * ZOOM, (height + GAP_PIXELS) * ZOOM
    with Image.open(path) as picture:
        steps, rows = picture.width // cell_width, picture.height // cell_height
    return {
        "picture": embedded(path), "steps": steps, "rows": rows, "start": steps // 2,
        "cell_width": cell_width, "cell_height": cell_height, "width": width * ZOOM, "height": height * ZOOM,
    }  # fmt: skip


def ruler(metrics: dict[str, Any], champion_fcd: float | None) -> list[dict[str, Any]]:
    """Marks of the FCD axis, logarithmic, the best first; empty where there were too few images."""
    if metrics["fcd"] is None:
        return []
    known = [(metrics[key], title, False) for key, title in RULER if metrics[key] is not None]
    known += [(champion_fcd, "champion before", False)] if champion_fcd is not None else []
    ordered = sorted([*known, (metrics["fcd"], "this version", True)])
    logs = [math.log(max(value, 1e-6)) for value, _, _ in ordered]
    span = max(logs[-1] - logs[0], 1e-9)
    return [
        {"title": title, "value": number(value), "this": this, "percent": round(100 * (where - logs[0]) / span, 1)}
        for (value, title, this), where in zip(ordered, logs, strict=True)
    ]


def _figures(metrics: dict[str, Any], intervals: dict[str, list[float]]) -> list[dict[str, str]]:
    found = []
    for key, title, beside in FIGURES:
        if key not in metrics:
            continue
        note = interval(intervals.get(key))
        if beside and metrics[beside] is not None:
            of = "of " if beside == "latent_dim" else "real images "
            note = f"{of}{number(metrics[beside])}" + (f" · {note}" if note else "")
        if metrics[key] is None:
            found.append({"title": title, "value": "-", "note": number(None)})
        else:
            found.append({"title": title, "value": number(metrics[key]), "note": note})
    return found


def _command(lineage: dict[str, str]) -> str:
    """What makes this version again; where the working tree was not the commit's, that is said."""
    commit = lineage["vaeline.git_commit"]
    there = [] if commit == "unknown" else [f"git checkout {commit}"]
    if lineage["vaeline.git_dirty"] != "false":
        there.append("# the working tree held changes that no commit has: with the parameters below and these, not without")
    return "\n".join([*there, "dvc repro"])


def _privacy(told: dict[str, Any] | None) -> str:
    if not told:
        return ""
    return (
        f"; the model is differentially private for its training images: epsilon {number(told['epsilon'])}, delta {told['delta']:g} "
        f"({told['accountant']}). The pictures and scores of this page are not"
    )


def context(title: str, paths: Paths) -> dict[str, Any]:
    """All that the page shows, from the files of the stages."""
    evaluate, decision = paths.evaluate_report, read_json(paths.register_report / DECISION)
    metrics, intervals = read_json(evaluate / METRICS), read_json(evaluate / INTERVALS)
    model = json.loads((paths.model / "config.json").read_text(encoding="utf-8"))
    run, trained = read_json(paths.train_report / RUN), read_json(paths.train_report / METRICS)
    lineage, counts = read_json(paths.register_report / LINEAGE), read_json(paths.preprocess_report / METRICS)
    best, workers = read_json(paths.tune_report / BEST), f"{run['workers']} worker{'s' * (run['workers'] > 1)}"
    shape, kind = tuple(model["model"]["image_shape"]), model["model"]
    height, width, _ = shape
    reports = evaluate.parent
    reasons = ", ".join(f"{n} {reason}" for reason, n in counts["rejected_for"].items()) or "none"
    slices = pd.read_csv(evaluate / SLICES, keep_default_na=False)
    return {
        "title": title or f"{decision['name']}, version {decision['version']}",
        "promoted": decision["promoted"],
        "reason": decision["reason"],
        "images": f"{counts['accepted']:,}",
        "architecture": f"{kind['name']} of {kind['latent_dim']} latents, {kind['likelihood']} likelihood, prior {model['prior']}, "
        f"{width}x{height} {model['preprocessing']['mode']}",
        "figures": _figures(metrics, intervals),
        "ruler": ruler(metrics, decision["champion_fcd"]),
        "findings": read_json(evaluate / DOCTOR),
        "labelled": bool(kind["classes"]),
        "films": {name: film(evaluate / f"{name}.png", shape) for name in ("interpolations", "traversals")},
        "pictures": {str(path.relative_to(reports)): embedded(path) for path in sorted(reports.glob("*/*.png"))},
        "scores": [{"name": k, "value": number(v), "interval": interval(intervals.get(k))} for k, v in metrics.items()],
        "slices": {"columns": list(slices), "rows": [[number(v) for v in row] for row in slices.itertuples(index=False)]}
        if len(slices) > 1
        else None,
        "training": f"{trained['images']:,} images on {workers}, at beta {number(trained['beta'])}, {run['begun']}"
        + _privacy(model["preprocessing"].get("privacy")),
        "search": f"chosen: beta {number(best['beta'])}, {best['latent_dim']} latents; rule: {best['rule']}"
        + ("; its weights saw other values before" if best.get("history") else "")
        + ("" if run["tuned"] else "; not taken by this version (train.use_tuned is false)"),
        "data": f"{counts['seen']:,} files seen: {counts['accepted']:,} accepted, {counts['rejected']:,} rejected ({reasons}), "
        f"{counts['skipped']:,} skipped; {counts['train_images']:,} for training, {counts['val_images']:,} for validation, "
        f"{counts['test_images']:,} for the test.",
        "protocol": read_json(evaluate / PROTOCOL),
        "lineage": lineage,
        "command": _command(lineage),
        "params": read_text(paths.params),
        "gap": GAP_PIXELS * ZOOM,
    }


def report(values: SimpleNamespace, paths: Paths) -> None:
    """Write the page, and put it beside the run's other files."""
    write_text(paths.report, render(TEMPLATE, context(values.report.title, paths)))
    tracker, run_id = connect(paths), read_json(paths.train_report / RUN)["run_id"]
    version = read_json(paths.register_report / DECISION)["version"]
    with patient(paths):
        if tracker.exists(run_id):
            for place in (None, Registry.place(version)):
                tracker.artifact(run_id, paths.report, place)
    log.info("%s (%.1f MB)", paths.report, paths.report.stat().st_size / 1e6)


if __name__ == "__main__":
    stage.main("report", PARAMS, report, __doc__)

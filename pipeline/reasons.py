"""Why a scheduled training should run, or why it need not: what is out of date, what is new in the input, drift, age."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline import drift, graph, listing
from pipeline.paths import BEST, Paths
from pipeline.raw import FILES
from vae.decode import Rules
from vae.files import MANIFEST, read_manifest

SEARCH = "tune"


@dataclass
class Look:
    """What was seen. ``reasons``: sentences for a training; ``calm``: sentences that speak for none."""

    reasons: list[str] = field(default_factory=list)
    calm: list[str] = field(default_factory=list)
    changes: listing.Changes | None = None
    drift: drift.Drift | None = None
    farthest_NHWC: np.ndarray | None = None  # recent images, those first that are the least like the training

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        changes = self.changes and {
            "known": self.changes.known, "new": len(self.changes.new), "gone": self.changes.gone, "share": self.changes.share,
            "input_sha256": self.changes.sha256,
        }  # fmt: skip
        return {"reasons": self.reasons, "calm": self.calm, "input": changes, "drift": self.drift and asdict(self.drift)}


def frozen(values: SimpleNamespace, paths: Paths) -> bool:
    """Whether the search's last choice holds, so that stage tune is left out."""
    return not values.retrain.search and (paths.tune_report / BEST).exists()


def _stages(values: SimpleNamespace, paths: Paths) -> list[str]:
    """Stages that are out of date for another reason than that the input has changed."""
    found = graph.outdated(paths)
    if found.get("download") == [{"changed deps": {values.download.path: "modified"}}]:
        del found["download"]
    if frozen(values, paths):
        found.pop(SEARCH, None)
    return list(found)


def _drift(values: SimpleNamespace, paths: Paths, sample: listing.Sample, found: Look) -> None:
    rules = Rules.of(read_manifest(paths.processed, hashes=False)["rules"])
    recent_NHWC = drift.images_of(sample.contents(), rules)
    measured = drift.measure(recent_NHWC, paths, values.base.seed)
    if measured is None:
        found.calm.append(f"drift is not measured: {len(recent_NHWC)} new images lie here, {drift.LEAST_IMAGES} are needed")
        return
    found.drift, found.farthest_NHWC = measured
    limit = values.retrain.drift_deviations
    told = f"new images lie {found.drift.deviations:.1f} standard deviations of chance from held-out ones"
    drifted = limit and found.drift.deviations >= limit
    (found.reasons if drifted else found.calm).append(f"{told}, retrain.drift_deviations is {limit:g}")


def look(values: SimpleNamespace, paths: Paths, now: datetime, trained: datetime | None) -> Look:
    """Everything that speaks for a training or against it; ``trained`` is when the last one began. Changes nothing."""
    found, settings = Look(), values.retrain
    if not (paths.raw / FILES).exists():
        found.reasons.append("nothing was trained here yet")
        return found
    if outdated := _stages(values, paths):
        found.reasons.append(f"not up to date: {', '.join(outdated)} (parameters, code, or a run that did not end)")
    with tempfile.TemporaryDirectory() as folder:
        sample = listing.Sample(Path(folder), drift.MOST_IMAGES)
        found.changes = changes = listing.changes(values, paths, sample.keep)
        if changes is None:
            found.calm.append(f"a source {values.download.source} does not change by itself")
            return found
        told = f"{len(changes.new)} new and {changes.gone} gone of {changes.known} files ({100 * changes.share:.1f} %)"
        enough = changes.share >= settings.new_share
        (found.reasons if enough else found.calm).append(f"{told}, retrain.new_share is {100 * settings.new_share:g} %")
        if changes.new and all((folder / MANIFEST).exists() for folder in (paths.processed, paths.extractor)):
            _drift(values, paths, sample, found)
    days = None if trained is None else (now - trained).total_seconds() / 86400
    if days is not None and settings.max_age_days and days >= settings.max_age_days:
        aged = f"the last training is {days:.1f} days old, retrain.max_age_days is {settings.max_age_days:g}"
        if changes.share:
            found.reasons.append(aged)
        else:
            found.calm.append(f"{aged}, but from the same input the same model would come")
    return found

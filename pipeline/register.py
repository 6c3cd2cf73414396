"""Stage register: puts models/vae into the MLflow registry and gives the alias ``champion`` to the better of it and the last.

In: models/vae, models/extractor, data/processed, reports/{evaluate,train}. Out: reports/register/{decision,lineage}.json. The rule: the
first version, or the lower FCD on the test split, both scored here with the same protocol; a tie keeps the champion.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pipeline import stage
from pipeline.evaluate import THREADS
from pipeline.outbox import connect
from pipeline.paths import DECISION, INTERVALS, LINEAGE, METRICS, PROTOCOL, RUN, Paths
from pipeline.registry import CHAMPION, Registry
from pipeline.scores import fcd
from vae.artefact import load_artefact
from vae.data import ImageShards
from vae.extractor import load_extractor
from vae.files import (
    MANIFEST,
    DamagedError,
    canonical_json,
    read_json,
    read_manifest,
    replaced_directory,
    sha256_file,
    write_text,
)

PARAMS = ("base.seed", "evaluate", "register")
log = logging.getLogger("pipeline.register")


@dataclass(frozen=True)
class Decision:
    """Whether the challenger takes the alias, and why."""

    promote: bool
    reason: str


def decide(challenger_fcd: float | None, champion_fcd: float | None, has_champion: bool) -> Decision:
    """The rule: the first version, or a strictly lower FCD; where there is no FCD the champion stays."""
    if not has_champion:
        return Decision(True, "first version of this name")
    if challenger_fcd is None or champion_fcd is None:
        return Decision(False, "no FCD to compare by: the champion stays")
    if challenger_fcd < champion_fcd:
        return Decision(True, f"FCD {challenger_fcd:.4f} is lower than the champion's {champion_fcd:.4f}")
    return Decision(False, f"FCD {challenger_fcd:.4f} is not lower than the champion's {champion_fcd:.4f}")


def _git(paths: Paths, *arguments: str) -> str:
    """What git answers, or '' outside a repository."""
    done = subprocess.run(["git", "-C", str(paths.root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def lineage(paths: Paths) -> dict[str, str]:
    """Where a version came from: the hashes of its data, parameters and files, and the commit of the code."""
    dirty = [line for line in _git(paths, "status", "--porcelain").splitlines() if not line.endswith("dvc.lock")]
    return {
        "vaeline.git_commit": _git(paths, "rev-parse", "HEAD") or "unknown",
        "vaeline.git_dirty": str(bool(dirty)).lower(),
        "vaeline.params_sha256": sha256_file(paths.params),
        "vaeline.data_manifest_sha256": sha256_file(paths.processed / MANIFEST),
        "vaeline.extractor_manifest_sha256": sha256_file(paths.extractor / MANIFEST),
        "vaeline.model_manifest_sha256": sha256_file(paths.model / MANIFEST),
        "vaeline.torch": torch.__version__,
    }


def _champion_fcd(values: SimpleNamespace, paths: Paths, directory: Path) -> float | None:
    """The champion's FCD under today's protocol; None where its images have another shape, or today's code cannot read it."""
    try:
        generator = load_artefact(directory)
    except DamagedError as error:  # it serves all the same: a registered version brings the code that it was made by
        log.warning("the champion cannot be compared: %s", str(error).split(": remove")[0])
        return None
    test = ImageShards(paths.processed / "test")
    if tuple(generator.config.image_shape) != tuple(test.image_shape):
        log.warning("the champion makes %s images, this data set has %s", generator.config.image_shape, test.image_shape)
        return None
    network, _ = load_extractor(paths.extractor)
    return fcd(generator, network, test, values.evaluate.samples, values.base.seed)


def register(values: SimpleNamespace, paths: Paths) -> None:
    """Log, register, decide, and write the decision down."""
    torch.set_num_threads(THREADS)
    read_manifest(paths.processed)
    generator, metrics = load_artefact(paths.model), read_json(paths.evaluate_report / METRICS)
    numbers = {name: value for name, value in metrics.items() if value is not None}
    tracker = connect(paths)
    registry = Registry(tracker, values.register.name)
    run = read_json(paths.train_report / RUN)["run_id"]
    run_id = run if tracker.exists(run) else tracker.run("register", tags={"vaeline.stage": "register"})
    champion, known = registry.champion(), lineage(paths)
    version = registry.add(run_id, paths.model, generator, numbers, known)
    champion_fcd = None
    if champion is not None and metrics["fcd"] is not None:
        champion_fcd = _champion_fcd(values, paths, registry.fetch(champion, paths.work / "champion"))
    decision = decide(metrics["fcd"], champion_fcd, champion is not None)
    if decision.promote:
        registry.promote(version)
    registry.tag(version, {"vaeline.decision": decision.reason, "vaeline.promoted": str(decision.promote).lower()})
    record: dict[str, Any] = {
        "name": values.register.name,
        "version": int(version),
        "champion": int(registry.champion() or version),
        "previous_champion": None if champion is None else int(champion),
        "promoted": decision.promote,
        "reason": decision.reason,
        "challenger_fcd": metrics["fcd"],
        "champion_fcd": champion_fcd,
    }
    with replaced_directory(paths.register_report) as report:
        write_text(report / DECISION, canonical_json(record))
        write_text(report / LINEAGE, canonical_json(known))
        for name in (METRICS, INTERVALS, PROTOCOL):
            shutil.copy(paths.evaluate_report / name, report / name)
        tracker.artifacts(run_id, report, registry.place(version))
    word = "is now" if decision.promote else "is not"
    log.info("%s version %s %s the %s: %s", values.register.name, version, word, CHAMPION, decision.reason)


if __name__ == "__main__":
    stage.main("register", PARAMS, register, __doc__)

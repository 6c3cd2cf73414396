"""Stage register: puts models/vae into the MLflow registry and gives the alias ``champion`` to it or leaves it with the last.

In: models/vae, models/extractor, data/processed, reports/{evaluate,train}. Out: reports/register/{decision.json, lineage.json,
history.jsonl}. The rule is in pipeline/promotion.py, the lock and the history in pipeline/ledger.py.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import platform
import shutil
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import torch

from pipeline import holdout, ledger, stage
from pipeline.commit import commit
from pipeline.evaluate import THREADS
from pipeline.outbox import connect
from pipeline.paths import DECISION, DOCTOR, HISTORY, INTERVALS, LINEAGE, METRICS, PROTOCOL, RUN, Paths
from pipeline.promotion import closed_gates, contest, decide
from pipeline.registry import CHAMPION, Registry
from pipeline.tracking import patient
from vae.artefact import Generator, load_artefact
from vae.extractor import load_extractor
from vae.files import (
    MANIFEST,
    canonical_json,
    read_json,
    read_manifest,
    replaced_directory,
    sha256_file,
    write_text,
)

PARAMS = ("base.seed", "evaluate", "register")
TAG = "vaeline."  # before the names of a version's own tags
ENVIRONMENT = "environment.txt"
log = logging.getLogger("pipeline.register")


def _installed() -> str:
    """Every package of this environment with its version, a line each."""
    found = {f"{each.metadata['Name']}=={each.version}" for each in importlib.metadata.distributions()}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def lineage(paths: Paths) -> dict[str, str]:
    """Where a version came from: the hashes of its data, parameters and files, the commit of the code, and the environment."""
    found, dirty = commit(paths)
    told = {
        "git_commit": found or "unknown",
        "git_dirty": str(dirty).lower(),
        "params_sha256": sha256_file(paths.params),
        "data_manifest_sha256": sha256_file(paths.processed / MANIFEST),
        "extractor_manifest_sha256": sha256_file(paths.extractor / MANIFEST),
        "model_manifest_sha256": sha256_file(paths.model / MANIFEST),
        "environment_sha256": hashlib.sha256(_installed().encode()).hexdigest(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    # dvc.lock as the stages before this one left it: DVC writes this one's entry afterwards.
    for name, path in (("protocol_sha256", paths.evaluate_report / PROTOCOL), ("dvc_lock_sha256", paths.dvc_lock)):
        if path.exists():
            told[name] = sha256_file(path)
    return {TAG + name: value for name, value in told.items()}


def _privacy(generator: Generator) -> dict[str, str]:
    """Tags of a version that was trained privately."""
    told = generator.contract.get("privacy") or {}
    return {f"{TAG}privacy_{name}": str(value) for name, value in told.items()}


def _decided(values: SimpleNamespace, paths: Paths, registry: Registry, generator: Generator, version: str) -> dict[str, Any]:
    """The record of what became of ``version``, which is in the registry; the alias is where it belongs."""
    champion = registry.champion()
    held = holdout.of_model(registry, registry.tracker, paths, values.base.seed)
    network, extractor_sha256 = load_extractor(paths.extractor)
    folder = None if champion is None else registry.fetch(champion, paths.work / "champion")
    scored = contest(values, generator, folder, held, network)
    findings: Any = read_json(paths.evaluate_report / DOCTOR)
    gates = closed_gates(values.register.gates, findings, holdout.trained_on(held, paths))
    decision = decide(scored, champion is not None, gates, values.register.margin)
    if decision.promote:
        ledger.crown(registry, version)
    after = version if decision.promote else champion
    entry = ledger.record(
        registry, ledger.PROMOTED if decision.promote else ledger.KEPT, version, champion, after,
        reason=decision.reason, **{name: value for name, value in asdict(scored).items() if value is not None}, gates=gates,
        holdout_sha256=held.sha256, extractor_sha256=extractor_sha256, samples=values.evaluate.samples,
    )  # fmt: skip
    registry.tag(version, {"vaeline.decision": decision.reason, "vaeline.promoted": str(decision.promote).lower()})
    return entry


def register(values: SimpleNamespace, paths: Paths) -> None:
    """Log, register, decide, and write the decision down."""
    torch.set_num_threads(THREADS)
    read_manifest(paths.processed)
    generator, metrics = load_artefact(paths.model), read_json(paths.evaluate_report / METRICS)
    numbers = {name: value for name, value in metrics.items() if value is not None}
    with patient(paths):
        tracker = connect(paths)
        registry = Registry(tracker, values.register.name)
        run = read_json(paths.train_report / RUN)["run_id"]
        run_id = run if tracker.exists(run) else tracker.run("register", tags={"vaeline.stage": "register"})
        known = lineage(paths) | _privacy(generator)
        with ledger.locked(registry, paths):
            ledger.mend(registry)
            version = registry.add(run_id, paths.model, generator, numbers, known)
            entry = _decided(values, paths, registry, generator, version)
            history = ledger.history(registry)
        record: dict[str, Any] = {
            "name": values.register.name,
            "version": int(version),
            "champion": entry["champion_after"],
            "previous_champion": entry["champion_before"],
            "promoted": entry["event"] == ledger.PROMOTED,
            "reason": entry["reason"],
            "gates": entry["gates"],
            "challenger_fcd": entry.get("challenger_fcd"),
            "champion_fcd": entry.get("champion_fcd"),
            "difference": entry.get("difference"),
            "interval": entry.get("interval"),
            "holdout_sha256": entry["holdout_sha256"],
        }
        with replaced_directory(paths.register_report) as report:
            write_text(report / DECISION, canonical_json(record))
            write_text(report / LINEAGE, canonical_json(known))
            write_text(report / HISTORY, "".join(json.dumps(each, sort_keys=True) + "\n" for each in history))
            for name in (METRICS, INTERVALS, PROTOCOL):
                shutil.copy(paths.evaluate_report / name, report / name)
            shutil.copy(paths.params, report)
            write_text(report / ENVIRONMENT, _installed())
            tracker.artifacts(run_id, report, registry.place(version))
    word = "is now" if record["promoted"] else "is not"
    log.info("%s version %s %s the %s: %s", values.register.name, version, word, CHAMPION, record["reason"])


if __name__ == "__main__":
    stage.main("register", PARAMS, register, __doc__)

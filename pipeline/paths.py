"""Every path of a workspace, once. dvc.yaml repeats the artefacts among them, and a test compares the two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """Paths below one workspace ``root`` (absolute: Ray's workers run elsewhere)."""

    root: Path

    @classmethod
    def here(cls) -> Paths:
        """The workspace in the current directory."""
        return cls(Path.cwd().resolve())

    def __getattr__(self, name: str) -> Path:
        if name not in _PLACES:  # first of all: copying and unpickling ask for names before there is a root
            raise AttributeError(f"no path is named {name!r}: known are {', '.join(_PLACES)}")
        return self.root / _PLACES[name]


_PLACES = {
    "params": "params.yaml",
    "dvc_lock": "dvc.lock",
    "raw": "data/raw",
    "processed": "data/processed",
    "augmented": "data/augmented",
    "extractor": "models/extractor",
    "tuned": "models/tuned",
    "model": "models/vae",
    "download_report": "reports/download",
    "preprocess_report": "reports/preprocess",
    "augment_report": "reports/augment",
    "extractor_report": "reports/extractor",
    "tune_report": "reports/tune",
    "train_report": "reports/train",
    "evaluate_report": "reports/evaluate",
    "register_report": "reports/register",
    "report": "reports/report.html",
    "comparisons": "reports/compare",  # pages of `python -m pipeline.compare`; of no stage
    "retrain_report": "reports/retrain",  # why a scheduled training ran or did not; of no stage
    "plan": "reports/plan.json",  # what `python -m pipeline.plan` foresees; of no stage
    "work": ".work",  # locks, checkpoints, spools, Ray's files: safe to delete when nothing runs
    "mlflow_database": "mlflow.db",
    "mlflow_artifacts": "mlartifacts",
}

# Inside the artefacts; names that more than one stage uses.
SECOND = "second"  # below models/extractor: the other network
INDEX = "index.parquet"
FACTOR = "factor_"  # before the names of its columns of known factors
REJECTED = "rejected.csv"
SKIPPED = "skipped.csv"
BEST = "best.json"
RUN = "run.json"
METRICS = "metrics.json"
REPORT = "report.html"
DECISION, LINEAGE, HISTORY = "decision.json", "lineage.json", "history.jsonl"
DOCTOR, INTERVALS, PROTOCOL, SLICES = "doctor.json", "intervals.json", "protocol.json", "slices.csv"

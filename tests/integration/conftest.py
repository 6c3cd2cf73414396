"""Keeps what became of every planted fault: reports/faults.json has id, outcome and seconds, of the last run of each."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from workspace import LONG, WEIGHTS, Workspace

from vae.files import canonical_json, read_json, write_text

TABLE = Path(__file__).resolve().parents[2] / "reports" / "faults.json"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call" and item.path.name.startswith("test_faults"):
        rows = read_json(TABLE) if TABLE.exists() else {}
        rows[f"{item.path.stem}::{item.name}"] = {"outcome": report.outcome, "seconds": round(report.duration, 1)}
        write_text(TABLE, canonical_json(rows))
    return report


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose data and extractor are ready, and which trains without a search."""
    workspace = Workspace(tmp_path_factory.mktemp("prepared") / "project")
    workspace.set({"train.use_tuned": False, "train.latent_dim": 4})
    for stage in ("download", "preprocess", "augment", "extractor"):
        result = workspace.stage(stage)
        assert result.returncode == 0, result.stderr
    return workspace


@pytest.fixture
def ready(prepared: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the prepared workspace."""
    copy = Workspace.__new__(Workspace)
    copy.root = tmp_path / "project"
    shutil.copytree(prepared.root, copy.root, symlinks=True)
    return copy


@pytest.fixture(scope="session")
def uninterrupted(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights' hash of a training that nothing disturbed."""
    copy = Workspace.__new__(Workspace)
    copy.root = tmp_path_factory.mktemp("calm") / "project"
    shutil.copytree(prepared.root, copy.root)
    copy.set(LONG)
    result = copy.stage("train")
    assert result.returncode == 0, result.stderr
    return hashlib.sha256((copy.root / WEIGHTS).read_bytes()).hexdigest()

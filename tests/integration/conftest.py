"""Keeps what became of every planted fault: reports/faults.json has id, outcome and seconds, of the last run of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vae.files import canonical_json, read_json, write_text
from workspace import LONG, Workspace

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
    return prepared.copied(tmp_path / "project")


@pytest.fixture(scope="session")
def uninterrupted(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights' hash of a training that nothing disturbed."""
    copy = prepared.copied(tmp_path_factory.mktemp("calm") / "project")
    copy.set(LONG)
    result = copy.stage("train")
    assert result.returncode == 0, result.stderr
    return copy.weights_sha256()

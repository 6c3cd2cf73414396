"""Workspaces that integration tests begin with, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from workspace import LONG, Workspace


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

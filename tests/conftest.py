"""Fixtures that all tests share; and what became of every planted fault, of the last run of each, kept in reports/faults.json."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.cluster import ENVIRONMENT
from vae.data import ImageShards, ShardWriter
from vae.files import canonical_json, read_json, write_text
from workspace import Workspace

TABLE = Path(__file__).resolve().parents[1] / "reports" / "faults.json"
# A shell's background job is deaf to Ctrl-C, and what it starts is too: the tests send it to stages.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    file, _, name = report.nodeid.partition("::")
    # Where files run side by side, the process that started the others hears of every test; it alone writes.
    if report.when == "call" and Path(file).name.startswith("test_faults") and "PYTEST_XDIST_WORKER" not in os.environ:
        rows = read_json(TABLE) if TABLE.exists() else {}
        rows[f"{Path(file).stem}::{name}"] = {"outcome": report.outcome, "seconds": round(report.duration, 1)}
        write_text(TABLE, canonical_json(rows))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A test is never named by bytes: gzip's hold the second they were packed in, and two workers of xdist must collect the same names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests run beside other work: one thread each keeps them quick and their numbers the same."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def ray_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test that imports Ray: it reads its settings then, and whichever test comes first in a process decides them for all.

    Only while that test runs: the stages that others start are to find these settings by themselves.
    """
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def _ray_with_its_settings_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray for a test without ``ray_settings``: its import fails there, not a later test that would start Ray with other settings."""
    if "ray_settings" not in request.fixturenames:
        monkeypatch.setitem(sys.modules, "ray", None)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "project")


@pytest.fixture
def shards(tmp_path: Path) -> ImageShards:
    """96 smooth random images of 8x8 pixels and one channel, in three shards."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (96, 2, 2, 1)).astype(np.uint8)
    writer = ShardWriter(tmp_path / "shards", (8, 8, 1), 40)
    for image in coarse.repeat(4, 1).repeat(4, 2):
        writer.add(image)
    writer.close()
    return ImageShards(tmp_path / "shards")

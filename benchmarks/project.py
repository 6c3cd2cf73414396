"""A copy of the project's code in an empty folder, whose stages a benchmark runs as a person would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.rows import ROOT
from pipeline import params

CODE = ("pipeline", "vae", "infra", "params.yaml")


class Project:
    """Such a copy, in ``root``; what its stages say goes to ``root/log``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in CODE:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, root / name)

    def set(self, values: dict[str, Any]) -> None:
        path = self.root / "params.yaml"
        path.write_text(params.edited(path.read_text(), values))

    def start(self, stage: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": str(self.root)}
        return subprocess.Popen(
            [sys.executable, "-m", f"pipeline.{stage}"], cwd=self.root, env=environment, stderr=(self.root / "log").open("ab")
        )

    def stage(self, name: str) -> float:
        """Run a stage to its end; returns its seconds."""
        started = time.perf_counter()
        if self.start(name).wait():
            raise RuntimeError(f"stage {name} failed: {(self.root / 'log').read_text()[-2000:]}")
        return time.perf_counter() - started

"""graph: DVC's end is told by its exit code, also where a signal was its end."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from pipeline import graph


@pytest.mark.parametrize(("command", "code"), [("true", 0), ("false", 255), ("kill -KILL $PPID", 128 + signal.SIGKILL)])
def test_exit_code_of_a_graph(project, command, code):
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=project.root, check=True)
    (project.root / "dvc.yaml").write_text(f"stages:\n  only:\n    cmd: '{command}'\n")
    assert graph.repro(project.paths) == code

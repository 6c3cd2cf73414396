"""Searches of Ray Tune in processes of their own, in which the tests leave signs for each other, and which must not last for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 90.0


def told_by(script: str, *arguments: str) -> dict[str, Any]:
    """What a test's file, run as a script, printed last."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # where pytest finds the tests' own modules
    run = subprocess.run([sys.executable, script, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def wait_for(sign: Path) -> None:
    """Until somebody has left it; TimeoutError."""
    for _ in range(int(PATIENCE_SECONDS / 0.02)):
        if sign.exists():
            return
        time.sleep(0.02)
    raise TimeoutError(sign)


def patience() -> Any:
    """Ray Tune's stopper that ends a search which does not end; ``lost`` says whether it had to."""
    from ray import tune

    class Patience(tune.Stopper):
        def __init__(self) -> None:
            self.begun, self.lost = time.monotonic(), False

        def __call__(self, trial_id: str, result: dict) -> bool:
            return False

        def stop_all(self) -> bool:
            self.lost = time.monotonic() > self.begun + PATIENCE_SECONDS
            return self.lost

    return Patience()

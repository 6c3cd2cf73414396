"""A week of scheduled calls in simulated time, with the real DVC, Ray and MLflow, over a growing data set and with faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import ledger
from pipeline.paths import Paths
from pipeline.registry import Registry
from vae.artefact import load_artefact
from vae.files import read_json
from workspace import Workspace

COMMAND = (sys.executable, "-m", "pipeline.retrain")
SMALL = {"download.source": "path", "tune.trials": 2, "tune.rungs": 1, "retrain.cooldown_hours": 20.0, "retrain.new_share": 0.2}
KILL_SECONDS = 120


def pictures(folder: Path, start: int, count: int, ground: int = 220) -> None:
    """Squares on a ground, in files that are numbered."""
    folder.mkdir(exist_ok=True)
    for number in range(start, start + count):
        random = np.random.default_rng(number)
        image = np.full((16, 16, 3), ground, np.uint8)
        top, left, side = random.integers(0, 10, 3)
        image[top : top + side + 3, left : left + side + 3] = random.integers(0, 256, 3)
        Image.fromarray(image).save(folder / f"{number:05d}.png")


class Week(Workspace):
    """A workspace that is called once a day; ``day`` counts from 1."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "project")
        self.pictures, self.day = root / "pictures", 0
        pictures(self.pictures, 0, 400)
        self.set(SMALL | {"download.path": str(self.pictures)})
        assert self.run("git", "init", "-q").returncode == 0

    @property
    def now(self) -> str:
        return f"2027-03-{self.day:02d}T03:00:00+00:00"

    def call(self, *arguments: str, code: int = 0) -> str:
        done = self.run(*COMMAND, "--now", self.now, *arguments, timeout=600)
        assert done.returncode == code and "Traceback" not in done.stderr, done.stdout + done.stderr
        return done.stdout.splitlines()[-1] if done.stdout else done.stderr

    def killed(self) -> None:
        """A call that is killed while the model is trained."""
        process = subprocess.Popen(
            [*COMMAND, "--now", self.now], cwd=self.root, env=self._environment({}), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + KILL_SECONDS
        while not list(self.root.glob(".work/train/checkpoints/step-*/MANIFEST.json")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        while self.processes():  # DVC and the stage end with it
            assert time.monotonic() < deadline, self.processes()
            time.sleep(0.1)

    def processes(self) -> list[str]:
        """What runs in this workspace."""
        found = []
        for each in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(each / "cwd").startswith(str(self.root)):
                    found.append((each / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120])
            except OSError:
                continue
        return found

    @property
    def ticks(self) -> list[dict]:
        lines = (self.root / ".work/retrain/ticks.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def registry(self) -> Registry:
        return Registry.here(Paths(self.root))


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_week_of_daily_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    week = Week(tmp_path)

    week.day = 1  # the first model
    assert "would train, beginning anew" in week.call("--dry-run")
    assert "models:/sprites/1, begun anew, is the champion" in week.call()
    searched = (week.root / "reports/tune/best.json").stat().st_mtime_ns

    week.day = 2  # nothing new, and then too little
    assert "nothing to do: 0 new and 0 gone of 400 files" in week.call()
    pictures(week.pictures, 400, 20)
    assert "nothing to do: 20 new" in week.call()
    assert week.registry.versions() == ["1"]

    week.day = 3  # enough; killed while it trains
    pictures(week.pictures, 420, 100)
    week.killed()
    assert week.ticks[-1]["did"] == "begun" and week.registry.champion() == "1"

    week.day = 4  # it goes on from its checkpoint, and what the scheduler missed comes in a burst
    checkpoint = max(week.root.glob(".work/train/checkpoints/step-*"))
    assert "models:/sprites/2, begun anew" in week.call()
    assert not checkpoint.exists()
    for _ in range(3):
        assert "nothing to do: 0 new" in week.call()
    assert (week.root / "reports/tune/best.json").stat().st_mtime_ns == searched  # the search was left alone

    week.day = 5  # a failing day: the worker has a bug, which a person mends
    pictures(week.pictures, 600, 150)
    code = week.root / "vae/losses.py"
    whole = code.read_text()
    week.plant("bug", step=5, rank=0, times=9)
    assert "failed with exit code 70: the champion stays" in week.call(code=70)
    code.write_text(whole)
    assert "none begins before" in week.call()  # the cooldown holds for failures too

    week.day = 6  # the mended code; both ways to begin
    week.set({"retrain.begin": "both"})
    champion = week.registry.champion()
    last = week.call()
    assert "models:/sprites/4, begun anew" in last
    assert week.ticks[-1]["outcomes"][0]["begin"] == f"models:/sprites/{champion}"
    assert read_json(week.root / "reports/train/run.json")["begun"] == "begun anew"

    # A challenger that saw next to nothing: it may score well in the noise of so few images, but is not let through.
    week.day = 7
    worse = {
        "train.total_images": 32,
        "train.validate_every_images": 32,
        "register.gates": ["underfit", "decoder ignores z", "collapsed"],
    }
    week.set({"retrain.begin": "anew"} | worse)
    champion = week.registry.champion()
    assert "models:/sprites/5, begun anew, is not the champion" in week.call()
    assert week.registry.champion() == champion

    week.day = 6  # the clock goes back
    assert "set the clock right" in week.call(code=78)

    # Champions never got worse, none was lost, the history is whole, and nothing is left behind.
    history = ledger.history(week.registry)
    assert [entry["version"] for entry in history] == [1, 2, 3, 4, 5]
    holder = None
    for entry in history:
        assert entry["champion_before"] == holder
        holder = entry["champion_after"]
        if entry["event"] == ledger.PROMOTED and entry["champion_before"] is not None:
            assert entry["interval"][1] < 0
    assert str(holder) == champion
    load_artefact(week.registry.fetch(champion, tmp_path / "champion"))
    told = [each["did"] for each in week.ticks]
    assert told == [
        "begun", "trained", "nothing", "nothing", "begun", "begun", "trained", *["nothing"] * 3, "begun", "failed", "nothing",
        "begun", "trained", "begun", "trained",
    ]  # fmt: skip
    days = [datetime.fromisoformat(each["when"]).day for each in week.ticks]
    assert days == [1] * 2 + [2] * 2 + [3] + [4] * 5 + [5] * 3 + [6] * 2 + [7] * 2
    assert week.processes() == []
    work = week.root / ".work"
    assert not [path for name in ("train", "tune", "evaluate") for path in (work / name).rglob("*")]
    assert not list((work / "outbox").iterdir())


def test_two_calls_at_once_are_one(tmp_path: Path) -> None:
    week = Week(tmp_path)
    week.day = 1
    first = subprocess.Popen(
        [*COMMAND, "--now", week.now], cwd=week.root, env=week._environment({}), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + KILL_SECONDS
    while not (week.root / ".work/retrain/ticks.jsonl").exists():
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    assert "already running" in week.call(code=75)
    os.killpg(first.pid, signal.SIGTERM)
    assert first.wait(60) == 143
    assert week.ticks[-1]["did"] == "begun"

"""Processes that all want their version to be champion, and what must hold afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pipeline import ledger
from pipeline.registry import Registry

ROUND = """
import random, sys
from pathlib import Path
from pipeline import ledger
from pipeline.paths import Paths
from pipeline.registry import Registry
from pipeline.tracking import Tracker

paths, name, number, rounds = Paths(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
tracker = Tracker(paths)
registry, chance = Registry(tracker, name), random.Random(number)
for _ in range(rounds):
    score = chance.random()
    with ledger.locked(registry, paths):
        version = str(tracker.client.create_model_version(name, "s3://nowhere/model", tags={"score": str(score)}).version)
        holder = registry.champion()
        best = float(tracker.client.get_model_version(name, holder).tags["score"]) if holder else -1.0
        if score > best:
            ledger.crown(registry, version)
        after = version if score > best else holder
        ledger.record(registry, "promoted" if score > best else "kept", version, holder, after, score=score)
        registry.tag(version, {"vaeline.promoted": str(score > best).lower()})
"""


def contend(registry: Registry, folders: list[Path], rounds: int) -> None:
    """A process in each folder decides ``rounds`` times; then the history is looked at: nothing lost, never a worse champion."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ROUND, str(folder), registry.name, str(number), str(rounds)], stderr=subprocess.PIPE, text=True
        )
        for number, folder in enumerate(folders)
    ]
    for process in started:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    records = ledger.history(registry)
    assert [entry["number"] for entry in records] == list(range(len(folders) * rounds))  # none is lost
    champion, best = None, -1.0
    for entry in records:  # one chain: each saw the champion that the one before left, and it never got worse
        assert entry["champion_before"] == champion
        assert (entry["event"] == "promoted") == (entry["score"] > best)
        best, champion = max(best, entry["score"]), entry["champion_after"]
    assert registry.champion() == str(champion) and registry.undecided() == []

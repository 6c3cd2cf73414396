"""Console: log lines with their stage, and progress as plain lines where there is no terminal."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import console

ROOT = Path(__file__).resolve().parents[3]
PROBE = """
import logging, sys
from pipeline.console import set_up_logging
set_up_logging("probe", sys.argv[1] == "debug")
for name in ("pipeline.probe", "vae.probe", "library"):
    for level in (logging.DEBUG, logging.INFO, logging.WARNING):
        logging.getLogger(name).log(level, "%s-%s", name, logging.getLevelName(level))
print("out")
"""


def logged(mode: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", PROBE, mode], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "out\n"
    return done.stderr.splitlines()


def test_set_up_logging_shows_own_progress_and_only_warnings_of_libraries():
    lines = logged("quiet")
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d probe \| \S+", line) for line in lines)
    assert {line.split("| ")[1] for line in lines} == {
        "pipeline.probe-INFO",
        "pipeline.probe-WARNING",
        "vae.probe-INFO",
        "vae.probe-WARNING",
        "library-WARNING",
    }


def test_set_up_logging_debug_shows_everything():
    assert len(logged("debug")) == 9


def test_progress_gives_every_item_in_order():
    assert list(console.progress(iter(range(5)), 5, "items", "working")) == [0, 1, 2, 3, 4]


def test_progress_error_of_the_consumer_passes_through():
    def consume() -> None:
        for item in console.progress(range(5), 5, "items", "working"):
            if item == 2:
                raise ValueError("from the consumer")

    with pytest.raises(ValueError, match="from the consumer"):
        consume()


def test_progress_without_terminal_logs_count_and_share(monkeypatch, caplog):
    monkeypatch.setattr(console, "LINE_SECONDS", -1.0)
    caplog.set_level(logging.INFO, logger="pipeline")
    shown = console.Progress(8, "images", "training")
    shown.to(2, "loss 3.5")
    shown.to(8)
    shown.close()
    assert [record.getMessage() for record in caplog.records] == [
        "training 2/8 images (25 %) loss 3.5",
        "training 8/8 images (100 %)",
    ]


def test_progress_without_terminal_is_silent_between_lines(monkeypatch, caplog):
    monkeypatch.setattr(console, "LINE_SECONDS", 1e9)
    caplog.set_level(logging.INFO, logger="pipeline")
    list(console.progress(range(1000), 1000, "images", "training"))
    assert caplog.records == []


def test_progress_of_unknown_total_does_not_divide_by_zero(monkeypatch):
    monkeypatch.setattr(console, "LINE_SECONDS", -1.0)
    assert list(console.progress(range(3), 0, "files", "packing")) == [0, 1, 2]

"""Pictures drawn beside a stage are those that it would draw itself, and what draws them ends with it, however that ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from multiprocessing import active_children

import numpy as np
import pytest

from pipeline import preprocess
from pipeline.drawing import drawn
from pipeline.plots import draw_histograms, words
from tests.code.pipeline.test_preprocess import SMALL, everything

# Says "up" as soon as there is a process that draws, or once it draws, and never ends.
ENDLESS = """
import sys, time
from pipeline.drawing import drawn

def draw():
    print("up", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    with drawn(beside=True) as draws:
        if sys.argv[1] == "drawing":
            draws([(draw, ())])
        else:
            print("up", flush=True)
        time.sleep(600)
"""


@pytest.mark.parametrize("beside", [False, True])
def test_drawn_draws_the_same_here_and_beside(tmp_path, beside):
    rng = np.random.default_rng(0)
    values = {"first": (*np.histogram(rng.random(1000), 40), [0.5]), "second": (*np.histogram(rng.random(10), 40), [7.0])}
    words("nothing", tmp_path / "words-expected.png")
    draw_histograms(values, tmp_path / "histograms-expected.png")
    with drawn(beside) as draw:
        draw([(words, ("nothing", tmp_path / "words.png")), (draw_histograms, (values, tmp_path / "histograms.png"))])
    assert active_children() == []
    for name in ("words", "histograms"):
        assert (tmp_path / f"{name}.png").read_bytes() == (tmp_path / f"{name}-expected.png").read_bytes()


@pytest.mark.parametrize("beside", [False, True])
def test_drawn_raises_what_a_picture_raises(tmp_path, beside):
    with pytest.raises(FileNotFoundError, match="nowhere"), drawn(beside) as draw:
        draw([(words, ("nothing", tmp_path / "nowhere/words.png"))])


@pytest.mark.parametrize("asked", [False, True])
def test_drawn_raises_what_the_block_raises_and_leaves_nobody_drawing(tmp_path, asked):
    def work() -> None:
        with drawn(beside=True) as draw:
            if asked:
                draw([(words, ("nothing", tmp_path / f"{n}.png")) for n in range(9)])
            raise KeyError("of the block")

    with pytest.raises(KeyError, match="of the block"):
        work()
    assert active_children() == []


def test_preprocess_reports_the_same_where_it_is_drawn_beside(project, picture, monkeypatch):
    project.raw({f"{'ab'[i % 2]}/{i:03d}.png": picture(i % 95, 9, 9) for i in range(100)} | {"text.jpg": b"text"})
    found = []
    for least in (10**9, 0):
        monkeypatch.setattr(preprocess, "DRAWN_BESIDE_FILES", least)
        preprocess.preprocess(project.values(preprocess.PARAMS, **SMALL), project.paths)
        found.append(everything(project.root))
    assert found[0] == found[1]
    assert {f"reports/preprocess/{name}.png" for name in ("classes", "duplicates", "histograms", "images", "rejected")} < {
        *found[0]
    }


@pytest.fixture
def endless(tmp_path):
    """endless("starting") or ("drawing"): a process at that point, with others beside it in a group of its own."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    command, pipes = [sys.executable, "endless.py"], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = []

    def start(point: str) -> subprocess.Popen:
        started.append(subprocess.Popen([*command, point], cwd=tmp_path, text=True, start_new_session=True, **pipes))
        assert started[-1].stdout.readline() == "up\n"
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("point", ["starting", "drawing"])
def test_drawn_ends_with_a_stage_that_is_killed(endless, point):
    process = endless(point)
    process.kill()
    process.communicate(timeout=60)  # until nobody holds the other ends: what draws has ended too


def test_drawn_leaves_ctrl_c_to_the_stage(endless):
    """The terminal sends it to every process; one traceback is this stage's own, which catches nothing."""
    process = endless("starting")
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[1].count("Traceback") == 1

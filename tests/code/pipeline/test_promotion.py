"""promotion: the rule as a truth table, gates, and contests of planted models whose winner is known."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import promotion
from pipeline.holdout import Holdout, freeze, trained_on
from pipeline.promotion import Contest, closed_gates, contest, decide
from vae.data import ImageShards, ShardWriter
from vae.files import DamagedError, write_manifest

WON = Contest(4.0, 5.0, -1.0, (-1.5, -0.5))
NETWORK = SimpleNamespace(features=lambda images: torch.as_tensor(np.array(images)).flatten(1).double() / 255)


@pytest.mark.parametrize(
    ("found", "has_champion", "gates", "margin", "promote", "word"),
    [
        (Contest(5.0, None), False, [], 0.0, True, "first version"),
        (Contest(None, None), False, [], 0.0, True, "first version"),
        (Contest(5.0, None), False, ["collapsed: x"], 0.0, False, "not let through: collapsed: x"),
        (WON, True, [], 0.0, True, "95 % within -1.5 to -0.5"),
        (WON, True, [], 0.4, True, "FCD 4 against the champion's 5"),
        (WON, True, [], 0.5, False, "no lead beyond register.margin 0.5"),
        (WON, True, ["memorised: y"], 0.0, False, "memorised: y"),
        (Contest(4.0, 5.0, -1.0, (-2.0, 0.1)), True, [], 0.0, False, "the champion stays"),
        (Contest(4.0, 5.0, -1.0, (-2.0, 0.0)), True, [], 0.0, False, "the champion stays"),
        (Contest(5.0, 5.0, 0.0, (0.0, 0.0)), True, [], 0.0, False, "the champion stays"),
        (Contest(6.0, 5.0, 1.0, (0.5, 1.5)), True, [], 0.0, False, "the champion stays"),
        (Contest(5.0, None), True, [], 0.0, False, "no FCD"),
        (Contest(None, None), True, [], 0.0, False, "no FCD"),
        (Contest(float("nan"), 5.0, float("nan"), (float("nan"), float("nan"))), True, [], 0.0, False, "the champion stays"),
    ],
)
def test_decide_truth_table(found, has_champion, gates, margin, promote, word):
    decision = decide(found, has_champion, gates, margin)
    assert decision.promote is promote and word in decision.reason and "\n" not in decision.reason


def test_gates_are_the_findings_that_were_asked_for_and_a_hold_out_that_was_trained_on():
    findings = [{"name": "collapsed", "evidence": "rate 0.1"}, {"name": "prior hole", "evidence": "far"}]
    assert closed_gates(["collapsed", "memorised"], findings, 0) == ["collapsed: rate 0.1"]
    assert closed_gates([], findings, 0) == []
    assert "7 images of the hold-out are in its training split" in closed_gates([], [], 7)[0]


class Planted:
    """A generator of given samples."""

    def __init__(self, samples: np.ndarray, shape: tuple[int, ...] = (2, 2, 1)) -> None:
        self._samples, self.config = samples, SimpleNamespace(image_shape=shape)

    def sample(self, n: int, seed: int) -> np.ndarray:
        return self._samples[:n]


def noise(count: int, seed: int, high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, (count, 2, 2, 1)).astype(np.uint8)


def values(samples: int) -> SimpleNamespace:
    return SimpleNamespace(evaluate=SimpleNamespace(samples=samples), base=SimpleNamespace(seed=0))


def held(folder, images: np.ndarray) -> Holdout:
    writer = ShardWriter(folder, (2, 2, 1), 1000)
    writer.add_all(images)
    writer.close()
    return Holdout(ImageShards(folder), frozenset(), 5, "hash")


@pytest.mark.parametrize(
    ("ours", "theirs", "wins"),
    [
        (noise(400, 1), noise(400, 2, 200), True),
        (noise(400, 1, 200), noise(400, 2), False),
        (noise(400, 1), noise(400, 1), False),  # the same model again
        (noise(400, 1), noise(400, 2), False),  # as good, by other latents
    ],
)
def test_challenger_wins_by_a_lead_that_is_no_accident(tmp_path, monkeypatch, ours, theirs, wins):
    monkeypatch.setattr(promotion, "load_artefact", lambda folder: Planted(theirs))
    found = contest(values(400), Planted(ours), tmp_path, held(tmp_path, noise(500, 0)), NETWORK)
    assert found.difference == pytest.approx(found.challenger_fcd - found.champion_fcd)
    assert decide(found, True, [], 0.0).promote is wins
    low, high = found.interval
    assert low <= found.difference <= high or (low, high) == (0, 0)
    if np.array_equal(ours, theirs):
        assert (found.difference, found.interval) == (0, (0, 0))


def test_champion_that_cannot_be_scored_stays(tmp_path, monkeypatch, caplog):
    images = held(tmp_path, noise(500, 0))

    def damaged(folder):
        raise DamagedError("models is of another version of this code: remove it")

    for load, word in ((damaged, "cannot be compared"), (lambda folder: Planted(noise(400, 0), (4, 4, 1)), "makes (4, 4, 1)")):
        monkeypatch.setattr(promotion, "load_artefact", load)
        found = contest(values(400), Planted(noise(400, 1)), tmp_path, images, NETWORK)
        assert found.difference is None and found.challenger_fcd is not None and word in caplog.text
        assert not decide(found, True, [], 0.0).promote
    few = contest(values(3), Planted(noise(400, 1)), tmp_path, images, NETWORK)
    assert few == Contest(None, None) and "no FCD: a Fréchet distance" in caplog.text


def test_hold_out_is_the_test_split_with_its_hashes_and_knows_who_trained_on_it(project):
    test, train = noise(60, 0), noise(90, 1)
    for split, images in (("test", test), ("train", train)):
        writer = ShardWriter(project.paths.processed / split, (2, 2, 1), 50)
        writer.add_all(images)
        writer.close()
    hashes = [f"train-{i}" for i in range(90)] + [f"test-{i}" for i in range(60)]
    index = pd.DataFrame({"split": ["train"] * 90 + ["test"] * 60, "sha256": hashes})
    index.to_parquet(project.paths.processed / "index.parquet")
    write_manifest(project.paths.processed, mode="L")
    folder = project.paths.work / "holdout"
    folder.mkdir(parents=True)
    freeze(project.paths, 11, folder)
    holdout = Holdout.read(folder)
    np.testing.assert_array_equal(holdout.images.slice(0, 60), test)
    assert holdout.keys == {f"test-{i}" for i in range(60)} and holdout.seed == 11
    assert trained_on(holdout, project.paths) == 0
    index.loc[:4, "sha256"] = hashes[-5:]  # another split put them into training
    index.to_parquet(project.paths.processed / "index.parquet")
    assert trained_on(holdout, project.paths) == 5
    (folder / "images.csv").write_text("sha256\n")
    with pytest.raises(DamagedError):
        Holdout.read(folder)
    shutil.rmtree(folder)

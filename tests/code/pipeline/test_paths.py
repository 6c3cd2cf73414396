"""Paths: every place once, below the root, and known to dvc.yaml."""

from __future__ import annotations

import fnmatch
import pickle
from pathlib import Path

import pytest
import yaml

from pipeline import paths
from pipeline.paths import Paths

ROOT = Path(__file__).resolve().parents[3]


def test_paths_all_places_are_below_root_and_distinct(tmp_path):
    places = {name: getattr(Paths(tmp_path), name) for name in paths._PLACES}
    assert len(set(places.values())) == len(places)
    assert all(place.is_relative_to(tmp_path) and place != tmp_path for place in places.values())


def test_paths_unknown_name_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(AttributeError, match=r"'modle'.*model"):
        _ = Paths(tmp_path).modle


def test_paths_here_is_absolute_and_resolved(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "link")
    assert Paths.here().root == (tmp_path / "real").resolve()
    assert Paths.here().params.is_absolute()


def test_paths_survive_pickling(tmp_path):
    copy = pickle.loads(pickle.dumps(Paths(tmp_path)))
    assert copy == Paths(tmp_path) and copy.raw == tmp_path / "data/raw"


def test_paths_know_every_output_and_metric_of_dvc_yaml():
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    known = set(paths._PLACES.values())
    outs = {out for stage in graph["stages"].values() for out in stage["outs"]}
    assert outs <= known
    reports = {place for name, place in paths._PLACES.items() if name.endswith("_report")}
    assert all(str(Path(metric).parent) in reports and Path(metric).name == paths.METRICS for metric in graph["metrics"])


def test_paths_scratch_and_artefacts_are_out_of_git():
    ignored = [entry.strip("/") for entry in (ROOT / ".gitignore").read_text().split()]
    for place in (".work", "mlflow.db", "mlartifacts", "data/raw", "data/processed", "models/vae"):
        assert any(fnmatch.fnmatch(place, pattern) or place.startswith(f"{pattern}/") for pattern in ignored), place

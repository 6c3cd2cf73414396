"""The doctor: each planted fault gets its name, and every remedy names parameters that there are."""

from __future__ import annotations

import dataclasses
import re

import pytest

from pipeline.doctor import diagnose
from pipeline.sections import SECTIONS

HEALTHY = {
    "rate_nats": 30.0, "shuffled_gain_nats": 500.0, "fcd": 0.6, "fcd_reconstructions": 0.2, "fcd_blurred": 1.8, "near_share": 0.05,
}  # fmt: skip
FAULTS = {
    "collapsed": {"rate_nats": 0.01, "shuffled_gain_nats": 0.0},
    "decoder ignores z": {"shuffled_gain_nats": 0.5},
    "underfit": {"fcd_reconstructions": 2.0, "fcd": 2.1},
    "prior hole": {"fcd": 1.97},
    "memorised": {"near_share": 0.6},
}


def names(changes: dict, prior: str = "mixture") -> list[str]:
    return [finding.name for finding in diagnose(HEALTHY | changes, prior)]


def test_healthy_scores_are_healthy():
    assert names({}) == ["healthy"]


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_alone_gets_its_name(name):
    assert names(FAULTS[name]) == [name]


def test_faults_at_once_are_all_named_the_gravest_first():
    assert names(FAULTS["memorised"] | FAULTS["prior hole"] | FAULTS["decoder ignores z"]) == [
        "decoder ignores z", "prior hole", "memorised"
    ]  # fmt: skip


def test_far_samples_are_no_hole_where_the_whole_distance_cannot_be_seen():
    assert names({"fcd": 0.5, "fcd_reconstructions": 0.01}) == ["healthy"]


@pytest.mark.parametrize("missing", ["fcd", "fcd_reconstructions", "near_share"])
def test_scores_that_too_few_images_left_out_say_nothing(missing):
    assert names({missing: None}) == ["healthy"]
    assert names(FAULTS["collapsed"] | {missing: None}) == ["collapsed"]


@pytest.mark.parametrize("prior", ["normal", "mixture"])
def test_every_remedy_names_parameters_that_there_are(prior):
    fields = {f"{section}.{f.name}" for section, kind in SECTIONS.items() for f in dataclasses.fields(kind)}
    for changes in FAULTS.values():
        for finding in diagnose(HEALTHY | changes, prior):
            named = re.findall(r"\b(?:fit|train|tune|augment)\.\w+", finding.remedy)
            assert named and set(named) <= fields, finding
            assert re.search(r"\d", finding.evidence)

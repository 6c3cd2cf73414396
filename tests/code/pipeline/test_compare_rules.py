"""compare: what is better, what is not told apart, and scores of different protocols that are never compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from browser import Browser, needs_browser
from pipeline.compare import HIGHER, LOWER, TEMPLATE, WITHIN, better, check_data, check_protocols, markdown, summary, table
from pipeline.errors import BadDataError
from pipeline.pages import drawn, render
from vae.files import MANIFEST, sha256_file
from vae.pictures import grid

NAMES = ("version 1", "version 2")


def version(metrics: dict, intervals: dict | None = None, **protocol: object) -> dict:
    return {"metrics": metrics, "intervals": intervals or {}, "protocol": {"split": "test", "prior": "mixture"} | protocol}


@pytest.mark.parametrize(("name", "first_wins"), [("fcd", True), ("nll_nats", True), ("elbo_nats", False), ("coverage", False)])
def test_better_knows_which_way_a_score_goes(name, first_wins):
    low, high = version({name: 1.0}), version({name: 2.0})
    assert better(name, low, high, NAMES) == NAMES[not first_wins]
    assert better(name, high, low, NAMES) == NAMES[first_wins]
    assert better(name, low, low, NAMES) == ""


def test_scores_without_a_better_or_missing_say_nothing():
    assert better("latent_dim", version({"latent_dim": 3}), version({"latent_dim": 9}), NAMES) == ""
    assert better("fcd", version({"fcd": None}), version({"fcd": 1.0}), NAMES) == ""
    assert better("class_accuracy", version({}), version({"class_accuracy": 1.0}), NAMES) == ""


@pytest.mark.parametrize(("second", "word"), [([1.4, 2.6], WITHIN), ([1.6, 2.4], "version 1"), ([1.5, 2.5], WITHIN)])
def test_overlapping_intervals_are_not_told_apart(second, word):
    a, b = version({"fcd": 1.0}, {"fcd": [0.5, 1.5]}), version({"fcd": 2.0}, {"fcd": second})
    assert better("fcd", a, b, NAMES) == word
    mirrored = better("fcd", b, a, NAMES)
    assert mirrored == (WITHIN if word == WITHIN else "version 2")


def test_protocols_that_differ_are_refused_with_what_differs():
    a = version({}, seed=0, fcd_extractor_sha256="abc")
    assert check_protocols(a, version({}, seed=0, fcd_extractor_sha256="abc", prior="normal", classes=3), NAMES)["seed"] == 0
    for other, what in (
        ({"seed": 1}, "seed: 0 and 1"),
        ({"fcd_extractor_sha256": "d"}, "fcd_extractor_sha256: abc and d"),
        ({"new": 2}, "new: None and 2"),
    ):
        with pytest.raises(BadDataError, match=what):
            check_protocols(a, version({}, **({"seed": 0, "fcd_extractor_sha256": "abc"} | other)), NAMES)


def test_images_that_the_versions_were_not_scored_on_are_refused(project):
    with pytest.raises(BadDataError, match="is missing"):
        check_data({"data_manifest_sha256": "abc"}, project.paths)
    project.paths.processed.mkdir(parents=True)
    manifest = project.paths.processed / MANIFEST
    manifest.write_text("{}")
    with pytest.raises(BadDataError, match="holds other images"):
        check_data({"data_manifest_sha256": "abc"}, project.paths)
    check_data({"data_manifest_sha256": sha256_file(manifest)}, project.paths)


def test_table_and_markdown_have_every_score_of_both():
    a, b = (
        version({"fcd": 1.97, "mig": 0.2}, {"fcd": [1.8, 2.1]}),
        version({"fcd": 0.5, "class_accuracy": None}, {"fcd": [0.4, 0.6]}),
    )
    rows = table(a, b, NAMES)
    assert [row["name"] for row in rows] == ["fcd", "mig", "class_accuracy"]
    assert rows[0] == {"name": "fcd", "a": "1.97 (1.8 to 2.1)", "b": "0.5 (0.4 to 0.6)", "better": "version 2"}
    assert (rows[1]["b"], rows[2]["a"], rows[2]["b"]) == ("", "", "too few images")
    text = markdown({"title": "t", "word": summary(a, b, NAMES), "names": NAMES, "rows": rows})
    assert "FCD is 1.97 for version 1 and 0.5 for version 2: version 2 is better." in text
    assert "| fcd | 1.97 (1.8 to 2.1) | 0.5 (0.4 to 0.6) | version 2 |" in text.splitlines()


@needs_browser
@pytest.mark.parametrize("width", [390, 1440])
def test_page_fits_a_phone_and_a_screen(tmp_path, width):
    a = version({"fcd": 1.9723, "elbo_nats": -1213.9, "mutual_information_ceiling_nats": 0.2}, {"elbo_nats": [-1215.9, -1212.2]})
    black = np.zeros((64, 64, 64, 1), np.uint8)
    samples = [(name, drawn(grid(black, columns=8, mode="L"))) for name in NAMES]
    told = {
        "title": "sprites: version 1 and version 2",
        "names": NAMES,
        "word": summary(a, a, NAMES),
        "rows": table(a, a, NAMES),  # of no better one: the narrowest last column
        "protocol": {"data_manifest_sha256": 64 * "a"},
        "pictures": {"samples": samples, "reconstructions": drawn(grid(black[:48], columns=16, mode="L"))},
    }
    (tmp_path / "page.html").write_text(render(TEMPLATE, told))
    with Browser(tmp_path / "browser") as page:
        page.open((tmp_path / "page.html").as_uri(), width)
        assert page.misfits() == []
        assert page.value("document.images.length") == 3


def test_every_score_with_a_better_is_told_in_the_documents():
    told = " ".join((Path(__file__).resolve().parents[3] / "docs" / name).read_text() for name in ("metrics.md", "factors.md"))
    assert [name for name in LOWER + HIGHER if name not in told] == []

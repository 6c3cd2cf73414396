"""The report page: self-contained, escaped, and in a real browser without an error or a missing picture."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from browser import Browser, needs_browser
from pipeline.pages import render
from pipeline.report import TEMPLATE, context, film, ruler
from vae.files import canonical_json, read_json, write_text
from vae.pictures import GAP_PIXELS, ZOOM, grid, save_png

LINEAGE = {"vaeline.git_commit": "abc123", "vaeline.git_dirty": "false", "vaeline.torch": "2.13"}
METRICS = {
    "fcd": 1.97, "fcd_real_floor": 0.03, "fcd_blurred": 1.78, "fcd_noised": 0.01, "fcd_reconstructions": 0.05, "nll_nats": 208.8,
    "bits_per_dim": 0.29, "coverage": 0.88, "coverage_real": 0.97, "psnr_db": 34.2, "active_units": 9, "latent_dim": 9, "kid": None,
}  # fmt: skip
LONG = "mutual_information_ceiling_nats"  # the longest name of a score


@pytest.fixture
def reports(project):
    """A workspace with the files of all stages; a hostile name among them."""
    paths = project.paths
    for name, places in {
        "preprocess": ("images", "classes", "histograms", "rejected", "duplicates"), "augment": ("augment",),
        "tune": ("trials", "fronts", "parallel", "importance"),
        "train": ("curves",),
        "evaluate": ("samples", "classes", "reconstructions", "worst", "typical", "neighbours", "latents", "factors", "labels"),
    }.items():  # fmt: skip
        for picture in places:
            save_png(Image.new("L", (40, 30), 120), paths.root / "reports" / name / f"{picture}.png")
    tiles = np.repeat(np.arange(27, dtype=np.uint8) * 9, 64).reshape(27, 8, 8, 1)
    for name in ("interpolations", "traversals"):
        save_png(grid(tiles, columns=9), paths.evaluate_report / f"{name}.png")
    files = {
        paths.evaluate_report / "metrics.json": METRICS | {LONG: 7.601},
        paths.evaluate_report / "intervals.json": {"fcd": [1.8, 2.1], "nll_nats": [205.0, 212.0], LONG: [7.5012, 7.6734]},
        paths.evaluate_report / "doctor.json": [{"name": "prior hole", "evidence": "samples at 1.97", "remedy": "fit.prior"}],
        paths.evaluate_report / "protocol.json": {"split": "test", "seed": 0},
        paths.register_report / "decision.json": {
            "name": "<script>alert(1)</script>", "version": 3, "promoted": True, "reason": "better & first", "champion_fcd": 2.5,
        },
        paths.register_report / "lineage.json": LINEAGE,
        paths.train_report / "run.json": {"run_id": "r", "workers": 2, "begun": "begun anew", "tuned": True},
        paths.train_report / "metrics.json": {"images": 320000, "beta": 0.42},
        paths.tune_report / "best.json": {"beta": 0.42, "latent_dim": 9, "rule": "the lowest val_fcd"},
        paths.preprocess_report / "metrics.json": {
            "accepted": 20000, "rejected": 2, "rejected_for": {"blurred": 2}, "skipped": 0, "seen": 20002, "train_images": 16000,
            "val_images": 2000, "test_images": 2000,
        },
    }  # fmt: skip
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, canonical_json(content))
    table = pd.DataFrame({"by": "label", "name": ["a", "b"], "images": [3, 4], "elbo_nats": [-9.5, -7.25]})
    table.to_csv(paths.evaluate_report / "slices.csv", index=False)
    paths.model.mkdir(parents=True)
    model = {"name": "conv", "latent_dim": 9, "likelihood": "logistic", "classes": 2, "image_shape": [8, 8, 1]}
    described = {"model": model, "prior": "mixture", "preprocessing": {"mode": "L"}}
    (paths.model / "config.json").write_text(json.dumps(described))
    return project


def test_same_again_says_what_no_commit_has(reports):
    write_text(reports.paths.register_report / "lineage.json", canonical_json(LINEAGE | {"vaeline.git_dirty": "true"}))
    page = render(TEMPLATE, context("", reports.paths))
    assert re.search(r"git checkout abc123\n# the working tree held changes .*\ndvc repro", page)


@pytest.mark.parametrize("tuned", [True, False])
def test_choice_of_the_search_that_was_not_taken_is_not_told_as_if_it_were(reports, tuned):
    run = read_json(reports.paths.train_report / "run.json")
    write_text(reports.paths.train_report / "run.json", canonical_json(run | {"tuned": tuned}))
    assert ("not taken" in context("", reports.paths)["search"]) is not tuned


class Links(HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.found += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]


def test_page_fetches_nothing_and_escapes_what_it_shows(reports):
    page = render(TEMPLATE, context("", reports.paths))
    links = Links()
    links.feed(page)
    assert len(links.found) > 10 and all(link.startswith("data:") for link in links.found)
    assert not re.search(r"https?://", page)
    assert "<script>alert" not in page and html.escape("<script>alert(1)</script>") in page
    assert "better &amp; first" in page and "git checkout abc123\ndvc repro" in page
    assert "1.8 to 2.1" in page and "too few images" in page and "prior hole" in page
    assert "<h1>Our faces</h1>" in render(TEMPLATE, context("Our faces", reports.paths))


def test_scores_without_images_enough_leave_the_ruler_out(reports):
    write_text(reports.paths.evaluate_report / "metrics.json", canonical_json(METRICS | {"fcd": None}))
    page = render(TEMPLATE, context("", reports.paths))
    assert 'class="ruler"' not in page and "too few images" in page


def test_ruler_is_logarithmic_from_the_least_to_the_largest():
    marks = ruler(METRICS, 0.1)
    where = {mark["title"]: mark["percent"] for mark in marks}
    assert where["noised"] == 0 and where["this version"] == 100
    assert where["champion before"] == pytest.approx(100 * np.log(0.1 / 0.01) / np.log(1.97 / 0.01), abs=0.1)
    assert [mark["title"] for mark in marks if mark["this"]] == ["this version"]


def test_film_is_the_geometry_of_the_grid(tmp_path):
    save_png(grid(np.zeros((27, 8, 12, 3), np.uint8), columns=9), tmp_path / "p.png")
    found = film(tmp_path / "p.png", (8, 12, 3))
    assert (found["steps"], found["rows"], found["start"]) == (9, 3, 4)
    assert (found["width"], found["height"]) == (12 * ZOOM, 8 * ZOOM)
    assert (found["cell_width"], found["cell_height"]) == ((12 + GAP_PIXELS) * ZOOM, (8 + GAP_PIXELS) * ZOOM)


@needs_browser
@pytest.mark.parametrize("width", [390, 1440])
def test_page_in_a_browser_has_no_error_and_no_missing_picture_and_fits(reports, width):
    (reports.root / "page.html").write_text(render(TEMPLATE, context("", reports.paths)))
    with Browser(reports.root / "browser") as page:
        page.open((reports.root / "page.html").as_uri(), width)
        assert page.misfits() == []
        assert page.value("innerWidth") == width and page.value("document.images.length") >= 10
        place = "document.querySelector('#between i').style.backgroundPosition"
        step = (8 + GAP_PIXELS) * ZOOM
        assert page.value(place) == f"{-4 * step - GAP_PIXELS * ZOOM}px {-GAP_PIXELS * ZOOM}px"
        page.value(
            "{const s = document.querySelector('input[data-for=between]'); s.value = 0; s.dispatchEvent(new Event('input'))}"
        )
        assert page.value(place) == f"{-GAP_PIXELS * ZOOM}px {-GAP_PIXELS * ZOOM}px"
        assert page.errors == []

"""best_of: what is kept meets what was asked, the curve is that of the metrics, and a wrong wish is one line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline.best_of import KINDS, BestOf
from pipeline.best_of_curve import BEST_OF, PICTURE, doublings, write
from pipeline.cli import models, sample
from pipeline.cli.app import app
from pipeline.dataset import CARD
from pipeline.measures import luminance, measure
from saved import saved_model
from vae.artefact import Generator
from vae.best import consistency, scored
from vae.extractor import Extractor, ExtractorConfig, save_extractor
from vae.metrics.manifold import density_and_coverage

sample.add_to(app)
models.add_to(app)  # Typer makes a command of more than one


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to be in, with a network that was taught three labels and one that was taught none."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for name, task in (("taught", "labels"), ("turned", "turns")):
        (tmp_path / name).mkdir()
        save_extractor(tmp_path / name, Extractor(ExtractorConfig(3, 8, 4, 3, task)))
    return tmp_path


def vae(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["sample", *arguments])


def drawn(*arguments: str) -> np.ndarray:
    result = vae(*arguments, "-o", "a.npz")
    assert result.exit_code == 0, result.output
    with np.load("a.npz") as stored:
        return stored["images"]


@pytest.mark.parametrize("by", KINDS)
def test_best_of_draws_what_its_score_prefers(here, by):
    generator = saved_model(here / "k", classes=3)
    how = BestOf(20, by, network=here / "taught")
    found = drawn("12", "-m", "k", "--seed", "3", "--best-of", "20", "--by", by, "--classifier", "taught")
    np.testing.assert_array_equal(found, how.of(generator)(12, 3))
    of_all = scored(generator, 12, 3, 20, how.score(generator))
    places = [int((of_all.z_MD == z_D).all(1).nonzero()[0, 0]) for z_D in of_all.best(20)[0]]
    assert of_all.label_M is not None
    usual_3 = torch.stack([of_all.score_M[of_all.label_M == label].mean() for label in range(3)])
    gained_N = of_all.score_M[places] - usual_3[of_all.label_M[places]]
    assert gained_N.mean() > 2 * gained_N.std() / 12**0.5  # of groups, whose best may be worse than another's worst


def test_one_candidate_is_what_was_always_drawn(here):
    generator = saved_model(here / "m")
    np.testing.assert_array_equal(drawn("9", "-m", "m", "--seed", "3", "--best-of", "1"), generator.sample(9, 3))


def test_everything_that_is_drawn_meets_what_is_required(here):
    generator = saved_model(here / "m")
    told = measure(luminance(generator.sample(500, 0), "RGB"))
    low, high = np.quantile(told["brightness"], 0.6), np.quantile(told["sharpness"], 0.7)
    found = drawn("8", "-m", "m", "--best-of", "20", "--require", f"brightness >= {low}", "--require", f"sharpness <= {high}")
    of_found = measure(luminance(found, "RGB"))
    assert (of_found["brightness"] >= low).all() and (of_found["sharpness"] <= high).all()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--best-of", "0"), 78, ("--best-of is 0: 1 to 256",)),
        (("100000", "--best-of", "11"), 78, ("--best-of 11 of 100000 images: 1,000,000 candidates",)),
        (("--by", "beauty", "--require", "sharp", "--temperature", "-1"), 78, ("--by beauty: density,", "--require 'sharp'", "--temp")),
        (("--require", "latent_dim <= 3"), 78, ("brightness, deviation, sharpness",)),
        (("8", "--best-of", "4", "--require", "brightness >= 256"), 78, ("0 of 32 candidates may be taken, 8 are wanted", "ask less")),
        (("--by", "classifier", "--best-of", "2"), 66, ("models/extractor/second does not exist", "dvc repro extractor")),
        (("--by", "classifier", "--best-of", "2", "--dataset", "folder", "-o", "set"), 66, ("models/extractor/second does not exist",)),
        (("--by", "classifier", "--best-of", "2", "--classifier", "turned"), 78, ("was taught no labels",)),
        (("--by", "classifier", "--best-of", "2", "--classifier", "taught", "-m", "g"), 78, ("3 channels", "the model of 1")),
        (("--best-of", "2", "-m", "l"), 78, ("take density",)),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line_and_a_code(here, arguments, code, words):
    saved_model(here / "m")
    saved_model(here / "g", mode="L")
    saved_model(here / "l", name="ladder")
    result = vae(*(arguments if "-m" in arguments else (*arguments, "-m", "m")))
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    assert all(word in result.stderr for word in words), result.stderr
    assert not (here / "samples.png").exists() and not (here / "set").exists()


def test_data_set_is_of_the_best_and_says_so(here):
    generator = saved_model(here / "k", classes=3)
    assert vae("30", "-m", "k", "--best-of", "5", "--dataset", "folder", "-o", "set").exit_code == 0
    assert "the best of 5 by consistency" in (here / "set" / CARD).read_text()
    images = sorted((here / "set").glob("[abc]*/*.png"), key=lambda path: path.name)
    first = int(np.random.SeedSequence([0, 0]).generate_state(1, np.uint64)[0] >> 1)
    expected = BestOf(5, "consistency").of(generator)(30, first)
    np.testing.assert_array_equal(np.stack([np.asarray(Image.open(path)) for path in images]), expected)
    assert vae("30", "-m", "k", "--best-of", "6", "--dataset", "folder", "-o", "set").exit_code == 78


def values(best_of: int, bound: float = 0.9) -> SimpleNamespace:
    return SimpleNamespace(
        base=SimpleNamespace(seed=1), evaluate=SimpleNamespace(best_of=best_of, best_of_coverage=bound, samples=450)
    )


def network() -> Extractor:
    torch.manual_seed(0)
    return Extractor(ExtractorConfig(channels=3, width=8, feature_dim=4, classes=3, task="labels")).eval()


def curve(generator: Generator, folder: Path, bound: float) -> tuple[dict, pd.DataFrame]:
    folder.mkdir()
    real_ND = network().features(generator.sample(450, 99))
    told = write(values(6, bound), generator, network(), real_ND, folder)
    return told, pd.read_csv(folder / BEST_OF)


def test_curve_is_that_of_the_metrics_and_its_choice_the_most_precise_within_the_bound(tmp_path):
    generator = saved_model(tmp_path / "m")
    told, table = curve(generator, tmp_path / "r", 0.95)
    assert list(table["candidates"]) == 2 * [1, 2, 4, 6] and list(table["by"].unique()) == ["density", "consistency"]
    real_ND = network().features(generator.sample(450, 99))
    images = generator.decode(*scored(generator, 450, 1, 6, consistency).best(4))
    expected = density_and_coverage(real_ND, network().features(images))
    row = table[(table["by"] == "consistency") & (table["candidates"] == 4)].iloc[0]
    assert (row["precision"], row["coverage"]) == (pytest.approx(expected.precision), pytest.approx(expected.coverage))
    held = table[table["coverage"] >= 0.95 * table["coverage"][0]]
    assert (table["held"] == table.index.isin(held.index)).all()
    assert told["best_of_precision"] == pytest.approx(held["precision"].max())
    assert Image.open(tmp_path / "r" / PICTURE).width > 500


def test_curve_is_left_out_where_nobody_asks_and_null_where_images_are_too_few(tmp_path, caplog):
    generator = saved_model(tmp_path / "m")
    assert write(values(1), generator, network(), torch.zeros(450, 4), tmp_path) == {}
    told = write(values(4), generator, network(), network().features(generator.sample(60, 0)), tmp_path)
    assert set(told.values()) == {None} and "need 400 images" in caplog.text
    assert not (tmp_path / BEST_OF).exists() and not (tmp_path / PICTURE).exists()


def test_doublings_end_with_the_number_asked_for():
    assert [doublings(n) for n in (1, 2, 6, 16)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8, 16]]

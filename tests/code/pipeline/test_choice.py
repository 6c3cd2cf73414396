"""choice: fronts against a search through all pairs, knees of known curves, and trials without the whole budget that are on none."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from pipeline import search_plots
from pipeline.choice import chosen, knee, nondominated, told, with_fronts
from pipeline.search_plots import draw_fronts, draw_lineages, draw_trials
from pipeline.trial import Point


def by_pairs(points: np.ndarray) -> list[bool]:
    return [not any((q <= p).all() and (q < p).any() for q in points) for p in points]


@pytest.mark.parametrize("seed", range(5))
def test_front_is_what_no_other_point_beats(seed):
    points = np.random.default_rng(seed).integers(0, 6, (40, 2)).astype(float)  # with ties and doubles
    assert nondominated(points).tolist() == by_pairs(points)


def test_front_leaves_out_what_is_no_number():
    points = np.array([[1.0, 2.0], [np.nan, 0.0], [2.0, 1.0], [0.0, np.nan], [3.0, 3.0]])
    assert nondominated(points).tolist() == [True, False, True, False, False]


def test_knee_is_where_the_curve_bends():
    x = np.arange(1.0, 11.0)
    points = np.stack([x, np.where(x < 4, 100 - 30 * x, 10 - 0.1 * x)], 1)[[7, 3, 9, 0, 1, 2, 4, 5, 6, 8]]
    assert points[knee(points)].tolist() == [3.0, 10.0]
    np.testing.assert_array_equal(points[knee(points * [1000, 0.001])], [3.0, 10.0])  # whatever the units


@pytest.mark.parametrize("points", [[[5.0, 1.0]], [[1.0, 9.0], [5.0, 1.0]], [[1.0, 3.0], [1.0, 3.0], [1.0, 3.0]]])
def test_knee_of_few_or_equal_points_is_the_smallest_second_number(points):
    assert points[knee(np.array(points))][1] == min(p[1] for p in points)


def trials(mode: str = "min") -> pd.DataFrame:
    """Scores that fall steeply to 4 latents and slowly beyond; the last trial was stopped early with the best numbers of all."""
    sign = 1 if mode == "min" else -1
    scores = [10.0, 6.0, 2.0, 1.9, 1.8, 2.5, 0.1]
    return pd.DataFrame(
        {
            "trial": range(7), "latent_dim": [2, 3, 4, 8, 16, 16, 2], "score": [sign * s for s in scores], "beta": np.linspace(1, 2, 7),
            "rate_nats": [1, 2, 3, 4, 5, 6, 0.1], "distortion_nats": [9, 8, 7, 6, 5, 7, 0.1],
            "state": ["completed"] * 6 + ["stopped early"],
        }
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["min", "max"])
def test_fronts_compare_trials_that_had_the_whole_budget(mode):
    table = with_fronts(trials(mode), mode)
    assert table["front_latent_dim_score"].tolist() == [True] * 5 + [False, False]
    assert table["front_rate_distortion"].tolist() == [True] * 5 + [False, False]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("rule", "trial"), [("best", 4), ("knee", 2)])
def test_rule_takes_its_trial_and_says_so(mode, rule, trial):
    assert chosen(with_fronts(trials(mode), mode), mode, rule, [])["trial"] == trial
    assert ("knee" in told(rule, "val_fcd", mode)) == (rule == "knee")


def test_knee_without_a_completed_trial_takes_the_best_that_reported():
    table = trials().assign(state="stopped early")
    assert chosen(with_fronts(table, "min"), "min", "knee", [])["trial"] == 6


def test_fronts_are_drawn_also_where_no_trial_completed(tmp_path):
    for table in (trials(), trials().assign(state="stopped early"), trials().assign(score=None)):
        best = {"beta": table["beta"][4], "latent_dim": 16, "rule": "the lowest"}
        draw_fronts(with_fronts(table, "min"), best, "val_fcd", tmp_path / "p.png")
        assert (tmp_path / "p.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("places", "contours"),
    [
        ([(0.5, 3)], False),
        ([(0.5, 3), (1.0, 4), (2.0, 5), (4.0, 6)], False),  # one line of (log beta, latent dimension)
        ([(0.5, 3), (1.0, 3), (2.0, 3), (4.0, 3)], False),
        ([(0.5, 3), (1.0, 5), (2.0, 3), (4.0, 6), (3.0, 2)], True),
    ],
)
def test_trials_are_drawn_with_contours_where_they_span_an_area(tmp_path, monkeypatch, places, contours):
    figures = []
    monkeypatch.setattr(search_plots, "save", lambda figure, path: figures.append(figure))
    table = pd.DataFrame(
        {
            "beta": [beta for beta, _ in places] + [0.1], "latent_dim": [latents for _, latents in places] + [9],
            "score": [float(n) for n in range(len(places))] + [900.0], "images": [100] * len(places) + [25],
            "state": ["completed"] * len(places) + ["stopped early"],
        }
    )  # fmt: skip
    draw_trials(table, {"beta": places[0][0], "latent_dim": places[0][1], "score": 0.0}, "val_fcd", tmp_path / "p.png")
    axes = figures[0].axes[0]
    # points, the ring, and the contours where there are any; colours are those of trials that had the whole budget
    assert len(axes.collections) == 2 + contours
    low, high = axes.collections[-2].get_clim()
    assert low == pytest.approx(0, abs=0.1) and high == pytest.approx(len(places) - 1, abs=0.1)
    assert axes.get_xlim()[0] < 0.1 and axes.get_ylim()[1] > 9


def test_scores_of_near_trials_are_not_written_over_each_other(tmp_path, monkeypatch):
    """Of eight at nearly one place four find room, the choice first; it lies above the others, and all far ones are told."""
    figures = []
    monkeypatch.setattr(search_plots, "save", lambda figure, path: figures.append(figure))
    scores = [0.5, 0.9, 0.3, 0.6, 0.7, 0.8, 0.95, 0.4]
    near = pd.DataFrame({"beta": [1 + n / 1000 for n in range(8)], "latent_dim": 16, "score": scores})
    far = pd.DataFrame({"beta": [0.1, 10.0], "latent_dim": [4, 64], "score": [3.0, 5.0]})
    table = pd.concat([near, far], ignore_index=True).assign(images=100, state="completed")
    draw_trials(table, {"beta": 1.002, "latent_dim": 16, "score": 0.3}, "val_fcd", tmp_path / "p.png")
    axes = figures[0].axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.3", "0.4", "0.5", "0.6", "3", "5"]
    extents = [text.get_window_extent() for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in combinations(extents, 2))
    points = next(drawn for drawn in axes.collections if len(drawn.get_offsets()) == len(table))
    assert points.get_offsets()[-1].tolist() == [1.002, 16]


def test_lineage_is_drawn_as_the_values_that_the_weights_saw_until_the_trials_end(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(search_plots, "save", lambda figure, path: figures.append(figure))
    past = ({"trial": 1, "until_images": 100, "beta": 0.5}, {"trial": 2, "until_images": 300, "beta": 0.7})
    points = [Point(0.6, 4, {}, 0, past), Point(1.0, 4, {}, 1), Point(2.0, 4, {}, 2)]
    draw_lineages(points, [400, 400, 0], {"trial": 0}, tmp_path / "p.png")  # the last one failed before a report
    lines = [patch.get_data() for patch in figures[0].axes[0].patches]
    assert [list(line.values) for line in lines] == [[0.5, 0.7, 0.6], [1.0], [2.0]]
    assert [list(line.edges) for line in lines] == [[0, 100, 300, 400], [0, 400], [0, 1]]
    assert [patch.get_linewidth() > 2 for patch in figures[0].axes[0].patches] == [True, False, False]

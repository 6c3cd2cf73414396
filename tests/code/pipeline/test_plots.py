"""Plots: what a picture of numbers says, asked of matplotlib's own objects before they become pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import plots
from pipeline.plots import ACCENT, MOST_LATENTS, draw_information


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path) -> list[Any]:
    """The figures, as they were when they were saved."""
    figures, save = [], plots.save
    monkeypatch.setattr(plots, "save", lambda figure, path: (figures.append(figure), save(figure, path)))
    return figures


def labels(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def framed(axes: Any) -> list[tuple[int, int]]:
    return [(round(patch.get_x() + 0.46), round(patch.get_y() + 0.46)) for patch in axes.patches]


def told(values: list[list[float]], names: str) -> pd.DataFrame:
    return pd.DataFrame(values, index=list(names))


def test_draw_information_disentangled_latents_are_a_staircase(drawn, tmp_path):
    table = told([[0.02, 0.01, 0.03, 0.9], [0.5, 0.02, 0.03, 0.2], [0.01, 0.02, 0.7, 0.04]], "abc")
    draw_information(table, tmp_path / "a.png")
    axes = drawn[0].axes[0]
    assert labels(axes.xaxis) == ["3", "0", "2", "1"] and labels(axes.yaxis) == ["a", "b", "c"]
    assert framed(axes) == [(0, 0), (1, 1), (2, 2)]
    np.testing.assert_array_equal(axes.images[0].get_array(), table[[3, 0, 2, 1]])
    assert labels(axes.child_axes[0].yaxis) == ["0.87", "0.30", "0.66"]
    assert axes.images[0].get_clim() == (0, 1)  # pictures of two runs can be compared


def test_draw_information_latent_that_tells_little_stands_at_the_end(drawn, tmp_path):
    draw_information(told([[0.09, 0.02, 0.3], [0.02, 0.4, 0.03]], "ab"), tmp_path / "a.png")
    assert labels(drawn[0].axes[0].xaxis) == ["2", "1", "0"]


def test_draw_information_best_latent_of_a_hardly_known_factor_is_shown_among_many(drawn, tmp_path):
    values = np.full((2, 100), 0.5)
    values[1] = 0.01
    values[:, 77] = 0.0, 0.05
    draw_information(pd.DataFrame(values, index=["a", "b"]), tmp_path / "a.png")
    axes = drawn[0].axes[0]
    shown = labels(axes.xaxis)
    assert len(shown) == MOST_LATENTS and (shown.index("77"), 1) in framed(axes)
    assert f"best {MOST_LATENTS} of 100" in axes.get_xlabel()
    assert labels(axes.child_axes[0].yaxis) == ["0.00", "0.04"]


def test_draw_information_factor_that_never_varies_has_no_frame(drawn, tmp_path):
    draw_information(told([[np.nan, np.nan], [0.2, 0.8]], "ab"), tmp_path / "a.png")
    axes = drawn[0].axes[0]
    assert framed(axes) == [(0, 1)] and len(axes.texts) == 2
    assert labels(axes.child_axes[0].yaxis) == ["never varies", "0.60"]


def test_draw_information_single_latent_is_compared_with_nothing(drawn, tmp_path):
    draw_information(told([[0.4]], "a"), tmp_path / "a.png")
    assert labels(drawn[0].axes[0].child_axes[0].yaxis) == ["0.40"]
    assert drawn[0].axes[0].patches[0].get_edgecolor()[:3] == pytest.approx(
        tuple(int(ACCENT[i : i + 2], 16) / 255 for i in (1, 3, 5))
    )


def test_draw_information_nothing_known_is_said_in_words(drawn, tmp_path):
    draw_information(None, tmp_path / "a.png")
    assert "without known factors" in drawn[0].axes[0].texts[0].get_text()


def test_draw_information_equal_numbers_give_equal_bytes(tmp_path):
    table = told([[0.1, 0.6], [0.7, 0.2]], "ab")
    for name in ("x.png", "y.png"):
        draw_information(table, tmp_path / name)
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()

"""Which trial of a search is taken, and which trials no other one beats. Tables have a row per trial, as in trials.csv."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.constraints import Constraint, meeting
from pipeline.errors import TrainingFailedError

COMPLETED, STOPPED, FAILED = "completed", "stopped early", "failed"


def nondominated(points_N2: np.ndarray) -> np.ndarray:
    """The Pareto front, bool (N,): no other point is as small in both numbers and smaller in one. NaN never is on it."""
    at_most = (points_N2[:, None] <= points_N2[None]).all(2)  # [i, j]: i is as small as j in both
    below = (points_N2[:, None] < points_N2[None]).any(2)
    return ~(at_most & below).any(0) & np.isfinite(points_N2).all(1)


def knee(points_N2: np.ndarray) -> int:
    """The point of a front after which less of the one costs more of the other (Satopaa et al., Finding a Kneedle, 2011).

    In units of the front's own extent, the point farthest below the line between its ends; with fewer than three the smallest
    second number.
    """
    order = np.lexsort((points_N2[:, 1], points_N2[:, 0]))
    low_2, high_2 = points_N2.min(0), points_N2.max(0)
    if len(points_N2) < 3 or (high_2 == low_2).any():
        return int(np.argmin(points_N2[:, 1]))
    scaled = (points_N2[order] - low_2) / (high_2 - low_2)
    return int(order[np.argmax(1 - scaled.sum(1))])


def with_fronts(table: pd.DataFrame, mode: str) -> pd.DataFrame:
    """The table with two columns more: on the front of rate and distortion, and on that of latent dimension and score.

    Only trials that had the whole budget are compared: the others' scores are of less training.
    """
    done = (table["state"] == COMPLETED).to_numpy()
    cost = table["score"].astype(float) * (1 if mode == "min" else -1)
    table = table.copy()
    for name, columns in {
        "front_rate_distortion": (table["rate_nats"], table["distortion_nats"]),
        "front_latent_dim_score": (table["latent_dim"], cost),
    }.items():
        points_N2 = np.stack([np.where(done, column.astype(float), np.nan) for column in columns], 1)
        table[name] = nondominated(points_N2)
    return table


def worth_keeping(table: pd.DataFrame, mode: str, constraints: Sequence[Constraint]) -> set[int]:
    """The trials that ``chosen`` may take, now or when more have ended: the front of latent dimension and score."""
    meet = table[meeting(table, constraints)]
    front = meet.loc[with_fronts(meet, mode)["front_latent_dim_score"], "trial"]
    best = meet[meet["state"] == COMPLETED].sort_values(["score", "trial"], ascending=[mode == "min", True])["trial"]
    return {*front, *best[:1]}  # the first of equal scores may have more latents than another


def chosen(
    table: pd.DataFrame, mode: str, rule: str, errors: list[BaseException], constraints: Sequence[Constraint] = ()
) -> pd.Series:
    """The trial that ``rule`` takes among those that had the whole budget and meet the constraints.

    TrainingFailedError with the first cause where all failed, and where none meets the constraints.
    """
    usable = table[(table["state"] != FAILED) & table["score"].notna()]
    if usable.empty:
        lines = str(errors[0]).strip().splitlines() if errors else []
        raise TrainingFailedError(f"all {len(table)} trials failed; the first: {lines[-1] if lines else 'no report'}")
    completed = usable[usable["state"] == COMPLETED]
    among = completed if len(completed) else usable
    meet = among[meeting(among, constraints)]
    if meet.empty:
        had = "; ".join(f"{c.column} was {among[c.column].min():.4g} to {among[c.column].max():.4g}" for c in constraints)
        raise TrainingFailedError(
            f"none of {len(among)} trials meets tune.constraints ({', '.join(map(str, constraints))}; {had}): "
            "ease them, or move the space"
        )
    among = meet
    if rule == "knee" and len(completed):
        front = among[with_fronts(among, mode)["front_latent_dim_score"]]
        cost = front["score"].to_numpy(float) * (1 if mode == "min" else -1)
        return front.iloc[knee(np.stack([front["latent_dim"].to_numpy(float), cost], 1))]
    return among.sort_values("score", ascending=mode == "min", kind="stable").iloc[0]


def told(rule: str, metric: str, mode: str, constraints: Sequence[Constraint] = ()) -> str:
    """The rule in words, as best.json keeps it."""
    among = " and ".join(["among trials that had the whole budget", *map(str, constraints)])
    if rule == "knee":
        return f"the knee of the front of latent_dim and {metric} {among}"
    return f"the {'lowest' if mode == 'min' else 'highest'} {metric} {among}"

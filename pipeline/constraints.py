"""``tune.constraints``: what a trial must meet to be taken, as ``latent_dim <= 32`` or ``rate_nats >= 5``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # whoever reads params.yaml imports this: every command, stage and worker
    import pandas as pd

COLUMNS = ("beta", "latent_dim", "score", "elbo_nats", "rate_nats", "distortion_nats")
_TEXT = re.compile(r"\s*(\w+)\s*(<=|>=)\s*(\S+)\s*")


@dataclass(frozen=True)
class Constraint:
    """A column of trials.csv is at most, or at least, a number."""

    column: str
    at_most: bool
    bound: float

    def met(self, table: pd.DataFrame) -> np.ndarray:
        """Which trials meet it, bool (N,); one without a value does not."""
        value_N = table[self.column].to_numpy(float)
        return value_N <= self.bound if self.at_most else value_N >= self.bound

    def __str__(self) -> str:
        return f"{self.column} {'<=' if self.at_most else '>='} {self.bound:g}"


def parse(text: object) -> Constraint | None:
    """The constraint that a text says, None where it says none."""
    found = _TEXT.fullmatch(text) if isinstance(text, str) else None
    try:
        return Constraint(found[1], found[2] == "<=", float(found[3])) if found else None
    except ValueError:
        return None


def parsed(texts: Iterable[str]) -> list[Constraint]:
    """Those of a list without ``problems``."""
    return [constraint for text in texts if (constraint := parse(text)) is not None]


def problems(texts: Sequence[object], searched: Iterable[str]) -> list[tuple[str, str]]:
    """What is wrong with a list of them, where ``searched`` are the numbers that each trial has of its own."""
    columns, found = (*COLUMNS, *searched), []
    for number, text in enumerate(texts):
        constraint = parse(text)
        if constraint is None:
            found.append(
                (f"constraints.{number}", f"{text!r} is none: write a column, <= or >=, and a number, as latent_dim <= 32")
            )
        elif constraint.column not in columns:
            wrong = f"{constraint.column!r} is no number of a trial; known: {', '.join(columns)}"
            found.append((f"constraints.{number}", wrong))
    return found


def meeting(table: pd.DataFrame, constraints: Sequence[Constraint]) -> np.ndarray:
    """Which trials meet all of them, bool (N,)."""
    return np.logical_and.reduce([np.ones(len(table), bool), *(each.met(table) for each in constraints)])

"""``tune.space``: which keys of ``fit`` are searched beside beta and the latent dimension, and what a point of it is in ``fit``.

space:
  learning_rate: {low: 0.001, high: 0.01, log: true}
  model: {choices: [conv, resnet]}
  blocks: {low: 1, high: 3, when: {model: resnet}}
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any, get_type_hints

import numpy as np

from vae.schema import checked, parse

# The prior decides how a trial is scored, classes what it is told, the others how many reports it makes or what they are worth.
NOT_SEARCHED = (
    "class_conditional", "prior", "mixture_components", "prior_hidden_units", "prior_steps", "global_batch_size", "exactness",
    "virtual_shards",
)  # fmt: skip
MOST_COMBINATIONS = 256  # of choices that are checked one by one


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """``low`` to ``high``, both ends included, uniform or (``log``) log-uniform; or ``choices``. ``when``: only with these choices."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: list | None = None
    when: dict | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """low and high of a range."""
        assert self.low is not None and self.high is not None
        return self.low, self.high

    def problems(self) -> list[tuple[str, str]]:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log:
                return [("choices", "cannot stand beside low, high or log")]
            return [] if self.choices else [("choices", "is empty")]
        if self.low is None or self.high is None:
            return [("low" if self.low is None else "high", "is missing: give low and high, or choices")]
        if self.low > self.high:
            return [("low", f"{self.low} is greater than high {self.high}: the range is empty")]
        return [("log", "needs a low above 0")] if self.log and self.low <= 0 else []


def of_integers(section: type, name: str) -> bool:
    """Whether the values of a range are integers."""
    return name == "latent_dim" or (name != "beta" and get_type_hints(section)[name] is int)


def dimensions(space: Mapping[str, Any]) -> dict[str, Dimension]:
    """The space's dimensions by key of ``fit``; of a space without ``problems``."""
    return {name: parse(Dimension, told, name)[0] for name, told in space.items()}


def searched(tune: SimpleNamespace) -> dict[str, Dimension]:
    """All that a search varies: beta, the latent dimension, and the space."""
    latent_dim = Dimension(low=tune.latent_dim_min, high=tune.latent_dim_max)
    return {
        "beta": Dimension(low=tune.beta_min, high=tune.beta_max, log=True),
        "latent_dim": latent_dim,
        **dimensions(tune.space),
    }


def _on_the_grid(dimension: Dimension, whole: bool, points: int) -> list[float]:
    """Values at equal steps from end to end, of integers without doubles; choices by their place."""
    if dimension.choices is not None:
        return list(range(len(dimension.choices)))
    steps = (np.geomspace if dimension.log else np.linspace)(*dimension.ends, points)
    steps[[0, -1]] = dimension.ends  # without the last bit that a logarithm costs
    return list(dict.fromkeys((steps.round().astype(int) if whole else steps).tolist()))


def grid_axes(tune: SimpleNamespace, section: type) -> dict[str, list[float]]:
    """The values of a grid in each dimension: ``tune.grid_points`` of a range, all of a choice."""
    return {name: _on_the_grid(each, of_integers(section, name), tune.grid_points) for name, each in searched(tune).items()}


def grid(tune: SimpleNamespace, section: type) -> list[dict[str, Any]]:
    """The points of the full grid; those that come to the same trial are one."""
    axes = grid_axes(tune, section)
    found: dict[str, dict[str, Any]] = {}
    for point in itertools.product(*axes.values()):
        drawn = dict(zip(axes, point, strict=True))
        found.setdefault(repr((drawn["beta"], drawn["latent_dim"], active(tune.space, drawn, section))), drawn)
    return list(found.values())


def trials(tune: SimpleNamespace, section: type) -> int:
    """How many trials a search has: the points of its grid, or ``tune.trials``."""
    return len(grid(tune, section)) if tune.searcher == "grid" else tune.trials


def problems(space: Mapping[str, Any], section: type) -> list[tuple[str, str]]:
    """What is wrong with a space of keys of ``section``: (dotted key, message) each."""
    known = [f.name for f in fields(section) if f.name not in NOT_SEARCHED]
    found: list[tuple[str, str]] = []
    valid: dict[str, Dimension] = {}
    for name, told in space.items():
        where = f"space.{name}"
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            found.append(
                (where, "is not searched: it is the same for all trials" if name in NOT_SEARCHED else f"unknown key; {hint}")
            )
            continue
        dimension, wrong = parse(Dimension, told, where)
        found += [(problem.key, problem.message) for problem in wrong]
        if dimension is not None:
            valid[name] = dimension
            values = dimension.choices if dimension.choices is not None else [dimension.low, dimension.high]
            found += [(where, f"fit.{name}: {why}") for value in values if (why := checked(section, name, _whole(value))[1])]
    for name, dimension in valid.items():
        for other, value in (dimension.when or {}).items():
            if other == name or other not in valid or value not in (valid[other].choices or ()):
                found.append((f"space.{name}", f"when: {other}: {value!r} is no choice of another dimension of the space"))
    return found


def _whole(value: Any) -> Any:
    """A number without fraction as an int, which is one where a float is asked for, too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def active(space: Mapping[str, Any], drawn: Mapping[str, Any], section: type) -> dict[str, Any]:
    """The values of ``section`` at a point: numbers as drawn, choices by their place; without those whose ``when`` does not hold."""
    every, found = dimensions(space), {}
    for name, dimension in every.items():
        value = dimension.choices[int(drawn[name])] if dimension.choices is not None else _whole(drawn[name])
        found[name] = checked(section, name, value)[0]
    told = {name: dimension.choices[int(drawn[name])] for name, dimension in every.items() if dimension.choices is not None}

    def holds(name: str) -> bool:
        asked = every[name].when or {}
        return all(told[other] == value and holds(other) for other, value in asked.items())

    return {name: value for name, value in found.items() if holds(name)}


def combinations(space: Mapping[str, Any], section: type) -> Iterator[dict[str, Any]]:
    """What the choices may come to, each with the low ends of all ranges; at most ``MOST_COMBINATIONS``."""
    every = dimensions(space)
    places = [range(len(d.choices)) if d.choices is not None else [d.low] for d in every.values()]
    for point in itertools.islice(itertools.product(*places), MOST_COMBINATIONS):
        yield active(space, dict(zip(every, point, strict=True)), section)

"""Whether a new version becomes champion: gates that it must pass, and a lead over the champion that is no accident.

Both are scored here, by the same protocol: samples of the same latents' seed against the name's frozen hold-out, through today's
extractor. The lead is the difference of their FCD with its bootstrap interval.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from pipeline.holdout import Holdout
from vae.artefact import Generator, load_artefact
from vae.extractor import Extractor
from vae.files import DamagedError
from vae.metrics.frechet import TooFewSamplesError, frechet_distance, moments
from vae.metrics.intervals import frechet_difference

log = logging.getLogger("pipeline.promotion")


@dataclass(frozen=True)
class Contest:
    """FCD of both on the hold-out, and challenger minus champion with its 95 % interval; None where one cannot be scored."""

    challenger_fcd: float | None
    champion_fcd: float | None
    difference: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Decision:
    """Whether the challenger takes the alias, and why."""

    promote: bool
    reason: str


def closed_gates(wanted: Sequence[str], findings: Sequence[dict[str, Any]], trained_on: int) -> list[str]:
    """What keeps a version from becoming champion, whatever it scores: findings of the doctor, or a hold-out that it knows."""
    found = [f"{each['name']}: {each['evidence']}" for each in findings if each["name"] in wanted]
    if trained_on:
        found.append(
            f"{trained_on} images of the hold-out are in its training split (bring preprocess.val_fraction and test_fraction back, or "
            "register under another name)"
        )
    return found


def decide(contest: Contest, has_champion: bool, gates: Sequence[str], margin: float) -> Decision:
    """The rule: no gate closed; then the first version, or one whose lead over the champion is beyond its interval and ``margin``."""
    if gates:
        return Decision(False, f"it is not let through: {'; '.join(gates)}")
    if not has_champion:
        return Decision(True, "first version of this name")
    if contest.difference is None or contest.interval is None:
        return Decision(False, "no FCD to compare by: the champion stays")
    low, high = contest.interval
    told = (
        f"FCD {contest.challenger_fcd:.4g} against the champion's {contest.champion_fcd:.4g}: a difference of {contest.difference:.3g}, "
        f"95 % within {low:.3g} to {high:.3g}"
    )
    if high < -margin:
        return Decision(True, told)
    return Decision(False, f"{told}, is no lead beyond register.margin {margin:g}: the champion stays")


def _samples(generator: Generator, holdout: Holdout, network: Extractor, count: int) -> Tensor:
    return network.features(generator.sample(count, holdout.seed))


def contest(
    values: SimpleNamespace, challenger: Generator, champion: Path | None, holdout: Holdout, network: Extractor
) -> Contest:
    """Score both; ``champion`` is the folder of its artefact, None where there is none."""
    count, seed = values.evaluate.samples, values.base.seed
    real_ND = network.features(holdout.images.slice(0, len(holdout.images)))
    try:
        ours_MD = _samples(challenger, holdout, network, count)
        ours = frechet_distance(moments(real_ND), moments(ours_MD))
        if champion is None:
            return Contest(ours, None)
        other = load_artefact(champion)
        if tuple(other.config.image_shape) != tuple(challenger.config.image_shape):
            log.warning(
                "the champion makes %s images, this data set has %s", other.config.image_shape, challenger.config.image_shape
            )
            return Contest(ours, None)
        theirs_MD = _samples(other, holdout, network, count)
        value, interval = frechet_difference(real_ND, ours_MD, theirs_MD, seed)
        return Contest(ours, ours - value, value, interval)
    except TooFewSamplesError as error:
        log.warning("no FCD: %s", error)
        return Contest(None, None)
    except DamagedError as error:  # it serves all the same: a registered version brings the code that it was made by
        log.warning("the champion cannot be compared: %s", str(error).split(": remove")[0])
        return Contest(ours, None)

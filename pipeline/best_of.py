"""Best of n as one asks for it: by which score, under which conditions, by whose judgement. M candidates, N images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.constraints import Constraint, meeting, parse
from pipeline.errors import BadConfigError, InputMissingError
from pipeline.measures import luminance, measure
from vae.artefact import Generator
from vae.best import Candidates, Score, TooFewError, consistency, density, scored, sureness
from vae.extractor import load_extractor
from vae.files import MANIFEST, sha256_file

CLASSIFIER = "classifier"
SCORES: dict[str, Score] = {"density": density, "consistency": consistency}
KINDS = (*SCORES, CLASSIFIER)
MEASURES = ("brightness", "deviation", "sharpness")  # of a picture, in levels of 255
MOST_CANDIDATES, MOST_IN_ALL = 256, 10**6


@dataclass(frozen=True)
class BestOf:
    """So many candidates for an image, by one of ``KINDS``; all that is drawn must meet ``require``."""

    candidates: int
    by: str
    require: Sequence[str] = ()
    network: Path | None = None  # of the classifier

    def problems(self, n: int) -> list[str]:
        """What cannot be meant where ``n`` images are drawn at a time."""
        found = []
        if not 1 <= self.candidates <= MOST_CANDIDATES:
            found.append(f"--best-of is {self.candidates}: 1 to {MOST_CANDIDATES} candidates are drawn for an image")
        elif n * self.candidates > MOST_IN_ALL:
            found.append(
                f"--best-of {self.candidates} of {n} images: {MOST_IN_ALL:,} candidates in all at most; draw fewer at a time"
            )
        if self.by not in KINDS:
            found.append(f"--by {self.by}: {', '.join(KINDS)}")
        for text in self.require:
            told = parse(text)
            if told is None or told.column not in MEASURES:
                found.append(
                    f"--require {text!r} is none: write {', '.join(MEASURES)}, then <= or >=, and levels, as 'sharpness >= 12'"
                )
        return found

    def _judge(self, generator: Generator) -> Score:
        """The score; InputMissingError or BadConfigError where the classifier is not there, or is of other images."""
        if self.by in SCORES:
            return SCORES[self.by]
        assert self.network is not None
        if not self.network.is_dir():
            raise InputMissingError(
                f"--classifier {self.network} does not exist: run `dvc repro extractor`, or name another folder"
            )
        network, _ = load_extractor(self.network)
        classes, channels = generator.config.classes, generator.config.image_shape[2]
        if network.config.task != "labels":
            raise BadConfigError(
                f"--by classifier: {self.network} was taught no labels, the images it saw had none: choose another --by"
            )
        if network.config.channels != channels or classes not in (0, network.config.classes):
            raise BadConfigError(
                f"--classifier {self.network} is of images of {network.config.channels} channels and {network.config.classes} labels, "
                f"the model of {channels} and {classes or 'none'}: name the one of the model's data"
            )
        return sureness(network)

    def score(self, generator: Generator) -> Score:
        """The score, minus infinity where ``require`` is not met."""
        judge, limits = self._judge(generator), [limit for text in self.require if (limit := parse(text))]
        return _under(judge, limits, generator.contract["mode"]) if limits else judge

    def __str__(self) -> str:
        """All that decides which candidate is kept."""
        told = f"the best of {self.candidates} by {self.by}" if self.candidates > 1 else "each as it comes"
        who = f" of {sha256_file(self.network / MANIFEST)}" if self.network is not None and self.candidates > 1 else ""
        return told + who + "".join(f", {each}" for each in self.require)

    def of(self, generator: Generator) -> Callable[..., np.ndarray]:
        """What draws as the model's ``sample`` does, with the same arguments, but the best; of one candidate each it is that itself."""
        if self.candidates == 1 and not self.require:
            return generator.sample
        score = self.score(generator)

        def draw(n: int, seed: int, temperature: float = 1.0, label_N: Tensor | None = None) -> np.ndarray:
            try:
                drawn = scored(generator, n, seed, self.candidates, score, temperature, label_N)
                z_ND, label_N = drawn.best(self.candidates)
            except TooFewError as error:
                raise BadConfigError(f"--require {' '.join(self.require)}: {error}; draw more candidates, or ask less") from None
            except ValueError as error:
                raise BadConfigError(f"--by {self.by}: {error}") from None
            return generator.decode(z_ND, label_N)

        return draw


def _under(judge: Score, limits: list[Constraint], mode: str) -> Score:
    def score(candidates: Candidates) -> Tensor:
        table = pd.DataFrame(measure(luminance(candidates.images_MHWC, mode)))
        return judge(candidates).masked_fill(~torch.from_numpy(meeting(table, limits)), -torch.inf)

    return score

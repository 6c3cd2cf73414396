"""The best of many candidates: more latents are drawn than images wanted, all are scored, one of each group of near ones is kept.

The best of all candidates are much alike: they crowd where the score is high, and the rest of what the model knows is lost. So the
candidates are first divided into as many groups of neighbours as there are images wanted, of equal size, and the best of each group
is taken: the groups lie as dense as the candidates do. M candidates, N images, D latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vae.artefact import Generator
from vae.extractor import Extractor
from vae.samplers.by_class import ByClass

BLOCK = 4096  # candidates whose images are held at a time
POWERS = 8


class TooFewError(ValueError):
    """Fewer candidates than images wanted may be taken."""


@dataclass(frozen=True)
class Candidates:
    """Latents (M, D), their class numbers (M,) where the model has classes, and their images where a score asks for them."""

    generator: Generator
    z_MD: Tensor
    label_M: Tensor | None

    @cached_property
    def images_MHWC(self) -> np.ndarray:
        return self.generator.decode(self.z_MD, self.label_M)


Score = Callable[[Candidates], Tensor]  # (M,): higher is better, and minus infinity is not to be taken


@torch.no_grad()
def density(candidates: Candidates) -> Tensor:
    """The log-density of each latent under the prior that it was drawn from, in nats: how usual it is."""
    prior, z_MD = candidates.generator.prior, candidates.z_MD
    if isinstance(prior, ByClass):
        assert candidates.label_M is not None
        return prior.log_prob(z_MD, candidates.label_M)
    return prior.log_prob(z_MD)


def consistency(candidates: Candidates) -> Tensor:
    """Minus the squared distance of each latent to the one that the encoder finds in its image.

    The decoder learned from latents that the encoder gave it. Where it draws what the encoder reads as something else, it draws
    what no training image is like. Asks nothing but the model. ValueError for a hierarchy, whose latents are no point.
    """
    if not candidates.generator.model.vector_latents:
        raise ValueError("consistency compares a latent vector with the encoder's, this model has grids of latents: take density")
    found_MD, _ = candidates.generator.encode(candidates.images_MHWC, candidates.label_M)
    return -(found_MD - candidates.z_MD).square().sum(1)


def sureness(network: Extractor) -> Score:
    """A score: log-probability that ``network`` gives to the label asked for, or, where none is, to the likeliest one."""

    def score(candidates: Candidates) -> Tensor:
        nats_MK = network.log_probabilities(candidates.images_MHWC).cpu()
        return nats_MK.max(1).values if candidates.label_M is None else nats_MK.gather(1, candidates.label_M[:, None])[:, 0]

    return score


def _along(centred_MD: Tensor) -> Tensor:
    """How far (M,) each lies along the direction of the greatest spread, nearly: by the power method, from the widest dimension."""
    direction_D = torch.zeros_like(centred_MD[0])
    direction_D[centred_MD.square().sum(0).argmax()] = 1
    for _ in range(POWERS):
        direction_D = centred_MD.T @ (centred_MD @ direction_D)
        direction_D = direction_D / direction_D.norm().clamp_min(1e-12)
    return centred_MD @ direction_D


def groups(z_MD: Tensor, count: int) -> list[Tensor]:
    """The numbers of M >= ``count`` latents in ``count`` groups of neighbours, whose sizes differ by one at most.

    Halved again and again across the direction that they spread in most (McNames, principal axis tree, 2001).
    """

    def split(index_M: Tensor, count: int) -> list[Tensor]:
        if count == 1:
            return [index_M]
        near_MD = z_MD[index_M]
        ordered_M = index_M[_along(near_MD - near_MD.mean(0)).argsort(stable=True)]
        half = count // 2
        edge = len(ordered_M) * half // count
        return split(ordered_M[:edge], half) + split(ordered_M[edge:], count - half)

    return split(torch.arange(len(z_MD)), count)


def chosen(z_MD: Tensor, score_M: Tensor, count: int, *, diverse: bool = True) -> Tensor:
    """The numbers (count,), ascending, of the candidates to keep: the best of each group, or without ``diverse`` of all.

    TooFewError where fewer may be taken.
    """
    allowed_M = (score_M > -torch.inf).nonzero()[:, 0]
    if len(allowed_M) < count:
        raise TooFewError(f"{len(allowed_M)} of {len(z_MD)} candidates may be taken, {count} are wanted")
    score_M, z_MD = score_M[allowed_M], z_MD[allowed_M]
    if not diverse:
        return allowed_M[score_M.argsort(descending=True, stable=True)[:count]].sort().values
    best = [group[score_M[group].argmax()] for group in groups(z_MD, count)]
    return allowed_M[torch.stack(best)].sort().values


@dataclass(frozen=True)
class Scored:
    """Candidates in the order that they were drawn, ``candidates`` for each of N images: the first N, the second N, and so on."""

    z_MD: Tensor
    label_M: Tensor | None
    score_M: Tensor
    count: int

    def best(self, candidates: int, *, diverse: bool = True) -> tuple[Tensor, Tensor | None]:
        """N latents, and their classes, the best of the first ``candidates`` for each; every class has as many as were asked for."""
        rows = slice(0, self.count * candidates)
        z_MD, score_M = self.z_MD[rows], self.score_M[rows]
        if self.label_M is None:
            return z_MD[chosen(z_MD, score_M, self.count, diverse=diverse)], None
        label_M, found_ND = self.label_M[rows], z_MD.new_empty(self.count, z_MD.shape[1])
        for label in label_M.unique():
            of_label_M, places_N = (label_M == label).nonzero()[:, 0], (label_M[: self.count] == label).nonzero()[:, 0]
            own_MD = z_MD[of_label_M]
            found_ND[places_N] = own_MD[chosen(own_MD, score_M[of_label_M], len(places_N), diverse=diverse)]
        return found_ND, label_M[: self.count]


def scored(
    generator: Generator,
    n: int,
    seed: int,
    candidates: int,
    score: Score,
    temperature: float = 1.0,
    label_N: Tensor | None = None,
) -> Scored:
    """``candidates`` latents of the prior for each of ``n`` images, and the score of each: a function of the arguments."""
    label_N = generator.classes(n, seed) if label_N is None else label_N
    label_M = None if label_N is None else label_N.repeat(candidates)
    z_MD = generator.latents(n * candidates, seed, temperature, label_M)
    rows = [slice(start, start + BLOCK) for start in range(0, len(z_MD), BLOCK)]
    parts = [score(Candidates(generator, z_MD[each], None if label_M is None else label_M[each])) for each in rows]
    return Scored(z_MD, label_M, torch.cat(parts).double(), n)

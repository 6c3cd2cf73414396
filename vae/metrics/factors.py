"""Disentanglement: how well single latents tell the known factors of the images. N images, D latents, F factors.

A factor with at most ``BINS`` different values is discrete, any other continuous; one that never varies is left out. Every score
is a function of posterior means (N, D), true factors (N, F) and a seed. What each can and cannot say: docs/factors.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vae.metrics.frechet import TooFewSamplesError
from vae.metrics.terms import ACTIVE_VARIANCE

MINIMUM_IMAGES = 200
BINS = 20  # of a latent or continuous factor, for its information; also the most values that a discrete factor may have
QUANTILES = 10  # of a continuous factor: images of one of them count as alike in it
LEAST_ALIKE = 8  # images with one value of a factor, for a variance among them
VOTE_IMAGES, VOTES = 64, 1000  # in a vote; of each of training and evaluation
FACTOR_SCORES = ("mig", "sap", "factor_vae_score", "dci_disentanglement", "dci_completeness", "dci_informativeness")
TREES, LEAF_IMAGES, MOST_IMAGES = 40, 4, 4000  # of a forest; it is fitted to half of at most so many images


class Dci(NamedTuple):
    """Three scores in [0, 1]: each latent tells of one factor; each factor is in one latent; the factors can be told at all."""

    disentanglement: float
    completeness: float
    informativeness: float


def _discrete(values_N: np.ndarray) -> bool:
    return len(np.unique(values_N)) <= BINS


def _varying(factors_NF: np.ndarray) -> list[np.ndarray]:
    """Columns that take more than one value; TooFewSamplesError where there is none or the images are few."""
    if len(factors_NF) < MINIMUM_IMAGES:
        raise TooFewSamplesError(f"scores of known factors need {MINIMUM_IMAGES} images, there are {len(factors_NF)}")
    columns = [column for column in np.asarray(factors_NF, np.float64).T if np.ptp(column) > 0]
    if not columns:
        raise TooFewSamplesError(f"none of the {factors_NF.shape[1]} known factors varies over the {len(factors_NF)} images")
    return columns


def _standardised(mean_ND: np.ndarray) -> np.ndarray:
    """Latents at mean 0 and variance 1; zeros where a latent is constant (rounding may leave it a tiny deviation)."""
    mean_ND = np.asarray(mean_ND, np.float64)
    constant_D = np.ptp(mean_ND, axis=0) == 0
    return np.where(constant_D, 0.0, (mean_ND - mean_ND.mean(0)) / np.where(constant_D, 1.0, mean_ND.std(0)))


def _halves(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint random halves of ``count`` images: one to learn from, one to be judged on."""
    order = rng.permutation(count)
    return order[: count // 2], order[count // 2 :]


def _above_chance(truth_N: np.ndarray, guess_N: np.ndarray) -> float:
    """Balanced accuracy: 0 where it is what guessing among the values of ``truth_N`` gives, or less; 1 for a perfect guess."""
    recalls = [float((guess_N[truth_N == value] == value).mean()) for value in np.unique(truth_N)]
    chance = 1 / len(recalls)
    return max(0.0, (float(np.mean(recalls)) - chance) / (1 - chance)) if len(recalls) > 1 else 0.0


def _gap(scores_D: np.ndarray) -> float:
    """By how much the best latent is ahead of the second; a single one is compared with nothing."""
    best = np.sort(scores_D)[::-1]
    return float(best[0] - best[1]) if len(best) > 1 else float(best[0])


def _binned(column_N: np.ndarray) -> np.ndarray:
    if _discrete(column_N):
        return np.unique(column_N, return_inverse=True)[1]
    return np.digitize(column_N, np.histogram(column_N, BINS)[1][1:-1])


def information(mean_ND: np.ndarray, factors_NF: np.ndarray) -> np.ndarray:
    """(F, D): mutual information of factor and latent in units of the factor's entropy, from 20 equal bins; NaN if it never varies.

    The estimate of independent columns is not 0 but about (bins - 1)^2 / 2N nats (Miller 1955).
    """
    from sklearn.metrics import mutual_info_score

    latents, found = [_binned(column) for column in mean_ND.T], np.full((factors_NF.shape[1], mean_ND.shape[1]), np.nan)
    for row, factor in enumerate(_binned(column) for column in factors_NF.T):
        shares = np.bincount(factor) / len(factor)
        shares = shares[shares > 0]
        if len(shares) > 1:
            found[row] = [mutual_info_score(factor, latent) / -(shares @ np.log(shares)) for latent in latents]
    return found


def mutual_information_gap(mean_ND: np.ndarray, factors_NF: np.ndarray) -> float:
    """MIG (Chen et al. 2018): gap of the two latents that know most of a factor, in units of its entropy, mean over factors."""
    columns = _varying(factors_NF)
    return float(np.mean([_gap(known_D) for known_D in information(mean_ND, np.column_stack(columns))]))


def _told(known_N: np.ndarray, latent_N: np.ndarray) -> float:
    """What a line (continuous: R^2) or thresholds between the values' means (discrete: balanced accuracy) get from one latent."""
    if np.ptp(latent_N) == 0:
        return 0.0
    if not _discrete(known_N):
        return float(np.corrcoef(known_N, latent_N)[0, 1] ** 2)
    values, place_N = np.unique(known_N, return_inverse=True)
    centres = np.bincount(place_N, latent_N) / np.bincount(place_N)
    return _above_chance(known_N, values[np.abs(latent_N[:, None] - centres).argmin(1)])


def sap(mean_ND: np.ndarray, factors_NF: np.ndarray) -> float:
    """SAP (Kumar et al. 2018): gap of the two latents that each for itself tell most of a factor, mean over factors.

    Continuous: R^2 of the line. Discrete: balanced accuracy above chance of the nearest of the values' means, that is, of a
    threshold between any two, in place of the paper's support vector machine.
    """
    columns, z_ND = _varying(factors_NF), _standardised(mean_ND)
    return float(np.mean([_gap(np.array([_told(known, latent) for latent in z_ND.T])) for known in columns]))


def concentration(importance_DF: np.ndarray) -> tuple[float, float]:
    """Disentanglement and completeness of importances >= 0: 1 minus the normalised entropy of rows, weighted by their sums, and columns.

    Nothing can be spread over one factor, or over one latent: the score is 1. A factor for which nothing is important counts 0.
    """

    def peaked(parts_AB: np.ndarray) -> np.ndarray:  # of each row
        total_A = parts_AB.sum(1, keepdims=True)
        p = np.divide(parts_AB, total_A, out=np.zeros_like(parts_AB), where=total_A > 0)
        entropy_A = -np.sum(p * np.log(np.where(p > 0, p, 1.0)), 1)
        return np.where(total_A[:, 0] > 0, 1 - entropy_A / np.log(max(2, parts_AB.shape[1])), 0.0)

    total = importance_DF.sum()
    weights_D = importance_DF.sum(1) / (total if total > 0 else 1.0)
    return float(weights_D @ peaked(importance_DF)), float(peaked(importance_DF.T).mean())


def dci(mean_ND: np.ndarray, factors_NF: np.ndarray, seed: int = 0) -> Dci:
    """DCI (Eastwood and Williams 2018) with the importances of random forests, one per factor, fitted to half of the images.

    Informativeness is judged on the other half, mean over factors: R^2 (continuous) or balanced accuracy above chance (discrete),
    0 where nothing is told. The paper gives an error instead. At most ``MOST_IMAGES`` images are used.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    columns, z_ND = _varying(factors_NF), _standardised(mean_ND)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xDC1]))
    fitted, judged = (half[: MOST_IMAGES // 2] for half in _halves(len(z_ND), rng))
    options = {"n_estimators": TREES, "min_samples_leaf": LEAF_IMAGES, "n_jobs": 1}
    importances, told = [], []
    for known in columns:
        state = int(rng.integers(2**31))
        if _discrete(known):
            known = np.unique(known, return_inverse=True)[1]
            forest = RandomForestClassifier(**options, max_features=None, class_weight="balanced", random_state=state)
        else:
            forest = RandomForestRegressor(**options, max_features=1.0, random_state=state)
        forest.fit(z_ND[fitted], known[fitted])
        importances.append(forest.feature_importances_)
        guess, truth = forest.predict(z_ND[judged]), known[judged]
        if _discrete(known):
            told.append(_above_chance(truth, guess))
        else:
            told.append(max(0.0, 1 - float(np.square(guess - truth).sum() / np.square(truth - truth.mean()).sum())))
    return Dci(*concentration(np.stack(importances, 1)), float(np.mean(told)))


def _alike(known_N: np.ndarray, half: np.ndarray) -> list[np.ndarray]:
    """Groups of images of this half with one value of a discrete factor, or in one quantile of a continuous one."""
    if not _discrete(known_N):
        known_N = np.searchsorted(np.quantile(known_N, np.linspace(0, 1, QUANTILES + 1)[1:-1]), known_N)
    groups = [half[known_N[half] == value] for value in np.unique(known_N)]
    groups = [group for group in groups if len(group) >= LEAST_ALIKE]
    if not groups:
        raise TooFewSamplesError(f"{len(known_N)} images are too few: no {LEAST_ALIKE} of one half share a value of some factor")
    return groups


def factor_vae_score(mean_ND: np.ndarray, factors_NF: np.ndarray, seed: int = 0) -> float:
    """FactorVAE's score (Kim and Mnih 2018): how often the steadiest latent of alike images names the factor that they share.

    A vote: 64 images that share one factor; their latent of least variance, in units of its variance over all images. The factor
    that a latent stands for is that of most training votes; the score is the share of evaluation votes it names rightly, 1/F by
    chance. The paper renders the images of a vote; here only some are given, so they are drawn with repetition from those with
    the same value of the factor, or in the same tenth of a continuous one; training and evaluation have an own half each.
    Latents whose mean varies by less than ``ACTIVE_VARIANCE`` are left out; with none left, the score is chance.
    """
    columns = _varying(factors_NF)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xFAC]))
    active_D = np.asarray(mean_ND, np.float64).var(0) > ACTIVE_VARIANCE
    if not active_D.any():
        return 1 / len(columns)
    z_ND = _standardised(np.asarray(mean_ND)[:, active_D])

    def votes(
        half: np.ndarray,
    ) -> np.ndarray:  # (active D, F): how often the latent was the steadiest where the factor was shared
        groups, counts_DF = [_alike(known, half) for known in columns], np.zeros((z_ND.shape[1], len(columns)), np.int64)
        for factor in rng.integers(len(columns), size=VOTES):
            group = groups[factor][rng.integers(len(groups[factor]))]
            counts_DF[z_ND[rng.choice(group, VOTE_IMAGES)].var(0).argmin(), factor] += 1
        return counts_DF

    learning, judging = _halves(len(z_ND), rng)
    named_D = votes(learning).argmax(1)
    return float(votes(judging)[np.arange(len(named_D)), named_D].sum() / VOTES)


def factor_scores(mean_ND: np.ndarray, factors_NF: np.ndarray, seed: int = 0) -> dict[str, float]:
    """All ``FACTOR_SCORES``; TooFewSamplesError below ``MINIMUM_IMAGES`` or where no factor varies."""
    single = mutual_information_gap(mean_ND, factors_NF), sap(mean_ND, factors_NF), factor_vae_score(mean_ND, factors_NF, seed)
    return dict(zip(FACTOR_SCORES, (*single, *dci(mean_ND, factors_NF, seed)), strict=True))

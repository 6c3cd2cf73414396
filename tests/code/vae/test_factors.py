"""factors: oracles, noise, rotations and dead dimensions; every score against a slow one written from its definition."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from vae.metrics import factors as module
from vae.metrics.factors import (
    FACTOR_SCORES,
    concentration,
    dci,
    factor_scores,
    factor_vae_score,
    information,
    mutual_information_gap,
    sap,
)
from vae.metrics.frechet import TooFewSamplesError

N, F = 2000, 5


@pytest.fixture(autouse=True)
def _small_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TREES", 10)


def mixed(seed: int = 0, count: int = N) -> np.ndarray:
    """Independent factors as sprites have them: one of three values, four continuous in different units."""
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.integers(0, 3, count), rng.uniform(0.5, 1, count), rng.uniform(-100, 100, (count, 3))])


def noise(seed: int = 1, count: int = N, dim: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim))


def oracle(known: np.ndarray) -> np.ndarray:
    """The factors permuted, shifted and scaled by both signs, a latent of noise, one that is nearly dead and one that is."""
    z = (known - known.mean(0)) / known.std(0) * [1, -0.3, 2, -1, 5] + 0.7
    count = len(known)
    return np.column_stack([z[:, [3, 0, 4, 1, 2]], noise(2, count, 1), 0.01 * noise(3, count, 1), np.full(count, 0.1)])


def rotated(known: np.ndarray) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(known.shape[1],) * 2))
    return (known - known.mean(0)) / known.std(0) @ q


def test_factor_scores_oracle_is_near_one_in_everything() -> None:
    scores = factor_scores(oracle(mixed()), mixed())
    assert tuple(scores) == FACTOR_SCORES
    assert all(0.95 < value <= 1 for value in scores.values()), scores


def test_factor_scores_noise_is_near_chance_in_everything() -> None:
    scores = factor_scores(noise(), mixed())
    assert scores.pop("factor_vae_score") == pytest.approx(1 / F, abs=0.08)
    assert all(0 <= value < 0.03 for value in scores.values()), scores


def test_factor_scores_rotation_lies_between_though_the_factors_can_be_told() -> None:
    scores = factor_scores(rotated(mixed()), mixed())
    assert scores.pop("dci_informativeness") > 0.85
    assert 1 / F + 0.1 < scores.pop("factor_vae_score") < 0.95
    assert all(0.02 < value < 0.7 for value in scores.values()), scores


@pytest.mark.parametrize("latents", [oracle, rotated])
def test_factor_scores_permutation_and_scale_of_latents_change_nothing(latents) -> None:
    known = mixed()
    z = latents(known)
    rng = np.random.default_rng(0)
    # At most downward to half: FactorVAE's threshold of dead dimensions is absolute.
    scale = rng.uniform(1, 8, z.shape[1]) * rng.choice([-1, 1], z.shape[1])
    before, after = factor_scores(z, known), factor_scores((z * scale)[:, rng.permutation(z.shape[1])], known)
    for name, value in before.items():
        # A forest breaks ties by the order of its columns; a bin's edge belongs to its other side in a mirrored latent.
        assert after[name] == pytest.approx(value, abs=0.03 if name.startswith("dci") else 0.003), name


def test_factor_scores_are_a_function_of_latents_factors_and_seed() -> None:
    known = mixed()
    z = rotated(known)
    assert factor_scores(z, known, 3) == factor_scores(z.copy(), known.copy(), 3)
    first, second = factor_scores(z, known, 3), factor_scores(z, known, 4)
    assert first["mig"] == second["mig"] and first["sap"] == second["sap"]
    assert first["factor_vae_score"] != second["factor_vae_score"] and first["dci_completeness"] != second["dci_completeness"]
    assert first["factor_vae_score"] == pytest.approx(second["factor_vae_score"], abs=0.1)
    assert first["dci_completeness"] == pytest.approx(second["dci_completeness"], abs=0.05)


def test_factor_scores_leave_a_factor_out_that_never_varies() -> None:
    known = mixed()
    z = rotated(known)
    assert factor_scores(z, np.column_stack([known, np.full(N, 4.0)])) == factor_scores(z, known)


def test_factor_scores_units_of_a_factor_do_not_matter() -> None:
    known = mixed()
    z = rotated(known)
    before, after = factor_scores(z, known), factor_scores(z, known * 1e-3 + 7)
    assert after == pytest.approx(before, abs=0.01)


@pytest.mark.parametrize("score", [mutual_information_gap, sap, factor_vae_score, dci])
def test_scores_refuse_few_images_and_factors_that_never_vary(score) -> None:
    with pytest.raises(TooFewSamplesError, match="200 images, there are 199"):
        score(noise()[:199], mixed()[:199])
    with pytest.raises(TooFewSamplesError, match="none of the 2 known factors varies"):
        score(noise(), np.ones((N, 2)))
    score(noise()[:200], mixed()[:200])


@pytest.mark.parametrize("score", [mutual_information_gap, sap, dci])
def test_scores_of_latents_that_are_all_dead_are_zero(score) -> None:
    assert score(np.full((N, 3), 0.1), mixed()) == pytest.approx(0 if score is not dci else (0, 0, 0))


@pytest.mark.parametrize("score", [mutual_information_gap, sap, lambda z, known: dci(z, known)[1]])
def test_scores_factor_known_by_two_latents_alike_has_no_gap(score) -> None:
    known = mixed()[:, 1:]
    twice = np.column_stack([known, known * -2])
    assert score(twice, known) < 0.72  # completeness: 1 - ln 2 / ln 8 = 0.67, ties being broken by chance
    assert score is not sap or score(twice, known) == pytest.approx(0, abs=1e-9)


# Information and its gap


def slow_information(latent: np.ndarray, factor: np.ndarray) -> float:
    """Mutual information over entropy from counted pairs of bins, in plain Python."""

    def binned(column: np.ndarray) -> list[int]:
        if len(set(column)) <= 20:
            return [sorted(set(column)).index(value) for value in column]
        low, width = column.min(), (column.max() - column.min()) / 20
        return [min(19, int((value - low) / width)) for value in column]

    z, v = binned(latent), binned(factor)
    pairs, of_z, of_v = Counter(zip(z, v, strict=True)), Counter(z), Counter(v)
    told = sum(c / len(z) * math.log(c * len(z) / (of_z[a] * of_v[b])) for (a, b), c in pairs.items())
    return told / -sum(c / len(v) * math.log(c / len(v)) for c in of_v.values())


def test_information_and_mig_are_those_of_counted_pairs() -> None:
    known = mixed(count=400)
    z = rotated(known)
    slow = np.array([[slow_information(latent, factor) for latent in z.T] for factor in known.T])
    np.testing.assert_allclose(information(z, known), slow, atol=1e-6)
    ranked = np.sort(slow, 1)
    assert mutual_information_gap(z, known) == pytest.approx((ranked[:, -1] - ranked[:, -2]).mean(), abs=1e-6)


def test_information_chance_level_is_that_of_miller() -> None:
    found = information(np.random.default_rng(0).uniform(size=(N, 30)), np.random.default_rng(1).uniform(size=(N, 3)))
    assert found.mean() == pytest.approx(19 * 19 / (2 * N) / math.log(20), rel=0.05)


def test_information_factor_that_never_varies_is_nan() -> None:
    found = information(noise(), np.column_stack([mixed()[:, 0], np.ones(N)]))
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


def test_mig_continuous_oracle_in_other_units_scores_near_one() -> None:
    known = np.random.default_rng(0).uniform(size=(5000, 2))
    assert mutual_information_gap(np.exp(known)[:, ::-1], known) > 0.75  # unequal bins of exp cost some of it


def test_mig_half_known_factor_scores_the_share_of_its_entropy() -> None:
    # The latent tells 8 equally likely values apart in pairs: 2 of 3 bits are known.
    known = np.tile(np.arange(8), 500)[:, None]
    latents = np.column_stack([known[:, 0] // 2, np.zeros(4000)])
    assert mutual_information_gap(latents, known) == pytest.approx(2 / 3, abs=1e-9)


@pytest.mark.parametrize("score", [mutual_information_gap, sap])
def test_gap_of_a_single_latent_is_to_nothing(score) -> None:
    known = mixed()[:, :1]
    assert score(known, known) == pytest.approx(1)


# SAP


def test_sap_is_that_of_lines_and_nearest_centroids() -> None:
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.neighbors import NearestCentroid

    known = mixed(count=500)
    z = rotated(known) + 0.3 * noise(count=500, dim=F)
    gaps = []
    for column, factor in enumerate(known.T):
        told = []
        for latent in z.T[:, :, None]:
            if column == 0:
                guess = NearestCentroid().fit(latent, factor).predict(latent)
                told.append(max(0, balanced_accuracy_score(factor, guess, adjusted=True)))
            else:
                told.append(LinearRegression().fit(latent, factor).score(latent, factor))
        gaps.append(sorted(told)[-1] - sorted(told)[-2])
    assert sap(z, known) == pytest.approx(np.mean(gaps), abs=1e-9)


def test_sap_known_noise_gives_the_closed_form() -> None:
    # R^2 of a factor in a latent that adds noise of the same variance is 1/2.
    known = mixed(count=20_000)[:, 1:2]
    z = (known - known.mean()) / known.std() + noise(count=20_000, dim=1)
    assert sap(np.column_stack([z, noise(9, 20_000)]), known) == pytest.approx(0.5, abs=0.02)


def test_sap_middle_value_lies_between_two_thresholds() -> None:
    known = np.repeat([0.0, 1.0, 2.0], [900, 90, 10])[:, None]  # rare values count as much
    assert sap(known + 0.01 * noise(count=1000, dim=1), known) == pytest.approx(1)
    z = np.where(known == 1, 0.0, known)  # the middle one looks like the first, whose mean is as near
    assert sap(z, known) == pytest.approx((2 / 3 - 1 / 3) / (2 / 3))


# DCI


def test_concentration_is_one_minus_the_normalised_entropies() -> None:
    importance = np.random.default_rng(0).gamma(0.5, size=(7, 4))
    rows = 1 - stats.entropy(importance, axis=1, base=4)
    columns = 1 - stats.entropy(importance, axis=0, base=7)
    expected = (np.average(rows, weights=importance.sum(1)), columns.mean())
    assert concentration(importance) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("importance", "expected"),
    [
        (np.eye(3), (1, 1)),
        (np.ones((4, 3)), (0, 0)),
        (np.zeros((4, 3)), (0, 0)),
        (np.vstack([np.eye(3), np.zeros((2, 3))]), (1, 1)),  # dead latents take nothing away
        (np.kron(np.eye(2), np.ones((2, 1))), (1, 0.5)),  # each factor in two latents of four
        (np.kron(np.eye(2), np.ones((1, 2))), (0.5, 1)),  # two factors of four in each latent
        (np.ones((4, 1)), (1, 0)),  # of one factor nothing else can be told
        (np.ones((1, 3)), (0, 1)),
        (np.array([[1.0, 0], [0, 0]]), (1, 0.5)),  # a factor that is nowhere
    ],
)
def test_concentration_of_known_tables(importance: np.ndarray, expected: tuple[float, float]) -> None:
    assert concentration(importance) == pytest.approx(expected, abs=1e-12)


def test_dci_agrees_with_boosted_trees() -> None:
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    known = mixed(count=1000)
    mixing = np.eye(F) + 0.35 * np.roll(np.eye(F), 1, 0)  # each factor in two latents, most of it in one
    z = (known - known.mean(0)) / known.std(0) @ mixing
    importance = []
    for column, factor in enumerate(known.T):
        kind = GradientBoostingClassifier if column == 0 else GradientBoostingRegressor
        importance.append(kind(n_estimators=30, random_state=0).fit(z, factor).feature_importances_)
    found = dci(z, known)
    assert found[:2] == pytest.approx(concentration(np.stack(importance, 1)), abs=0.1)
    assert 0.4 < found.disentanglement < 0.9 and found.informativeness > 0.85


def test_dci_informativeness_is_judged_on_images_that_no_forest_saw() -> None:
    found = dci(noise(), np.random.default_rng(8).permutation(mixed()))
    assert found.informativeness < 0.02  # on their own images the forests tell most of it


def test_dci_known_noise_gives_the_closed_form() -> None:
    known = mixed(count=4000)[:, 1:2]
    z = (known - known.mean()) / known.std() + noise(count=4000, dim=1) * 0.5
    assert dci(z, known).informativeness == pytest.approx(0.8, abs=0.06)  # 1 / (1 + 0.25)


def test_dci_uses_so_many_images_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    from sklearn.ensemble import RandomForestRegressor

    fit = RandomForestRegressor.fit
    monkeypatch.setattr(RandomForestRegressor, "fit", lambda self, x, y: (seen.append(len(x)), fit(self, x, y))[1])
    monkeypatch.setattr(module, "MOST_IMAGES", 500)
    dci(noise(), mixed()[:, 1:2])
    assert seen == [250]


# FactorVAE


def slow_factor_vae(z: np.ndarray, known: np.ndarray, rng: np.random.Generator, votes: int = 800) -> float:
    """Votes over all images, one by one; rows alike are those within a twentieth of the range, where the factor is continuous."""
    z = z[:, z.var(0) > 0.01]
    spread = z.std(0)

    def vote() -> tuple[int, int]:
        factor = int(rng.integers(known.shape[1]))
        column = known[:, factor]
        width = 0 if len(set(column)) <= 20 else np.ptp(column) / 20
        alike = np.flatnonzero(np.abs(column - rng.choice(column)) <= width)
        return int((z[rng.choice(alike, 64)] / spread).var(0).argmin()), factor

    learned: dict[int, Counter] = {}
    for latent, factor in (vote() for _ in range(votes)):
        learned.setdefault(latent, Counter())[factor] += 1
    named = {latent: counts.most_common(1)[0][0] for latent, counts in learned.items()}
    return float(np.mean([named.get(latent) == factor for latent, factor in (vote() for _ in range(votes))]))


@pytest.mark.parametrize("noisiness", [0.0, 0.7, 1.5])
def test_factor_vae_score_is_that_of_votes_one_by_one(noisiness: float) -> None:
    known = mixed(count=6000)
    z = rotated(known) + noisiness * noise(count=6000, dim=F)
    slow = slow_factor_vae(z, known, np.random.default_rng(0))
    assert factor_vae_score(z, known) == pytest.approx(slow, abs=0.08)


def test_factor_vae_score_noise_is_chance_on_average() -> None:
    # Were training and evaluation to share images, what is steady by accident would be so in both.
    found = [factor_vae_score(noise(100 + seed, 300), mixed(seed, 300), seed) for seed in range(20)]
    assert np.mean(found) == pytest.approx(1 / F, abs=0.03)


def test_factor_vae_score_dead_dimensions_have_no_vote() -> None:
    known = mixed()
    z = rotated(known)
    quiet = 0.09 * z[:, :1] * np.linspace(0, 1, N)[:, None]  # varies by less than 0.01
    dead = np.column_stack([np.full(N, 3.0), quiet, z])
    assert factor_vae_score(dead, known) == factor_vae_score(z, known)
    assert factor_vae_score(0.05 * z, known) == 1 / F


def test_factor_vae_score_factor_that_no_latent_tells_costs_its_share() -> None:
    known = np.random.default_rng(0).integers(0, 4, (N, 3)).astype(float)
    assert factor_vae_score(known[:, :2], known) == pytest.approx(2 / 3, abs=0.05)


def test_factor_vae_score_rare_values_are_left_out_unless_all_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    known = np.column_stack([np.r_[np.zeros(N - 3), np.ones(3)], mixed()[:, 1]])
    assert factor_vae_score(known * 10, known) >= 0.5
    monkeypatch.setattr(module, "LEAST_ALIKE", N)
    with pytest.raises(TooFewSamplesError, match="2000 images are too few"):
        factor_vae_score(known * 10, known)

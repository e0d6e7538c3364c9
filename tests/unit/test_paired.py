"""Two models on the same patients, against pROC, statsmodels, brute force, and exact coverage."""

from functools import reduce
from itertools import product
from math import comb
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel
from sklearn.metrics import brier_score_loss, roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar

from shared_model.errors import MessageError
from shared_model.paired import Difference, FourFold, PairedCalls, PairedComparison, auc_difference
from shared_model.readings import avoided_at_equal_sensitivity, read

# aSAH of the R package pROC (data/aSAH.RData; Turck et al. 2010, Intensive Care Med 36:107): patient by patient in its order,
# outcome (P poor), WFNS grade, S100 beta (ug/L, hundredths).
OUTCOME = """
....PP.P..P.PP..P.PPP.P.........P..PP.PP.........PP...P...P.P..PPP.PP.PPPP...PP.P......P............PPPPPP...P...
""".strip()
WFNS = "11113254125255125225211112121134214541425511241125521251222151125214524414121421232421451154221113125225552445111"
S100B = """
13 14 10 4 13 10 47 16 18 10 12 10 44 71 4 8 49 4 7 33 9 9 7 11 7 17 7 11 13 19 5 16 41 14 34 35 48 9 96 25 50 46 16 7 43 45
11 8 9 86 52 8 6 13 207 10 14 15 7 6 77 5 9 30 3 9 4 23 70 9 27 71 8 26 8 16 9 13 10 8 11 33 11 28 7 10 32 22 7 5 24 38 10 15
8 14 10 7 4 19 56 14 58 32 82 74 15 47 17 44 15 50 48
"""


def asah() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    wfns = np.array([float(grade) for grade in WFNS])
    s100b = np.array([float(value) for value in S100B.split()]) / 100
    return wfns, s100b, np.array([float(outcome == "P") for outcome in OUTCOME])


def draw(n: int, *, seed: int, steps: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(float)
    common = rng.normal(size=n) + labels
    first, second = (1 / (1 + np.exp(-(common + 0.7 * rng.normal(size=n)))) for _ in range(2))
    return (np.round(first * steps) / steps, np.round(second * steps) / steps, labels) if steps else (first, second, labels)


class TestAuc:
    def test_is_procs_paired_test(self) -> None:
        wfns, s100b, labels = asah()
        assert (labels.size, labels.sum()) == (113, 41)
        found = auc_difference(wfns, s100b, labels)
        assert found is not None
        assert found.value == pytest.approx(0.8236788618 - 0.7313685637, abs=2e-10)
        assert found.z == pytest.approx(2.20898359144091, abs=1e-13)
        assert 2 * NormalDist().cdf(-found.z) == pytest.approx(0.0271757822291882, abs=1e-15)
        interval = found.estimate("DeLong")
        assert 0 < interval.low < found.value < interval.high

    @given(n=st.integers(2, 60), seed=st.integers(0, 10_000), steps=st.sampled_from([0, 1, 5]))
    def test_is_brute_force(self, n: int, seed: int, steps: int) -> None:
        first, second, labels = draw(n, seed=seed, steps=steps)
        found = auc_difference(first, second, labels)
        cases, controls = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
        if min(cases.size, controls.size) < 2:
            assert found is None
            return

        def win(scores: np.ndarray, i: int, j: int) -> float:
            return float(scores[i] > scores[j]) + 0.5 * float(scores[i] == scores[j])

        wins = np.array([[win(first, i, j) - win(second, i, j) for j in controls] for i in cases])
        variance = np.var(wins.mean(1), ddof=1) / cases.size + np.var(wins.mean(0), ddof=1) / controls.size
        assert found.value == pytest.approx(roc_auc_score(labels, first) - roc_auc_score(labels, second), abs=1e-12)
        assert found.standard_error**2 == pytest.approx(variance, abs=1e-12)

    def test_folds_are_ranked_apart(self) -> None:
        """A model of another scale in each fold: within folds both rank alike, across folds they would not."""
        first, _, labels = draw(200, seed=1)
        folds = np.arange(200) % 4
        shifted = first + folds
        found = auc_difference(first, shifted, labels, folds)
        assert found.value == 0.0
        assert abs(auc_difference(first, shifted, labels).value) > 0.05

    def test_one_positive_a_fold_is_enough(self) -> None:
        first, second, _ = draw(50, seed=2)
        labels = (np.arange(50) < 5).astype(float)
        folds = np.arange(50) % 5
        found = auc_difference(first, second, labels, folds)
        by_fold = [
            roc_auc_score(labels[folds == k], first[folds == k]) - roc_auc_score(labels[folds == k], second[folds == k])
            for k in range(5)
        ]
        assert found.value == pytest.approx(np.mean(by_fold), abs=1e-12)
        assert found.variance > 0

    def test_small_sites_get_intervals_that_cover(self) -> None:
        """Six cases and twelve controls, 1,500 times: the interval holds the truth (no difference) as often as it says."""
        rng = np.random.default_rng(0)
        labels = np.repeat([1.0, 0.0], [6, 12])
        covered = []
        for _ in range(1500):
            common = rng.normal(size=18) + labels
            found = auc_difference(common + rng.normal(size=18), common + rng.normal(size=18), labels)
            interval = found.estimate("DeLong")
            covered.append(interval.low is not None and interval.low <= 0 <= interval.high)
        assert 0.93 < np.mean(covered) < 0.985

    def test_a_certainty_that_nobody_has_is_not_claimed(self) -> None:
        labels = np.array([1.0, 1.0, 0.0, 0.0])
        found = auc_difference(labels, 1 - labels, labels).estimate("DeLong")
        assert (found.value, found.low, found.high) == (1.0, None, None)
        same = auc_difference(labels, labels, labels).estimate("DeLong")
        assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


class TestMeans:
    def test_brier_is_that_of_scikit_learn_with_students_interval(self) -> None:
        first, second, labels = draw(40, seed=5)
        found = PairedComparison.of(first, second, labels, thresholds=()).brier.estimate("t")
        assert found.value == pytest.approx(brier_score_loss(labels, first) - brier_score_loss(labels, second), abs=1e-14)
        interval = ttest_rel((first - labels) ** 2, (second - labels) ** 2).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx(tuple(interval), abs=1e-12)

    @given(seed=st.integers(0, 999), n=st.integers(2, 40), threshold=st.sampled_from([0.1, 0.25, 0.5, 0.9]))
    def test_net_benefit_from_counts_is_that_of_patients(self, seed: int, n: int, threshold: float) -> None:
        first, second, labels = draw(n, seed=seed)
        odds = threshold / (1 - threshold)
        gain = np.where(labels == 1, 1.0, -odds)
        differences = gain * (first >= threshold) - gain * (second >= threshold)
        found = PairedCalls.of(first >= threshold, second >= threshold, labels, threshold=threshold).net_benefit
        expected = Difference.of_means(differences)
        assert (found.value, found.variance) == pytest.approx((expected.value, expected.variance), abs=1e-9)

    def test_strata_are_pooled_with_students_t_of_satterthwaite(self) -> None:
        rng = np.random.default_rng(3)
        groups = [rng.normal(0.1, 1, 5), rng.normal(0.3, 3, 9)]
        pooled = Difference.of_means(groups[0]) + Difference.of_means(groups[1])
        weights = [5 / 14, 9 / 14]
        parts = [w**2 * g.var(ddof=1) / g.size for w, g in zip(weights, groups, strict=True)]
        assert pooled.value == pytest.approx(np.concatenate(groups).mean(), abs=1e-12)
        assert pooled.standard_error == pytest.approx(np.sqrt(sum(parts)), abs=1e-12)
        degrees = sum(parts) ** 2 / (parts[0] ** 2 / 4 + parts[1] ** 2 / 8)
        assert pooled.variance**2 / pooled.spread == pytest.approx(degrees)


class TestCalls:
    @given(st.tuples(*[st.integers(0, 30)] * 4))
    def test_mcnemar_is_that_of_statsmodels(self, cells: tuple[int, int, int, int]) -> None:
        both, first, second, neither = cells
        found = FourFold(both, first, second, neither).mcnemar
        if first + second == 0:
            assert found is None
        else:
            assert found == pytest.approx(mcnemar([[both, first], [second, neither]], exact=True).pvalue, abs=1e-12)

    @pytest.mark.parametrize(("n", "p_first", "p_second"), [(8, 0.3, 0.1), (15, 0.2, 0.2), (20, 0.4, 0.05), (30, 0.02, 0.1)])
    def test_the_interval_of_a_paired_share_covers(self, n: int, p_first: float, p_second: float) -> None:
        """Exactly: the probability of all tables whose interval holds the true difference."""
        covered = 0.0
        for first, second in product(range(n + 1), repeat=2):
            if first + second > n:
                continue
            rest = n - first - second
            probability = comb(n, first) * comb(n - first, second) * p_first**first * p_second**second
            probability *= (1 - p_first - p_second) ** rest
            interval = FourFold(rest, first, second, 0).difference
            covered += probability * (interval.low <= p_first - p_second <= interval.high)
        assert covered > 0.94

    def test_nobody_is_nobody(self) -> None:
        assert FourFold().difference is None
        assert PairedCalls(0.5).net_benefit.value is None
        assert Difference().estimate("") is None


comparisons = st.builds(
    lambda n, seed: PairedComparison.of(*draw(n, seed=seed, steps=4), thresholds=(0.25, 0.5)),
    st.integers(0, 30),
    st.integers(0, 500),
)


@given(st.lists(comparisons, min_size=1, max_size=5), st.randoms())
def test_any_grouping_of_sites_gives_the_same_pooled_answer(sites: list[PairedComparison], random) -> None:
    shuffled = list(sites)
    random.shuffle(shuffled)
    left = reduce(lambda a, b: a + b, sites)
    right = reduce(lambda a, b: b + a, shuffled)
    assert (left.patients, left.positives, left.calls) == (right.patients, right.positives, right.calls)
    for a, b in ((left.auc, right.auc), (left.brier, right.brier)):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a.weight, a.total, a.variance, a.spread) == pytest.approx((b.weight, b.total, b.variance, b.spread))


def test_pooled_calls_are_those_of_all_patients_together() -> None:
    parts = [draw(40, seed=seed) for seed in range(3)]
    together = PairedComparison.of(*(np.concatenate(column) for column in zip(*parts, strict=True)), thresholds=(0.3,))
    summed = reduce(lambda a, b: a + b, (PairedComparison.of(*part, thresholds=(0.3,)) for part in parts))
    assert summed.calls == together.calls
    assert summed.brier.value == pytest.approx(together.brier.value)
    with pytest.raises(MessageError):
        PairedCalls(0.3) + PairedCalls(0.5)


class TestReadings:
    def test_at_equal_sensitivity_false_positives_are_counted_by_hand(self) -> None:
        #                 positives             negatives
        labels = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0.0])
        scores = np.array([0.9, 0.8, 0.7, 0.1, 0.75, 0.4, 0.3, 0.2, 0.1, 0.05])
        called = np.array([1, 1, 1, 0, 1, 1, 1, 0, 0, 0], bool)
        # The reader finds three of four; so does the model from 0.7 on, with one false positive (0.75) instead of three.
        found = avoided_at_equal_sensitivity(scores, called, labels, seed=0)
        assert (found.weight, found.total) == (10.0, 2.0)
        assert found.value == 0.2
        assert found.variance > 0

    def test_a_model_that_is_the_reader_avoids_nothing(self) -> None:
        _, second, labels = draw(200, seed=4)
        called = second > 0.6
        found = avoided_at_equal_sensitivity(called.astype(float), called, labels, seed=0)
        assert (found.value, found.variance) == (0.0, 0.0)

    def test_the_bootstrap_interval_covers(self) -> None:
        """Binormal model against a reader of known sensitivity and specificity."""
        rng = np.random.default_rng(0)
        truth = []
        hits = []
        for seed in range(150):
            labels = (np.arange(160) < 60).astype(float)
            scores, reading = rng.normal(size=160) + 1.5 * labels, rng.normal(size=160) + labels
            found = avoided_at_equal_sensitivity(scores, reading > 0.5, labels, seed=seed)
            truth.append(found.value)
            hits.append(found.estimate("bootstrap"))
        # Model: threshold at which the sensitivity is the reader's P(N(1,1) > .5); both specificities follow.
        normal = NormalDist()
        cut = 1.5 - normal.inv_cdf(1 - normal.cdf(-0.5))
        expected = (1 - normal.cdf(0.5) - (1 - normal.cdf(cut))) * 100 / 160
        assert np.mean(truth) == pytest.approx(expected, abs=0.02)
        assert np.mean([hit.low <= expected <= hit.high for hit in hits]) > 0.9

    def test_patients_without_a_reading_are_counted_and_left_out(self) -> None:
        first, second, labels = draw(60, seed=6)
        ratings = np.round(second * 4)
        ratings[:10] = np.nan
        found = read(first, labels, ratings, ratings >= 2, thresholds=(0.5,), own_auc=None, seed=0)
        assert (found.patients, found.without) == (50, 10)
        expected = roc_auc_score(labels[10:], first[10:]) - roc_auc_score(labels[10:], ratings[10:])
        assert found.auc.value == pytest.approx(expected)
        calls = found.calls[0]
        assert calls.positives.patients + calls.negatives.patients == 50
        nobody = read(first, labels, np.full(60, np.nan), np.zeros(60, bool), thresholds=(0.5,), own_auc=None, seed=0)
        assert (nobody.patients, nobody.auc, nobody.avoided.value) == (0, None, None)
        assert (found + nobody).patients == 50

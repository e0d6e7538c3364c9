"""Metrics against scikit-learn, statsmodels, brute force, and published known answers."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import brentq
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    roc_auc_score,
    roc_curve,
)
from sklearn.metrics import log_loss as sklearn_log_loss

from shared_model import metrics
from shared_model.protocol_evaluation import Evaluation
from shared_model.summaries import Performance, ScoreHistogram, ScoreSums, ThresholdCounts

# aSAH of the R package pROC (113 patients, data/aSAH.RData), as ranks: its tests/testthat/helper-deLongPlacementsCpp-expected.R
# gives each patient's placement, from which the order of cases and controls follows. AUC and DeLong depend on nothing else.
ASAH = {
    "ndka": (
        "39 25 29 37 3 9 19 45 49 45 45 15 33 41 5 7 31 1 53 41 17 19 23 31 43 27 41 7 51 35 3 13 41 3 11 45 21 33 47 19 37",
        "0 8 6 18 4 35 4 40 30 40 38 48 10 4 24 4 4 52 26 14 14 40 2 6 4 13 28 6 34 46 6 4 24 10 6 28 44 42 "
        "16 22 50 4 38 14 18 18 34 2 38 24 10 18 40 18 22 6 14 18 44 8 24 27 46 20 24 10 44 16 32 42 4 30",
    ),
    "wfns": (
        "5 3 7 9 9 9 9 3 9 3 1 3 9 7 7 3 9 9 9 3 9 3 9 3 7 9 7 7 1 7 7 3 3 9 9 3 3 9 9 9 9",
        "1 1 1 1 9 1 3 3 1 3 3 1 1 1 3 1 3 1 1 5 7 1 7 1 9 9 1 1 3 7 1 1 3 3 1 3 1 3 3 1 1 1 1 3 1 3 1 1 5 3 "
        "7 3 1 7 1 1 9 7 3 3 1 1 1 5 1 3 3 7 7 1 1 1",
    ),
    "s100b": (
        "15 9 19 13 35 41 39 3 29 7 3 33 31 37 41 23 41 41 41 3 41 25 1 7 21 41 23 41 5 23 15 9 11 21 41 17 41 27 41 41 35",
        "15 17 9 2 36 20 9 9 2 5 2 7 11 3 20 3 11 15 20 2 19 17 30 7 40 36 19 3 34 36 11 5 7 5 2 15 9 17 18 2 "
        "2 7 2 7 5 19 7 5 29 11 24 3 9 27 3 2 22 32 9 18 5 17 9 3 2 20 18 36 20 18 40 37",
    ),
}


def asah(marker: str) -> tuple[np.ndarray, np.ndarray]:
    cases, controls = (np.array([float(rank) for rank in text.split()]) for text in ASAH[marker])
    return np.concatenate([cases, controls]), np.repeat([1.0, 0.0], [cases.size, controls.size])


def draw(n: int, *, seed: int = 0, steps: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores that carry some signal; with ``steps`` they are rounded, so that many are tied."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(float)
    scores = 1.0 / (1.0 + np.exp(-(rng.normal(size=n) + 1.2 * labels - 0.8)))
    return (np.round(scores * steps) / steps if steps else scores), labels


@st.composite
def patients(draw_from: st.DrawFn, *, minimum: int = 0) -> tuple[np.ndarray, np.ndarray]:
    n = draw_from(st.integers(minimum, 40))
    score = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0.0, 1.0))
    return draw_from(arrays(float, n, elements=score)), draw_from(arrays(float, n, elements=st.sampled_from([0.0, 1.0])))


def brute_force_delong(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    cases, controls = scores[labels == 1], scores[labels == 0]
    wins = (cases[:, None] > controls) + 0.5 * (cases[:, None] == controls)
    return wins.mean(), wins.mean(1).var(ddof=1) / cases.size + wins.mean(0).var(ddof=1) / controls.size


class TestAuc:
    @pytest.mark.parametrize(
        ("marker", "auc", "variance"),
        [
            ("wfns", 0.8236788618, 0.00146991470882363),
            ("s100b", 0.7313685637, 0.00266868245717244),
            ("ndka", 0.6119579946, 0.0031908105493913),
        ],
    )
    def test_is_that_of_proc(self, marker, auc, variance):
        scores, labels = asah(marker)
        assert metrics.auc(scores, labels) == pytest.approx(auc, abs=1e-10)
        assert metrics.delong_variance(scores, labels) == pytest.approx(variance, abs=1e-15)

    def test_interval_holds_procs_on_the_logit_scale(self):
        # pROC gives the plain interval .501244999271703-.722670989888189; its half width is z times the standard error.
        estimate = metrics.auc_interval(*asah("ndka"))
        half = (0.722670989888189 - 0.501244999271703) / 2
        logit = np.log(estimate.value / (1 - estimate.value))
        expected = 1 / (1 + np.exp(-(logit + np.array([-1, 1]) * half / (estimate.value * (1 - estimate.value)))))
        assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), abs=1e-9)

    @pytest.mark.parametrize("steps", [0, 3, 20])
    def test_is_that_of_scikit_learn_and_of_brute_force(self, steps):
        scores, labels = draw(150, seed=3, steps=steps)
        value, variance = brute_force_delong(scores, labels)
        assert metrics.auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert metrics.auc(scores, labels) == pytest.approx(value, abs=1e-12)
        assert metrics.delong_variance(scores, labels) == pytest.approx(variance, abs=1e-12)

    @given(patients(minimum=1))
    def test_interval_holds_the_value_and_stays_in_range(self, both):
        scores, labels = both
        estimate = metrics.auc_interval(scores, labels)
        if min(np.sum(labels == 0), np.sum(labels == 1)) < 2:
            assert estimate is None
        else:
            assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 1.0
            assert estimate.low < estimate.high

    @pytest.mark.parametrize(("cases", "controls"), [(2, 2), (3, 40), (60, 60)])
    def test_perfect_ranking_is_not_certain(self, cases, controls):
        scores = np.concatenate([np.full(cases, 0.9), np.full(controls, 0.1)])
        labels = np.repeat([1.0, 0.0], [cases, controls])
        estimate = metrics.auc_interval(scores, labels)
        assert (estimate.value, estimate.high, estimate.method) == (1.0, 1.0, "Newcombe score")

        def excess(auc: float) -> float:  # Newcombe's method 5 in the form of the R package AUCCI
            n = (cases + controls) / 2
            variance = auc * (1 - auc) / (cases * controls) * ((2 * n - 1) - (3 * n - 3) / ((2 - auc) * (auc + 1)))
            return auc + metrics.Z * np.sqrt(variance) - 1.0

        assert estimate.low == pytest.approx(brentq(excess, 1e-6, 1 - 1e-6), abs=1e-6)
        mirrored = metrics.auc_interval(1.0 - scores, labels)
        assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx((0.0, 0.0, 1.0 - estimate.low))

    def test_of_scores_all_alike_is_half_and_uncertain(self):
        estimate = metrics.auc_interval(np.full(20, 0.3), np.repeat([0.0, 1.0], 10))
        assert estimate.value == 0.5
        assert estimate.low < 0.35
        assert estimate.high > 0.65

    @pytest.mark.parametrize("labels", [[], [1.0], [0.0, 0.0, 0.0], [1.0, 1.0]])
    def test_of_one_class_is_not_estimable(self, labels):
        labels = np.array(labels)
        scores = np.linspace(0.1, 0.9, labels.size)
        assert metrics.auc(scores, labels) is None
        assert metrics.delong_variance(scores, labels) is None
        assert metrics.auc_interval(scores, labels) is None

    def test_of_one_event_has_a_value_but_no_interval(self):
        scores, labels = np.array([0.2, 0.4, 0.9]), np.array([0.0, 1.0, 0.0])
        assert metrics.auc(scores, labels) == 0.5
        assert metrics.delong_variance(scores, labels) is None
        assert metrics.auc_interval(scores, labels) is None


class TestHistogramAuc:
    @given(patients(), st.sampled_from([10, 20, 200]))
    def test_bound_holds(self, both, bins):
        scores, labels = both
        binned = metrics.histogram_auc(ScoreHistogram.of(scores, labels, bins=bins))
        exact = metrics.auc(scores, labels)
        if exact is None:
            assert binned is None
        else:
            assert abs(binned[0] - exact) <= binned[1] + 1e-12

    def test_gains_from_finer_bins(self):
        scores, labels = draw(900, seed=5)
        histograms = [ScoreHistogram.of(scores, labels, bins=bins) for bins in (20, 100, 2000)]
        bounds = [metrics.histogram_auc(histogram)[1] for histogram in histograms]
        assert bounds[0] > 3 * bounds[1] > 3 * bounds[2] > 0

    def test_interval_holds_the_exact_one(self):
        scores, labels = draw(400, seed=1)
        exact = metrics.auc_interval(scores, labels)
        binned = metrics.histogram_auc_interval(ScoreHistogram.of(scores, labels, bins=200))
        assert binned.low <= exact.low + 1e-4
        assert binned.high >= exact.high - 1e-4
        assert binned.high - binned.low < exact.high - exact.low + 0.02

    def test_says_nothing_if_all_scores_share_a_bin(self):
        histogram = ScoreHistogram.of(np.linspace(0.001, 0.004, 40), np.repeat([0.0, 1.0], 20), bins=200)
        assert metrics.histogram_auc(histogram) == (0.5, 0.5)
        estimate = metrics.histogram_auc_interval(histogram)
        assert (estimate.low, estimate.high) == (0.0, 1.0)

    @pytest.mark.parametrize(
        "histogram", [ScoreHistogram.zero(10), ScoreHistogram.zero(0), ScoreHistogram(2, (0, 1), (1, 2), (1, 2), (0, 0))]
    )
    def test_of_one_class_is_not_estimable(self, histogram):
        assert metrics.histogram_auc(histogram) is None
        assert metrics.histogram_auc_interval(histogram) is None
        assert metrics.histogram_roc(histogram) is None

    def test_roc_is_that_of_scikit_learn_on_binned_scores(self):
        scores, labels = draw(200, seed=2)
        centres = (np.minimum((scores * 20).astype(int), 19) + 0.5) / 20
        false, true = metrics.histogram_roc(ScoreHistogram.of(scores, labels, bins=20))
        expected_false, expected_true, _ = roc_curve(labels, centres, drop_intermediate=False)
        assert false == pytest.approx(list(expected_false))
        assert true == pytest.approx(list(expected_true))


@pytest.mark.parametrize("steps", [0, 4])
def test_average_precision_is_that_of_scikit_learn(steps):
    scores, labels = draw(120, seed=7, steps=steps)
    assert metrics.average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


def test_average_precision_without_positives_is_not_estimable():
    assert metrics.average_precision(np.array([0.2, 0.3]), np.zeros(2)) is None
    assert metrics.average_precision(np.zeros(0), np.zeros(0)) is None


class TestThreshold:
    @pytest.mark.parametrize(
        ("successes", "n", "low", "high"),
        [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
    )
    def test_wilson_is_newcombes_table(self, successes, n, low, high):
        estimate = metrics.wilson(successes, n)
        assert (round(estimate.low, 4), round(estimate.high, 4)) == (low, high)

    @given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
    def test_wilson_is_that_of_statsmodels(self, pair):
        from statsmodels.stats.proportion import proportion_confint

        successes, n = pair
        estimate = metrics.wilson(successes, n)
        assert (estimate.low, estimate.high) == pytest.approx(proportion_confint(successes, n, method="wilson"), abs=1e-9)
        assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 1.0

    def test_rates_are_those_of_scikit_learns_confusion_matrix(self):
        scores, labels = draw(90, seed=11)
        counts = ThresholdCounts.of(scores, labels, threshold=0.4)
        (tn, fp), (fn, tp) = confusion_matrix(labels, scores >= 0.4)
        assert metrics.sensitivity(counts).value == tp / (tp + fn)
        assert metrics.specificity(counts).value == tn / (tn + fp)
        assert metrics.ppv(counts).value == tp / (tp + fp)
        assert metrics.npv(counts).value == tn / (tn + fn)
        assert metrics.accuracy(counts).value == (tp + tn) / 90
        assert metrics.net_benefit(counts) == pytest.approx(tp / 90 - fp / 90 * 0.4 / 0.6)
        everybody = ThresholdCounts.of(np.ones(90), labels, threshold=0.4)
        assert metrics.net_benefit_treat_all(counts) == pytest.approx(metrics.net_benefit(everybody))

    def test_net_benefit_is_that_of_dcurves(self):
        # R package dcurves, tests/testthat/test-dca.R with data-raw/dca.csv: 750 patients, 105 with cancer. From a predicted
        # probability (cancerpredmarker) of 0.25 on, 72 with and 72 without cancer are called positive.
        counts = ThresholdCounts(0.25, true_positive=72, false_positive=72, true_negative=573, false_negative=33)
        assert metrics.net_benefit(counts) == pytest.approx(0.064)
        assert metrics.net_benefit_treat_all(counts) == pytest.approx(-0.1466667, abs=5e-8)
        assert metrics.interventions_avoided(counts) == pytest.approx(63.2)

    @given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 40), st.integers(1, 40))
    def test_predictive_values_at_the_cohorts_own_prevalence_are_the_cohorts(self, tp, fp, tn, fn):
        counts = ThresholdCounts(0.5, tp, fp, tn, fn)
        ppv, npv = metrics.predictive_values_at(counts, prevalence=(tp + fn) / (tp + fp + tn + fn))
        assert ppv.value == pytest.approx(metrics.ppv(counts).value)
        assert npv.value == pytest.approx(metrics.npv(counts).value)
        assert 0.0 <= ppv.low <= ppv.value <= ppv.high <= 1.0

    def test_predictive_values_elsewhere_follow_bayes_and_cover(self):
        rng = np.random.default_rng(0)
        truth = 0.8 * 0.1 / (0.8 * 0.1 + 0.3 * 0.9)
        inside = 0
        for _ in range(400):
            tp, tn = rng.binomial(60, 0.8), rng.binomial(90, 0.7)
            counts = ThresholdCounts(0.5, int(tp), 90 - int(tn), int(tn), 60 - int(tp))
            ppv, _ = metrics.predictive_values_at(counts, prevalence=0.1)
            inside += ppv.low <= truth <= ppv.high
        assert 0.92 < inside / 400 < 0.98

    def test_predictive_values_of_one_class_or_a_call_nobody_gets_are_none(self):
        assert metrics.predictive_values_at(ThresholdCounts(0.5, 3, 0, 0, 2), prevalence=0.1) == (None, None)
        ppv, npv = metrics.predictive_values_at(ThresholdCounts(0.5, 0, 0, 5, 2), prevalence=0.1)
        assert ppv is None
        assert npv.value == pytest.approx(0.9)

    def test_thresholds_by_rule_that_do_not_exist(self):
        one_class = ScoreHistogram.of(np.array([0.2, 0.4]), np.zeros(2), bins=10)
        assert metrics.thresholds_by_rule(one_class, (0.9,)) == {}
        below_the_first_edge = ScoreHistogram.of(np.array([0.01, 0.9]), np.array([1.0, 0.0]), bins=10)
        assert metrics.threshold_of_sensitivity(below_the_first_edge, 0.9) is None
        assert metrics.threshold_of_youden(ScoreHistogram.zero(10)) is None

    def test_of_a_score_on_the_threshold_is_positive(self):
        assert ThresholdCounts.of(np.array([0.5]), np.array([1.0]), threshold=0.5).true_positive == 1

    def test_of_nobody_is_not_estimable(self):
        nobody = ThresholdCounts(0.5)
        rates = [metrics.sensitivity, metrics.specificity, metrics.ppv, metrics.npv, metrics.accuracy]
        assert [rate(nobody) for rate in rates] == [None] * 5
        assert metrics.net_benefit(nobody) is None
        assert metrics.net_benefit_treat_all(nobody) is None


class TestSums:
    def test_scores_are_those_of_scikit_learn(self):
        scores, labels = draw(80, seed=4)
        sums = ScoreSums.of(scores, labels)
        assert metrics.brier(sums) == pytest.approx(brier_score_loss(labels, scores))
        assert metrics.log_loss(sums) == pytest.approx(sklearn_log_loss(labels, scores))

    def test_scaled_brier_of_the_prevalence_is_zero(self):
        labels = np.array([1.0, 0.0, 0.0, 0.0])
        assert metrics.scaled_brier(ScoreSums.of(np.full(4, 0.25), labels)) == pytest.approx(0.0)
        assert metrics.scaled_brier(ScoreSums.of(labels, labels)) == 1.0

    def test_observed_over_expected(self):
        ratio = metrics.oe_ratio(ScoreSums.of(np.full(100, 0.2), np.repeat([1.0, 0.0], [30, 70])))
        wilson = metrics.wilson(30, 100)
        assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.5, wilson.low / 0.2, wilson.high / 0.2))

    def test_of_one_class_or_nobody(self):
        one_class = ScoreSums.of(np.array([0.2, 0.3]), np.zeros(2))
        assert metrics.brier(one_class) == pytest.approx(0.065)
        assert metrics.scaled_brier(one_class) is None
        assert metrics.oe_ratio(one_class).value == 0.0
        assert metrics.oe_ratio(ScoreSums.of(np.zeros(3), np.zeros(3))) is None
        nobody = ScoreSums()
        assert [f(nobody) for f in (metrics.brier, metrics.scaled_brier, metrics.log_loss, metrics.oe_ratio)] == [None] * 4


class TestCalibration:
    def fit(self, scores: np.ndarray, labels: np.ndarray, *, offset: bool):
        import statsmodels.api as sm

        logit = np.log(scores / (1 - scores))
        design = np.ones((labels.size, 1)) if offset else sm.add_constant(logit)
        return sm.GLM(labels, design, family=sm.families.Binomial(), offset=logit if offset else None).fit(tol=1e-12)

    @pytest.mark.parametrize(("n", "seed"), [(40, 0), (300, 1), (5000, 2)])
    def test_is_that_of_statsmodels(self, n, seed):
        scores, labels = draw(n, seed=seed)
        scores = scores**2  # badly calibrated
        joint = self.fit(scores, labels, offset=False)
        for estimate, value, interval in zip(
            metrics.recalibration(scores, labels), joint.params, joint.conf_int(), strict=True
        ):
            assert (estimate.value, estimate.low, estimate.high) == pytest.approx((value, *interval), abs=1e-5)
        assert metrics.calibration_slope(scores, labels) == metrics.recalibration(scores, labels)[1]
        large = self.fit(scores, labels, offset=True)
        estimate = metrics.calibration_in_the_large(scores, labels)
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((large.params[0], *large.conf_int()[0]), abs=1e-5)

    @pytest.mark.parametrize(
        ("scores", "labels"),
        [
            ([], []),
            ([0.4], [1]),
            ([0.2, 0.6, 0.7], [0, 0, 0]),
            ([0.2, 0.3, 0.7, 0.8], [0, 0, 1, 1]),
            ([0.2, 0.3, 0.7, 0.8], [1, 1, 0, 0]),
            ([0.2, 0.5, 0.5, 0.8], [0, 0, 1, 1]),
            ([0.3, 0.3, 0.3], [0, 1, 0]),
            ([0.0, 0.0, 1.0], [0, 0, 1]),
        ],
        ids=["nobody", "one", "one class", "separated", "separated backwards", "touching", "constant", "saturated"],
    )
    def test_slope_that_does_not_exist(self, scores, labels):
        assert metrics.calibration_slope(np.array(scores, float), np.array(labels, float)) is None

    def test_of_saturated_scores_is_finite(self):
        estimate = metrics.calibration_in_the_large(np.zeros(50), np.repeat([0.0, 1.0], [40, 10]))
        assert np.isfinite([estimate.value, estimate.low, estimate.high]).all()
        assert metrics.calibration_in_the_large(np.full(5, 0.5), np.zeros(5)) is None

    @given(patients())
    def test_never_fails(self, both):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            estimates = [metrics.calibration_in_the_large(*both), *(metrics.recalibration(*both) or ())]
        assert all(np.isfinite([e.value, e.low, e.high]).all() for e in estimates if e is not None)


class TestPool:
    evaluation = Evaluation(thresholds=(0.3, 0.5), histogram_bins=50)

    def performance(self, scores: np.ndarray, labels: np.ndarray) -> Performance:
        return Performance(
            ScoreHistogram.of(scores, labels, bins=50),
            ScoreSums.of(scores, labels),
            tuple(ThresholdCounts.of(scores, labels, threshold=threshold) for threshold in (0.3, 0.5)),
            auc=metrics.auc_interval(scores, labels),
        )

    @given(st.lists(patients(), min_size=1, max_size=5), st.data())
    def test_any_grouping_of_sites_pools_to_all_patients_together(self, sites, data):
        together = self.performance(*(np.concatenate(part) for part in zip(*sites, strict=True)))
        cut = data.draw(st.integers(0, len(sites)))
        performances = data.draw(st.permutations([self.performance(*site) for site in sites]))
        groups = [metrics.pool(group) for group in (performances[:cut], performances[cut:]) if group]
        pooled = metrics.pool(groups)
        assert pooled.histogram == together.histogram
        assert pooled.thresholds == together.thresholds
        assert (pooled.sums.count, pooled.sums.positives) == (together.sums.count, together.sums.positives)
        assert pooled.sums.log_loss == pytest.approx(together.sums.log_loss)
        assert pooled.sums.squared_error == pytest.approx(together.sums.squared_error)
        assert pooled.auc is None

    def test_of_no_site_is_nobody(self):
        nobody = metrics.pool([])
        assert nobody.sums.count == 0
        for kind in ("auc", "log_loss", "brier"):
            assert metrics.selection_score(kind, nobody) is None

    def test_is_not_the_mean_of_site_aucs(self):
        low, high = draw(60, seed=1), draw(60, seed=2)
        shifted = (0.5 + 0.5 * high[0], high[1])
        pooled = metrics.pool([self.performance(0.5 * low[0], low[1]), self.performance(*shifted)])
        exact = roc_auc_score(np.concatenate([low[1], shifted[1]]), np.concatenate([0.5 * low[0], shifted[0]]))
        value, bound = metrics.histogram_auc(pooled.histogram)
        assert abs(value - exact) <= bound

    def test_selection_prefers_the_better_model(self):
        scores, labels = draw(200, seed=9)
        good, bad = self.performance(scores, labels), self.performance(1.0 - scores, labels)
        for kind in ("auc", "log_loss", "brier"):
            assert metrics.selection_score(kind, good) > metrics.selection_score(kind, bad)

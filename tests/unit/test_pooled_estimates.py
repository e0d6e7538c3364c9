"""Pooling: any grouping of sites says the same, and what bins hide is within the bound that is stated with it."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score

from server.results import curves, threshold_rows
from shared_model import metrics
from shared_model.counts import ScoreSums, ThresholdCounts
from shared_model.histogram import ScoreHistogram
from shared_model.metrics import pooled_estimates
from shared_model.summaries import Performance

BINS = 20


@st.composite
def patients(draw: st.DrawFn, *, minimum: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels: of nobody, of one, of one class, constant, tied, on edges of bins, or none of these."""
    n = draw(st.integers(minimum, 30))
    edges = st.integers(0, BINS).map(lambda k: k / BINS)
    score = draw(st.sampled_from([st.floats(0.0, 1.0), edges, st.just(0.3), st.sampled_from([0.0, 1.0])]))
    label = draw(st.sampled_from([st.sampled_from([0.0, 1.0]), st.just(1.0), st.just(0.0)]))
    return draw(arrays(float, n, elements=score)), draw(arrays(float, n, elements=label))


@st.composite
def sites(draw: st.DrawFn) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """One to four sites: scores, labels, and how small a cell the site lets go."""
    return [(*draw(patients()), draw(st.sampled_from([1, 3, 5, 10]))) for _ in range(draw(st.integers(1, 4)))]


def performance(scores: np.ndarray, labels: np.ndarray, minimum_cell: int) -> Performance:
    histogram = ScoreHistogram.of(scores, labels, bins=BINS)
    return Performance(
        histogram.coarsened(minimum_cell) if minimum_cell > 1 else histogram,
        ScoreSums.of(scores, labels),
        tuple(ThresholdCounts.of(scores, labels, threshold=threshold) for threshold in (0.3, 0.5)),
    )


def together(found: list[tuple[np.ndarray, np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([scores for scores, _, _ in found]), np.concatenate([labels for _, labels, _ in found])


class TestMerging:
    @given(patients(), st.integers(1, 12))
    def test_no_cell_is_small_and_nobody_is_lost(self, both, minimum):
        histogram = ScoreHistogram.of(*both, bins=BINS)
        merged = histogram.coarsened(minimum)
        assert merged.well_formed
        for before, after in ((histogram.negatives, merged.negatives), (histogram.positives, merged.positives)):
            assert sum(after) == sum(before)
            assert all(count == 0 or count >= min(minimum, sum(before)) for count in after)

    @given(patients(), st.integers(1, 12))
    def test_of_what_was_merged_is_the_same(self, both, minimum):
        merged = ScoreHistogram.of(*both, bins=BINS).coarsened(minimum)
        assert merged.coarsened(minimum) == merged

    def test_ends_are_rounded_outwards_and_tell_nobodys_score(self):
        scores, labels = np.linspace(0.117, 0.633, 40), np.zeros(40)
        merged = ScoreHistogram.of(scores, labels, bins=200).coarsened(5)
        assert (merged.starts[0], merged.stops[-1]) == (20, 130)
        assert all(before <= after for before, after in pairwise([x for cell in merged.cells for x in cell[:2]]))

    def test_of_merged_bins_nobody_knows_the_fine_ones(self):
        merged = ScoreHistogram.of(np.linspace(0, 1, 30), np.zeros(30), bins=BINS).coarsened(5)
        with pytest.raises(metrics_error(), match="told apart"):
            _ = merged.by_bin


def metrics_error() -> type[Exception]:
    from shared_model.errors import MessageError

    return MessageError


class TestAnyGrouping:
    @given(sites(), st.data())
    @settings(deadline=None, max_examples=30)
    def test_says_the_same(self, found, data):
        performances = [performance(*site) for site in found]
        shuffled = data.draw(st.permutations(performances))
        cut = data.draw(st.integers(0, len(shuffled)))
        groups = [metrics.pool(group) for group in (shuffled[:cut], shuffled[cut:]) if group]
        one, other = metrics.pool(performances), metrics.pool(groups)
        assert one.histogram == other.histogram
        assert one.thresholds == other.thresholds
        estimates = [pooled_estimates.estimates(pooled, replicates=200) for pooled in (one, other)]
        assert estimates[0].keys() == estimates[1].keys()
        for name, bounded in estimates[0].items():
            assert bounded.estimate.value == pytest.approx(estimates[1][name].estimate.value, abs=1e-9)
            assert bounded.bound == pytest.approx(estimates[1][name].bound, abs=1e-9)


class TestBounds:
    """Against the raw scores of all patients together."""

    @given(sites())
    @settings(deadline=None)
    def test_of_auc_and_average_precision(self, found):
        scores, labels = together(found)
        histogram = metrics.pool([performance(*site) for site in found]).histogram
        for exact, binned in (
            (metrics.auc(scores, labels), metrics.histogram_auc(histogram)),
            (metrics.average_precision(scores, labels), metrics.histogram_average_precision(histogram)),
        ):
            assert (exact is None) == (binned is None)
            if exact is not None:
                assert abs(binned[0] - exact) <= binned[1] + 1e-9

    @given(sites())
    @settings(deadline=None)
    def test_of_the_calibration_intercept(self, found):
        scores, labels = together(found)
        exact = metrics.calibration_in_the_large(scores, labels)
        binned = metrics.histogram_calibration_in_the_large(metrics.pool([performance(*site) for site in found]).histogram)
        assert exact is None or binned is None or abs(binned.estimate.value - exact.value) <= binned.bound + 1e-6

    @given(sites())
    @settings(deadline=None)
    def test_of_the_calibration_slope(self, found):
        scores, labels = together(found)
        exact = metrics.calibration_slope(scores, labels)
        binned = metrics.histogram_calibration_slope(metrics.pool([performance(*site) for site in found]).histogram)
        assert exact is None or binned is None or abs(binned.estimate.value - exact.value) <= binned.bound + 1e-6

    @given(sites(), st.floats(0.01, 0.99))
    def test_of_counts_at_any_threshold(self, found, threshold):
        scores, labels = together(found)
        histogram = metrics.pool([performance(*site) for site in found]).histogram
        exact = ThresholdCounts.of(scores, labels, threshold=threshold)
        _, worst, best = threshold_rows.counted(histogram, threshold)
        assert worst.true_positive <= exact.true_positive <= best.true_positive
        assert best.false_positive <= exact.false_positive <= worst.false_positive

    @given(sites())
    @settings(deadline=None)
    def test_of_net_benefit(self, found):
        scores, labels = together(found)
        curve = curves.decision(metrics.pool([performance(*site) for site in found]).histogram)
        if not labels.size:
            assert curve is None
            return
        for threshold, value, bound in zip(curve["threshold"], curve["model"], curve["error_bound"], strict=True):
            exact = metrics.net_benefit(ThresholdCounts.of(scores, labels, threshold=threshold))
            assert abs(value - exact) <= bound + 1e-9

    @pytest.mark.parametrize(("bins", "slope", "intercept"), [(100, 0.15, 0.03), (200, 0.08, 0.02), (1000, 0.02, 0.004)])
    def test_are_useful_where_bins_are_fine(self, bins, slope, intercept):
        scores, labels = spread(2000)
        histogram = ScoreHistogram.of(scores, labels, bins=bins)
        assert metrics.histogram_calibration_slope(histogram).bound < slope
        assert metrics.histogram_calibration_in_the_large(histogram).bound < intercept


def spread(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(float)
    return 1 / (1 + np.exp(-(rng.normal(size=n) + 1.2 * labels - 1.3))), labels


class TestPooledEstimates:
    def test_are_those_of_all_patients_together(self):
        found = [(*spread(n, seed), 1) for seed, n in enumerate((120, 60, 300))]
        scores, labels = together(found)
        performances = [Performance(ScoreHistogram.of(s, y, bins=1000), ScoreSums.of(s, y), ()) for s, y, _ in found]
        estimates = pooled_estimates.estimates(metrics.pool(performances), replicates=500)
        assert estimates["brier"].estimate.value == pytest.approx(np.mean((scores - labels) ** 2))
        assert estimates["brier"].bound == 0.0
        for name, exact in (
            ("auc", metrics.auc_interval(scores, labels)),
            ("calibration_slope", metrics.calibration_slope(scores, labels)),
            ("calibration_intercept", metrics.calibration_in_the_large(scores, labels)),
        ):
            bounded = estimates[name]
            assert abs(bounded.estimate.value - exact.value) <= bounded.bound
            assert bounded.estimate.low == pytest.approx(exact.low - bounded.bound, abs=0.01)
            assert bounded.estimate.high == pytest.approx(exact.high + bounded.bound, abs=0.01)
        assert estimates["average_precision"].estimate.value == pytest.approx(average_precision_score(labels, scores), abs=0.01)
        assert estimates["ici"].estimate.value == pytest.approx(metrics.smoothed(scores, labels).errors[0], abs=0.005)

    def test_of_one_class_say_what_can_be_said(self):
        scores = np.array([0.1, 0.4, 0.3])
        estimates = pooled_estimates.estimates(performance(scores, np.zeros(3), 1), replicates=200)
        assert set(estimates) == {"brier", "log_loss", "oe_ratio"}
        assert estimates["brier"].estimate.low is None

    def test_of_nobody_are_nothing(self):
        assert pooled_estimates.estimates(metrics.pool([]), replicates=200) == {}


class TestCurves:
    @given(sites())
    def test_of_roc_run_from_corner_to_corner(self, found):
        curve = metrics.histogram_roc(metrics.pool([performance(*site) for site in found]).histogram)
        if curve is not None:
            for rates in curve:
                assert rates[0] == 0.0
                assert rates[-1] == pytest.approx(1.0)
                assert all(a <= b + 1e-12 for a, b in pairwise(rates))

    @given(sites())
    def test_of_risk_hold_everybody(self, found):
        _, labels = together(found)
        risk = curves.risk_distribution(metrics.pool([performance(*site) for site in found]).histogram)
        if labels.size:
            assert sum(risk["positives"]) == pytest.approx(labels.sum(), abs=0.2)
            assert sum(risk["negatives"]) == pytest.approx(labels.size - labels.sum(), abs=0.2)
        else:
            assert risk is None

    def test_calibration_of_groups_is_within_its_bound(self):
        scores, labels = spread(500)
        curve = curves.binned(ScoreHistogram.of(scores, labels, bins=200))
        order = np.argsort(scores)
        begin = 0
        for number, patients_ in enumerate(curve["patients"]):
            members = order[begin : begin + patients_]
            begin += patients_
            assert abs(scores[members].mean() - curve["predicted"][number]) <= curve["error_bound"][number]
            assert curve["observed"][number] == pytest.approx(labels[members].mean(), abs=0.05)
        assert begin == 500


class TestAucOfMergedBins:
    def test_spreads_patients_evenly(self):
        # A positive in bins 0 to 3, a negative in bin 1: above it with (1 - 0.5 * 1 + 2) / 4, by areas.
        histogram = ScoreHistogram(4, (0, 1), (4, 2), (0, 1), (1, 0))
        value, bound = metrics.histogram_auc(histogram)
        assert value == pytest.approx(2.5 / 4)
        assert bound == pytest.approx(2.5 / 4)  # the pair may be in no order at all

    def test_of_small_sites_is_nearer_than_half_credit_would_be(self):
        sites = [spread(40, seed) for seed in range(5)]
        scores, labels = together([(*site, 5) for site in sites])
        pooled = metrics.pool(
            [Performance(ScoreHistogram.of(*site, bins=200).coarsened(5), ScoreSums.of(*site), ()) for site in sites]
        )
        exact = metrics.auc(scores, labels)
        value, bound = metrics.histogram_auc(pooled.histogram)
        cells = pooled.histogram.cells
        pairs = [
            (p * n, 1.0 if start >= other_stop else 0.0 if stop <= other_start else 0.5)
            for start, stop, _, p in cells
            for other_start, other_stop, n, _ in cells
        ]
        half = sum(weight * credit for weight, credit in pairs) / sum(weight for weight, _ in pairs)
        assert abs(value - exact) < 0.5 * abs(half - exact)
        assert abs(value - exact) < bound < 0.4

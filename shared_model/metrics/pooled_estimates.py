"""Every metric of patients of several sites together, from their histogram and sums, with what the bins can hide.

Intervals that no formula gives are bootstrapped on the histogram, moved to the exact value where sums give one.
"""

import numpy as np

from shared_model.histogram import ScoreHistogram
from shared_model.metrics import calibration, discrimination, overall
from shared_model.metrics.bootstrap import Replicates, bootstrap_counts
from shared_model.metrics.scale import Bounded, Floats
from shared_model.metrics.smoothing import FEWEST
from shared_model.record import Estimate
from shared_model.summaries import Performance

SEED = 0  # of the replicates: the center's own, so that results of one run never change


def estimates(pooled: Performance, *, replicates: int) -> dict[str, Bounded]:
    """Metrics by name; one that cannot be estimated is left out."""
    histogram, sums = pooled.histogram, pooled.sums
    drawn = _replicates(histogram, replicates=replicates)
    found: dict[str, Bounded | None] = {
        "auc": _auc(histogram),
        "average_precision": _average_precision(histogram, drawn),
        "calibration_intercept": calibration.histogram_calibration_in_the_large(histogram),
        "calibration_slope": calibration.histogram_calibration_slope(histogram),
    }
    exact = {"brier": overall.brier(sums), "scaled_brier": overall.scaled_brier(sums), "log_loss": overall.log_loss(sums)}
    for name, value in exact.items():
        found[name] = None if value is None else Bounded(_moved(name, value, drawn), 0.0)
    ratio = overall.oe_ratio(sums)
    found["oe_ratio"] = None if ratio is None else Bounded(ratio, 0.0)
    return {name: bounded for name, bounded in {**found, **_smoothed(histogram, drawn)}.items() if bounded is not None}


def _replicates(histogram: ScoreHistogram, *, replicates: int) -> Replicates | None:
    negatives, positives = np.asarray(histogram.negatives, np.float64), np.asarray(histogram.positives, np.float64)
    if not negatives.sum() or not positives.sum():
        return None
    middle = 0.5 * (np.asarray(histogram.starts) + np.asarray(histogram.stops)) / histogram.bins
    return bootstrap_counts(*_at_values(middle, negatives, positives), replicates=replicates, seed=SEED)


def _at_values(middle: Floats, negatives: Floats, positives: Floats) -> tuple[Floats, Floats, Floats]:
    """Distinct middles of intervals, ascending, and the counts at each."""
    values, index = np.unique(middle, return_inverse=True)
    at_each = [np.asarray(np.bincount(index, weights=counts), np.float64) for counts in (negatives, positives)]
    return values, at_each[0], at_each[1]


def _auc(histogram: ScoreHistogram) -> Bounded | None:
    interval, binned = discrimination.histogram_auc_interval(histogram), discrimination.histogram_auc(histogram)
    return None if interval is None or binned is None else Bounded(interval, binned[1])


def _average_precision(histogram: ScoreHistogram, drawn: Replicates | None) -> Bounded | None:
    binned = discrimination.histogram_average_precision(histogram)
    if binned is None:
        return None
    inner = _moved("average_precision", binned[0], drawn)
    return Bounded.of(inner, binned[1], inner.method, lowest=0.0, highest=1.0)


def _moved(name: str, value: float, drawn: Replicates | None) -> Estimate:
    if drawn is None:
        return Estimate(value, None, None, "no interval of one outcome class")
    return drawn.interval(name, value, centre=drawn.sample[name])


def _smoothed(histogram: ScoreHistogram, drawn: Replicates | None) -> dict[str, Bounded]:
    """ICI, E50 and E90 of loess over the histogram; how far the bins put them off is not bounded."""
    if drawn is None or sum(histogram.negatives) + sum(histogram.positives) < FEWEST or len(set(histogram.starts)) < 2:
        return {}
    return {name: Bounded(drawn.interval(name, drawn.sample[name]), None) for name in ("ici", "e50", "e90")}

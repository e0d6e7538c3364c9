"""Discrimination: AUC after DeLong, ROC curve and average precision, of raw scores or of histograms with error bounds.

``scores`` are predicted probabilities, float ``[n]`` in 0..1, and ``labels`` ``[n]`` are 0 or 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import digamma

from shared_model.histogram import ScoreHistogram
from shared_model.metrics.scale import Bounded, Floats, Z, expit
from shared_model.record import Estimate

MINIMUM_PER_CLASS = 2  # DeLong's variance is of patients within each class; and one patient's rank is that patient's own


def auc(scores: Floats, labels: Floats) -> float | None:
    """Area under the ROC curve, ties counted half."""
    ranking = _of_scores(scores, labels)
    return ranking.auc if ranking.both_classes(at_least=1) else None


def delong_variance(scores: Floats, labels: Floats) -> float | None:
    """Variance of the AUC after DeLong et al. 1988; needs two patients of each class."""
    ranking = _of_scores(scores, labels)
    return ranking.variance if ranking.both_classes(at_least=MINIMUM_PER_CLASS) else None


def auc_interval(scores: Floats, labels: Floats) -> Estimate | None:
    """AUC with DeLong's interval on the logit scale; needs two patients of each class.

    Where DeLong's variance is zero (perfect ranking, or all scores alike) it would claim certainty. There the interval is
    Newcombe's score interval (2006, method 5), which assumes a variance from the class sizes and stays honest.
    """
    ranking = _of_scores(scores, labels)
    return ranking.interval("DeLong, logit") if ranking.both_classes(at_least=MINIMUM_PER_CLASS) else None


def average_precision(scores: Floats, labels: Floats) -> float | None:
    """Area under the precision-recall curve as a step function, as scikit-learn defines it; needs a positive."""
    if not np.any(labels == 1):
        return None
    negatives, positives = (counts[::-1] for counts in _by_value(scores, labels))
    true = np.cumsum(positives)
    return float(np.sum(positives * true / (true + np.cumsum(negatives))) / positives.sum())


# ---- of histograms


def histogram_auc(histogram: ScoreHistogram) -> tuple[float, float] | None:
    """AUC from binned scores, and a bound on its distance from the AUC of the raw scores.

    A pair of a positive and a negative whose intervals overlap is credited as if patients were spread evenly over their
    intervals, so half in a bin of the fine grid. The bound is from all such pairs being in order, or none: on the fine grid
    half their share.
    """
    ranking = _of_histogram(histogram)
    if not ranking.both_classes(at_least=1):
        return None
    return ranking.auc, ranking.bound


def histogram_auc_interval(histogram: ScoreHistogram) -> Estimate | None:
    """AUC from binned scores with DeLong's interval for the bins, widened on both sides by the bound of the binning."""
    ranking = _of_histogram(histogram)
    if not ranking.both_classes(at_least=MINIMUM_PER_CLASS):
        return None
    method = f"DeLong, logit, on {histogram.bins} bins, widened by the bound"
    inner = ranking.interval(method)
    return Bounded.of(inner, ranking.bound, inner.method, lowest=0.0, highest=1.0).estimate


def histogram_average_precision(histogram: ScoreHistogram) -> tuple[float, float] | None:
    """Average precision from binned scores, and a bound on its distance from that of the raw scores; needs a positive.

    The value is midway between the best case, positives of an interval tied above all negatives that may overlap it, and the
    worst, each positive alone below them.
    """
    negatives, positives = np.asarray(histogram.negatives, float), np.asarray(histogram.positives, float)
    total = positives.sum()
    if not total:
        return None
    above, overlapping = _counts_above(histogram)
    with np.errstate(invalid="ignore", divide="ignore"):
        most_true = above(positives) + overlapping(positives)
        best = most_true / (most_true + above(negatives))
        true, false = above(positives), above(negatives) + overlapping(negatives)
        # The sum over j = 1 .. p of (true + j) / (true + j + false), for the j-th positive of an interval.
        worst = positives - false * (digamma(true + positives + false + 1.0) - digamma(true + false + 1.0))
    filled = positives > 0
    high, low = float(np.sum((positives * best)[filled]) / total), float(np.sum(worst[filled]) / total)
    return 0.5 * (high + low), 0.5 * (high - low)


def histogram_roc(histogram: ScoreHistogram) -> tuple[list[float], list[float]] | None:
    """ROC curve from binned scores: false and true positive rates from (0, 0) to (1, 1), one point for each filled interval.

    Patients of an interval that reaches across a point are spread evenly over it.
    """
    if not sum(histogram.negatives) or not sum(histogram.positives):
        return None
    starts, stops = np.asarray(histogram.starts, float), np.asarray(histogram.stops, float)
    cuts = np.unique(starts)[::-1]
    share = np.clip((stops - cuts[:, None]) / (stops - starts), 0.0, 1.0)  # [cuts, intervals]
    false = share @ np.asarray(histogram.negatives, float) / sum(histogram.negatives)
    true = share @ np.asarray(histogram.positives, float) / sum(histogram.positives)
    curve = [0.0, *map(float, false)], [0.0, *map(float, true)]
    if min(curve[0][-1], curve[1][-1]) < 1.0:
        curve[0].append(1.0)
        curve[1].append(1.0)
    return curve


@dataclass(frozen=True)
class _Ranking:
    """Patients of each class at places of the score: distinct values, or intervals.

    Attributes:
        negatives, positives: patients at each place.
        below: for a positive at each place, the share of negatives ranked below it, ties half.
        above: for a negative at each place, the share of positives ranked above it, ties half.
        surely: share of (positive, negative) pairs that are in order wherever patients lie in their intervals.
        undecided: share of pairs whose order is unknown.
    """

    negatives: Floats
    positives: Floats
    below: Floats
    above: Floats
    surely: float = 0.0
    undecided: float = 0.0

    def both_classes(self, *, at_least: int) -> bool:
        return float(min(self.negatives.sum(), self.positives.sum())) >= at_least

    @property
    def auc(self) -> float:
        return float(np.sum(self.positives * self.below) / self.positives.sum())

    @property
    def bound(self) -> float:
        """How far the AUC can be from that of the raw scores."""
        return max(self.auc - self.surely, self.surely + self.undecided - self.auc)

    @property
    def variance(self) -> float:
        n_positive, n_negative = self.positives.sum(), self.negatives.sum()
        of_positives = np.sum(self.positives * np.square(self.below - self.auc)) / (n_positive - 1)
        of_negatives = np.sum(self.negatives * np.square(self.above - self.auc)) / (n_negative - 1)
        return float(of_positives / n_positive + of_negatives / n_negative)

    def interval(self, method: str) -> Estimate:
        value, variance = self.auc, self.variance
        if variance < 1e-12:
            low, high = _newcombe(value, float(self.positives.sum()), float(self.negatives.sum()))
            return Estimate(value, low, high, "Newcombe score")
        middle, half = np.log(value / (1.0 - value)), Z * np.sqrt(variance) / (value * (1.0 - value))
        return Estimate(value, float(expit(middle - half)), float(expit(middle + half)), method)


def _by_value(scores: Floats, labels: Floats) -> tuple[Floats, Floats]:
    """Negatives and positives at each distinct score, ascending."""
    values, index = np.unique(scores, return_inverse=True)
    negatives, positives = (np.bincount(index[labels == label], minlength=values.size) for label in (0, 1))
    return negatives.astype(np.float64), positives.astype(np.float64)


def _of_scores(scores: Floats, labels: Floats) -> _Ranking:
    negatives, positives = _by_value(scores, labels)
    below = (np.cumsum(negatives) - 0.5 * negatives) / max(negatives.sum(), 1.0)
    above = 1.0 - (np.cumsum(positives) - 0.5 * positives) / max(positives.sum(), 1.0)
    return _Ranking(negatives, positives, below, above)


def _of_histogram(histogram: ScoreHistogram) -> _Ranking:
    negatives, positives = np.asarray(histogram.negatives, np.float64), np.asarray(histogram.positives, np.float64)
    n_negative, n_positive = max(negatives.sum(), 1.0), max(positives.sum(), 1.0)
    above, overlapping = _counts_above(histogram)
    tied = overlapping(negatives)
    surely = float(np.sum(positives * (negatives.sum() - above(negatives) - tied)) / (n_positive * n_negative))
    undecided = float(np.sum(positives * tied) / (n_positive * n_negative))
    if histogram.merged:
        credit = _credit(np.asarray(histogram.starts, np.float64), np.asarray(histogram.stops, np.float64))
        below_positive, above_negative = credit @ negatives / n_negative, positives @ credit / n_positive
    else:
        below_positive = (n_negative - above(negatives) - 0.5 * tied) / n_negative
        above_negative = (above(positives) + 0.5 * overlapping(positives)) / n_positive
    return _Ranking(negatives, positives, below_positive, above_negative, surely, undecided)


def _credit(starts: Floats, stops: Floats) -> Floats:
    """Probability that a patient of interval ``i`` scores above one of interval ``j``, both spread evenly; ``[i, j]``."""

    def reached(at: Floats) -> Floats:
        """Integral up to ``at[i]`` of the distribution of a patient of interval ``j``."""
        inside = np.clip(at[:, None], starts, stops)
        return np.square(inside - starts) / (2.0 * (stops - starts)) + np.maximum(at[:, None] - stops, 0.0)

    return np.asarray((reached(stops) - reached(starts)) / (stops - starts)[:, None], np.float64)


Counter = Callable[[Floats], Floats]


def _counts_above(histogram: ScoreHistogram) -> tuple[Counter, Counter]:
    """Two functions of counts ``[intervals]``: for each interval, how many lie wholly above it, and how many may lie in it."""
    starts, stops = np.asarray(histogram.starts, np.int64), np.asarray(histogram.stops, np.int64)

    def from_bin(counts: Floats) -> Floats:
        """At index ``k``, how many have their interval begin at bin ``k`` or above."""
        held = np.bincount(starts, weights=counts, minlength=histogram.bins + 1)
        return np.asarray(np.cumsum(held[::-1])[::-1], np.float64)

    def up_to_bin(counts: Floats) -> Floats:
        """At index ``k``, how many have their interval end at bin ``k`` or below."""
        return np.asarray(np.cumsum(np.bincount(stops, weights=counts, minlength=histogram.bins + 1)), np.float64)

    def above(counts: Floats) -> Floats:
        return np.asarray(from_bin(counts)[stops], np.float64)

    def overlapping(counts: Floats) -> Floats:
        return np.asarray(counts.sum() - from_bin(counts)[stops] - up_to_bin(counts)[starts], np.float64)

    return above, overlapping


def _newcombe(value: float, n_positive: float, n_negative: float) -> tuple[float, float]:
    """The AUCs that a score test with Hanley and McNeil's variance does not reject; both class sizes enter as their mean."""
    extra = 0.5 * (n_positive + n_negative) - 1.0

    def rejects(auc: float) -> bool:
        spread = 1.0 + extra * ((1.0 - auc) / (2.0 - auc) + auc / (1.0 + auc))
        return (value - auc) ** 2 > Z**2 * auc * (1.0 - auc) * spread / (n_positive * n_negative)

    return _edge(rejects, inside=value, outside=0.0), _edge(rejects, inside=value, outside=1.0)


def _edge(rejects: Callable[[float], bool], *, inside: float, outside: float) -> float:
    for _ in range(60):
        middle = 0.5 * (inside + outside)
        inside, outside = (inside, middle) if rejects(middle) else (middle, outside)
    return inside

"""How well a model does: pure functions of scores, or of additive summaries, each checked against an independent oracle.

``scores`` are predicted probabilities, float ``[n]`` in 0..1, and ``labels`` ``[n]`` are 0 or 1. What cannot be estimated
(nobody, one outcome class, too few patients) is ``None``, never NaN and never an exception. Intervals are of 95 %.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared_model.summaries import (
    PROBABILITY_FLOOR,
    Estimate,
    Performance,
    ScoreHistogram,
    ScoreSums,
    ThresholdCounts,
)

Floats = NDArray[np.float64]
Z = NormalDist().inv_cdf(0.975)
MINIMUM_PER_CLASS = 2  # DeLong's variance is of patients within each class; and one patient's rank is that patient's own


# ---- discrimination: an exact ROC curve is a histogram with a bin for each distinct score


def auc(scores: Floats, labels: Floats) -> float | None:
    """Area under the ROC curve, ties counted half."""
    levels = _levels(scores, labels)
    return levels.auc if levels.both_classes(at_least=1) else None


def delong_variance(scores: Floats, labels: Floats) -> float | None:
    """Variance of the AUC after DeLong et al. 1988; needs two patients of each class."""
    levels = _levels(scores, labels)
    return levels.variance if levels.both_classes(at_least=MINIMUM_PER_CLASS) else None


def auc_interval(scores: Floats, labels: Floats) -> Estimate | None:
    """AUC with DeLong's interval on the logit scale; needs two patients of each class.

    Where DeLong's variance is zero (perfect ranking, or all scores alike) it would claim certainty. There the interval is
    Newcombe's score interval (2006, method 5), which assumes a variance from the class sizes and stays honest.
    """
    levels = _levels(scores, labels)
    return levels.interval("DeLong, logit") if levels.both_classes(at_least=MINIMUM_PER_CLASS) else None


def histogram_auc(histogram: ScoreHistogram) -> tuple[float, float] | None:
    """AUC from binned scores, half credit within a bin, and a bound on its distance from the AUC of the raw scores.

    The bound is half the share of (positive, negative) pairs that fall into one bin: whatever their order, no more is lost.
    """
    bins = _bins(histogram)
    if not bins.both_classes(at_least=1):
        return None
    together = float(np.sum(bins.positives * bins.negatives))
    return bins.auc, 0.5 * together / (bins.n_positive * bins.n_negative)


def histogram_auc_interval(histogram: ScoreHistogram) -> Estimate | None:
    """AUC from binned scores with DeLong's interval for the bins, widened on both sides by the bound of the binning."""
    bins = _bins(histogram)
    binned = histogram_auc(histogram)
    if binned is None or not bins.both_classes(at_least=MINIMUM_PER_CLASS):
        return None
    inner, bound = bins.interval(f"DeLong, logit, on {len(histogram.positives)} bins, widened by the bound"), binned[1]
    low, high = inner.low or 0.0, 1.0 if inner.high is None else inner.high
    return Estimate(inner.value, max(0.0, low - bound), min(1.0, high + bound), inner.method)


def histogram_roc(histogram: ScoreHistogram) -> tuple[list[float], list[float]] | None:
    """ROC curve from binned scores: false and true positive rates from (0, 0) to (1, 1), one point for each filled bin."""
    bins = _bins(histogram)
    if not bins.both_classes(at_least=1):
        return None
    filled = (bins.positives + bins.negatives > 0)[::-1]
    false = np.cumsum(bins.negatives[::-1])[filled] / bins.n_negative
    true = np.cumsum(bins.positives[::-1])[filled] / bins.n_positive
    return [0.0, *map(float, false)], [0.0, *map(float, true)]


def average_precision(scores: Floats, labels: Floats) -> float | None:
    """Area under the precision-recall curve as a step function, as scikit-learn defines it; needs a positive."""
    levels = _levels(scores, labels)
    if not levels.n_positive:
        return None
    positives = levels.positives[::-1]
    true = np.cumsum(positives)
    precision = true / (true + np.cumsum(levels.negatives[::-1]))
    return float(np.sum(positives * precision) / levels.n_positive)


@dataclass(frozen=True)
class _Ranked:
    """Patients of each class on ordered levels of the score (distinct values, or bins), each ``[levels]``."""

    negatives: Floats
    positives: Floats

    @property
    def n_negative(self) -> float:
        return float(self.negatives.sum())

    @property
    def n_positive(self) -> float:
        return float(self.positives.sum())

    def both_classes(self, *, at_least: int) -> bool:
        return min(self.n_negative, self.n_positive) >= at_least

    @property
    def below(self) -> Floats:
        """For a positive on each level, the share of negatives ranked below it."""
        return (np.cumsum(self.negatives) - 0.5 * self.negatives) / self.n_negative

    @property
    def above(self) -> Floats:
        """For a negative on each level, the share of positives ranked above it."""
        return 1.0 - (np.cumsum(self.positives) - 0.5 * self.positives) / self.n_positive

    @property
    def auc(self) -> float:
        return float(np.sum(self.positives * self.below) / self.n_positive)

    @property
    def variance(self) -> float:
        of_positives = np.sum(self.positives * np.square(self.below - self.auc)) / (self.n_positive - 1)
        of_negatives = np.sum(self.negatives * np.square(self.above - self.auc)) / (self.n_negative - 1)
        return float(of_positives / self.n_positive + of_negatives / self.n_negative)

    def interval(self, method: str) -> Estimate:
        value, variance = self.auc, self.variance
        if variance < 1e-12:
            low, high = _newcombe(value, self.n_positive, self.n_negative)
            return Estimate(value, low, high, "Newcombe score")
        middle, half = np.log(value / (1.0 - value)), Z * np.sqrt(variance) / (value * (1.0 - value))
        return Estimate(value, float(_expit(middle - half)), float(_expit(middle + half)), method)


def _levels(scores: Floats, labels: Floats) -> _Ranked:
    values, index = np.unique(scores, return_inverse=True)
    return _Ranked(
        np.bincount(index[labels == 0], minlength=values.size).astype(np.float64),
        np.bincount(index[labels == 1], minlength=values.size).astype(np.float64),
    )


def _bins(histogram: ScoreHistogram) -> _Ranked:
    return _Ranked(np.asarray(histogram.negatives, np.float64), np.asarray(histogram.positives, np.float64))


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


# ---- at a threshold


def wilson(successes: int, n: int) -> Estimate | None:
    """A proportion with Wilson's score interval."""
    if not n:
        return None
    share, weight = successes / n, 1.0 / (1.0 + Z**2 / n)
    middle = weight * (share + Z**2 / (2 * n))
    half = weight * Z * np.sqrt(share * (1.0 - share) / n + Z**2 / (4 * n**2))
    low, high = (0.0 if successes == 0 else float(middle - half)), (1.0 if successes == n else float(middle + half))
    return Estimate(share, low, high, "Wilson")


def sensitivity(counts: ThresholdCounts) -> Estimate | None:
    """Share of the positives called positive."""
    return wilson(counts.true_positive, counts.true_positive + counts.false_negative)


def specificity(counts: ThresholdCounts) -> Estimate | None:
    """Share of the negatives called negative."""
    return wilson(counts.true_negative, counts.true_negative + counts.false_positive)


def ppv(counts: ThresholdCounts) -> Estimate | None:
    """Positive predictive value: share of those called positive who are."""
    return wilson(counts.true_positive, counts.true_positive + counts.false_positive)


def npv(counts: ThresholdCounts) -> Estimate | None:
    """Negative predictive value: share of those called negative who are."""
    return wilson(counts.true_negative, counts.true_negative + counts.false_negative)


def accuracy(counts: ThresholdCounts) -> Estimate | None:
    """Share of patients called rightly."""
    return wilson(counts.true_positive + counts.true_negative, _patients(counts))


def net_benefit(counts: ThresholdCounts) -> float | None:
    """Net benefit a patient (Vickers and Elkin 2006): true positives less false ones at the threshold's odds."""
    odds = counts.threshold / (1.0 - counts.threshold)
    patients = _patients(counts)
    return (counts.true_positive - odds * counts.false_positive) / patients if patients else None


def net_benefit_treat_all(counts: ThresholdCounts) -> float | None:
    """Net benefit a patient of calling everybody positive, which a useful model exceeds (as it exceeds 0, nobody)."""
    odds = counts.threshold / (1.0 - counts.threshold)
    patients = _patients(counts)
    positives = counts.true_positive + counts.false_negative
    return (positives - odds * (patients - positives)) / patients if patients else None


def _patients(counts: ThresholdCounts) -> int:
    return counts.true_positive + counts.false_positive + counts.true_negative + counts.false_negative


# ---- overall and calibration


def brier(sums: ScoreSums) -> float | None:
    """Mean squared difference between probability and outcome; 0 is perfect."""
    return sums.squared_error / sums.count if sums.count else None


def scaled_brier(sums: ScoreSums) -> float | None:
    """One minus the Brier score over that of predicting the prevalence for everybody; 1 is perfect, 0 useless."""
    value = brier(sums)
    if value is None or not 0 < sums.positives < sums.count:
        return None
    prevalence = sums.positives / sums.count
    return 1.0 - value / (prevalence * (1.0 - prevalence))


def log_loss(sums: ScoreSums) -> float | None:
    """Mean negative log likelihood."""
    return sums.log_loss / sums.count if sums.count else None


def oe_ratio(sums: ScoreSums) -> Estimate | None:
    """Observed over expected events; above 1 the model predicts too few. Wilson's interval of the observed share, with the
    expected number taken as known."""
    observed = wilson(sums.positives, sums.count)
    if observed is None or observed.low is None or observed.high is None or sums.probability <= 0.0:
        return None
    expected = sums.probability / sums.count
    return Estimate(
        observed.value / expected, observed.low / expected, observed.high / expected, "Wilson of the observed share"
    )


def calibration_in_the_large(scores: Floats, labels: Floats) -> Estimate | None:
    """Calibration intercept: how far the log odds are off on average (slope held at 1); 0 is perfect, above 0 the model
    predicts too few events. Needs both classes."""
    if not 0 < np.sum(labels == 1) < labels.size:
        return None
    logit = _logit(scores)
    start = np.array([_logit(labels.mean()) - logit.mean()])
    fit = _logistic(np.ones((labels.size, 1)), labels, offset=logit, start=start)
    return None if fit is None else fit[0]


def calibration_slope(scores: Floats, labels: Floats) -> Estimate | None:
    """Slope of logistic recalibration: 1 is perfect, below 1 the predictions are too extreme. ``None`` where it does not
    exist: one class, scores all alike, or scores that separate the classes."""
    fit = recalibration(scores, labels)
    return None if fit is None else fit[1]


def recalibration(scores: Floats, labels: Floats) -> tuple[Estimate, Estimate] | None:
    """Intercept and slope of the outcome on the score's log odds, fitted together by maximum likelihood."""
    logit = _logit(scores)
    positives, negatives = logit[labels == 1], logit[labels == 0]
    if not positives.size or not negatives.size or np.ptp(logit) < 1e-6:
        return None
    # Albert and Anderson 1984: the maximum exists just if the classes overlap.
    if negatives.max() <= positives.min() or positives.max() <= negatives.min():
        return None
    design = np.column_stack([np.ones_like(logit), logit])
    fit = _logistic(design, labels, offset=np.zeros_like(logit), start=np.array([_logit(labels.mean()), 0.0]))
    return None if fit is None else (fit[0], fit[1])


def _logistic(design: Floats, labels: Floats, *, offset: Floats, start: Floats) -> list[Estimate] | None:
    """Newton's method with step halving; Wald intervals. ``None`` if it does not converge."""

    def loss(beta: Floats) -> float:
        linear = offset + design @ beta
        return float(np.sum(np.logaddexp(0.0, linear) - labels * linear))

    beta = start
    for _ in range(100):
        probability = _expit(offset + design @ beta)
        information = (design * (probability * (1.0 - probability))[:, None]).T @ design
        try:
            covariance = np.linalg.inv(information)
        except np.linalg.LinAlgError:
            return None
        step = covariance @ (design.T @ (labels - probability))
        if np.max(np.abs(step)) < 1e-9 * (1.0 + np.max(np.abs(beta))):
            halves = Z * np.sqrt(np.diag(covariance))
            return [Estimate(float(b), float(b - h), float(b + h), "Wald") for b, h in zip(beta, halves, strict=True)]
        while loss(beta + step) > loss(beta) + 1e-12 * labels.size and np.max(np.abs(step)) > 1e-12:
            step = 0.5 * step
        beta = beta + step
    return None


def _logit(probability: Floats) -> Floats:
    held = np.clip(probability, PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
    return np.asarray(np.log(held) - np.log1p(-held), dtype=np.float64)


def _expit(logit: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logit)), dtype=np.float64)


# ---- over sites


def pool(performances: Iterable[Performance]) -> Performance:
    """The patients of several sites together. Only what adds up is pooled; a site's own exact numbers are ``None``.

    Of no site at all it is the performance of nobody, without bins or thresholds.
    """
    groups = list(performances)
    if not groups:
        return Performance(ScoreHistogram((), ()), ScoreSums(), ())
    return Performance(
        histogram=reduce(lambda a, b: a + b, [group.histogram for group in groups]),
        sums=reduce(lambda a, b: a + b, [group.sums for group in groups]),
        thresholds=tuple(
            reduce(lambda a, b: a + b, counts) for counts in zip(*(group.thresholds for group in groups), strict=True)
        ),
    )


def selection_score(kind: Literal["auc", "log_loss", "brier"], pooled: Performance) -> float | None:
    """The number by which rounds are compared, larger is better: pooled AUC, or log loss or Brier score negated."""
    if kind == "auc":
        binned = histogram_auc(pooled.histogram)
        return None if binned is None else binned[0]
    loss = log_loss(pooled.sums) if kind == "log_loss" else brier(pooled.sums)
    return None if loss is None else -loss

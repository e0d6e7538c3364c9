"""Calibration intercept and slope: logistic recalibration of the score's log odds, from scores or from histograms."""

from collections.abc import Callable

import numpy as np

from shared_model.histogram import ScoreHistogram
from shared_model.metrics.scale import Bounded, Floats, Z, expit, logit
from shared_model.record import Estimate

_STEEPEST = 50.0  # slopes beyond this are no longer bounded from bins


def calibration_in_the_large(scores: Floats, labels: Floats) -> Estimate | None:
    """Calibration intercept: how far the log odds are off on average (slope held at 1); 0 is perfect, above 0 the model
    predicts too few events. Needs both classes."""
    return _intercept(logit(scores), labels, np.ones_like(labels))


def calibration_slope(scores: Floats, labels: Floats) -> Estimate | None:
    """Slope of logistic recalibration: 1 is perfect, below 1 the predictions are too extreme. ``None`` where it does not
    exist: one class, scores all alike, or scores that separate the classes."""
    fit = recalibration(scores, labels)
    return None if fit is None else fit[1]


def recalibration(scores: Floats, labels: Floats) -> tuple[Estimate, Estimate] | None:
    """Intercept and slope of the outcome on the score's log odds, fitted together by maximum likelihood."""
    return _line(logit(scores), labels, np.ones_like(labels))


def recalibrated(scores: Floats, *, intercept: float, slope: float) -> Floats:
    """Probabilities whose log odds are ``intercept + slope * logit(scores)``."""
    return expit(intercept + slope * logit(scores))


def histogram_calibration_in_the_large(histogram: ScoreHistogram) -> Bounded | None:
    """Calibration intercept from binned scores, its Wald interval widened by the bound on what the bins hide.

    The fitted intercept falls when any score rises, so that all scores at the upper, or all at the lower, edges of their
    intervals give the least and the greatest that it can be.
    """
    bins = _Binned(histogram)
    middle, least, greatest = (_intercept(x, bins.positives, bins.patients) for x in (bins.middle, bins.upper, bins.lower))
    if middle is None or least is None or greatest is None:
        return None
    bound = max(greatest.value - middle.value, middle.value - least.value)
    return Bounded.of(middle, bound, f"Wald, on {histogram.bins} bins, widened by the bound")


def histogram_calibration_slope(histogram: ScoreHistogram) -> Bounded | None:
    """Calibration slope from binned scores, its Wald interval widened by the bound on what the bins hide.

    The profile score of the slope falls in the slope whatever the scores are; a slope at which it is below (above) zero for
    every way in which patients can lie in their intervals is above (below) the slope of the raw scores.
    """
    bins = _Binned(histogram)
    fit = _line(bins.middle, bins.positives, bins.patients)
    if fit is None:
        return None
    value = fit[1].value
    above = _first(lambda reach: bins.excludes(value + reach, way=1))
    below = _first(lambda reach: bins.excludes(value - reach, way=-1))
    if above is None or below is None:
        return None
    return Bounded.of(fit[1], max(above, below), f"Wald, on {histogram.bins} bins, widened by the bound")


class _Binned:
    """Patients in intervals of the log odds, each array ``[intervals]``."""

    def __init__(self, histogram: ScoreHistogram) -> None:
        starts, stops = np.asarray(histogram.starts, np.float64), np.asarray(histogram.stops, np.float64)
        self.lower, self.upper = logit(starts / histogram.bins), logit(stops / histogram.bins)
        self.middle = logit(0.5 * (starts + stops) / histogram.bins)
        self.positives = np.asarray(histogram.positives, np.float64)
        self.patients = self.positives + np.asarray(histogram.negatives, np.float64)

    def excludes(self, slope: float, *, way: int) -> bool:
        """Whether the slope of the raw scores surely lies below ``slope`` (``way`` 1) or above it (-1)."""
        ends = (slope * self.lower, slope * self.upper)
        low, high = np.minimum(*ends), np.maximum(*ends)
        intercepts = [_intercept(offset, self.positives, self.patients) for offset in (high, low)]
        if intercepts[0] is None or intercepts[1] is None:
            return False
        least, most = expit(intercepts[0].value + low), expit(intercepts[1].value + high)  # of each patient's probability
        centre = float(np.average(self.middle, weights=self.patients))
        sides = (self.lower - centre, self.upper - centre)
        negatives = self.patients - self.positives
        terms = np.zeros_like(least)
        extreme = np.maximum if way > 0 else np.minimum
        for residuals, count in (((1.0 - most, 1.0 - least), self.positives), ((-most, -least), negatives)):
            corners = [x * residual for x in sides for residual in residuals]
            terms += count * extreme.reduce(corners)
        return bool(way * terms.sum() < 0.0)


def _first(holds: Callable[[float], bool]) -> float | None:
    """The least reach, nearly, from which on ``holds``."""
    inside, outside = 0.0, 0.01
    while not holds(outside):
        inside, outside = outside, 2.0 * outside
        if outside > _STEEPEST:
            return None
    for _ in range(20):
        middle = 0.5 * (inside + outside)
        inside, outside = (inside, middle) if holds(middle) else (middle, outside)
    return outside


def _intercept(offset: Floats, positives: Floats, patients: Floats) -> Estimate | None:
    """Intercept with log odds ``offset`` held; ``positives`` of ``patients`` at each value."""
    events, everybody = float(positives.sum()), float(patients.sum())
    if not 0.0 < events < everybody:
        return None
    start = np.array([_log_odds(events, everybody) - float(np.average(offset, weights=patients))])
    fit = _logistic(np.ones((offset.size, 1)), positives, patients, offset=offset, start=start)
    return None if fit is None else fit[0]


def _line(x: Floats, positives: Floats, patients: Floats) -> tuple[Estimate, Estimate] | None:
    """Intercept and slope on log odds ``x``; ``positives`` of ``patients`` at each value."""
    of_positives, of_negatives = x[positives > 0], x[patients > positives]
    if not of_positives.size or not of_negatives.size or np.ptp(x) < 1e-6:
        return None
    # Albert and Anderson 1984: the maximum exists just if the classes overlap.
    if of_negatives.max() <= of_positives.min() or of_positives.max() <= of_negatives.min():
        return None
    design = np.column_stack([np.ones_like(x), x])
    start = np.array([_log_odds(float(positives.sum()), float(patients.sum())), 0.0])
    fit = _logistic(design, positives, patients, offset=np.zeros_like(x), start=start)
    return None if fit is None else (fit[0], fit[1])


def _log_odds(events: float, patients: float) -> float:
    return float(np.log(events / (patients - events)))


def _logistic(design: Floats, positives: Floats, patients: Floats, *, offset: Floats, start: Floats) -> list[Estimate] | None:
    """Newton's method with step halving; Wald intervals. ``None`` if it does not converge."""

    def loss(beta: Floats) -> float:
        linear = offset + design @ beta
        return float(np.sum(patients * np.logaddexp(0.0, linear) - positives * linear))

    beta = start
    for _ in range(100):
        probability = expit(offset + design @ beta)
        information = (design * (patients * probability * (1.0 - probability))[:, None]).T @ design
        try:
            covariance = np.linalg.inv(information)
        except np.linalg.LinAlgError:
            return None
        step = covariance @ (design.T @ (positives - patients * probability))
        if np.max(np.abs(step)) < 1e-9 * (1.0 + np.max(np.abs(beta))):
            halves = Z * np.sqrt(np.diag(covariance))
            return [Estimate(float(b), float(b - h), float(b + h), "Wald") for b, h in zip(beta, halves, strict=True)]
        while loss(beta + step) > loss(beta) + 1e-12 * patients.sum() and np.max(np.abs(step)) > 1e-12:
            step = 0.5 * step
        beta = beta + step
    return None

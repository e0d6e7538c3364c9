"""At a threshold: rates with Wilson's interval, predictive values at a prevalence, net benefit, rules to choose one."""

from collections.abc import Sequence

import numpy as np

from shared_model.counts import ThresholdCounts
from shared_model.histogram import ScoreHistogram
from shared_model.metrics.scale import Floats, Z, expit
from shared_model.record import Estimate


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


def interventions_avoided(counts: ThresholdCounts) -> float | None:
    """Interventions avoided in 100 patients, compared with treating everybody, without missing one more event."""
    ours, everybody = net_benefit(counts), net_benefit_treat_all(counts)
    if ours is None or everybody is None or not counts.threshold:
        return None
    return 100.0 * (ours - everybody) * (1.0 - counts.threshold) / counts.threshold


def predictive_values_at(counts: ThresholdCounts, *, prevalence: float) -> tuple[Estimate | None, Estimate | None]:
    """PPV and NPV if the share of events were ``prevalence``, with logit intervals (Mercaldo et al. 2007).

    Each needs both classes, and somebody so called. In the interval, a class that is called all one way counts half a patient
    the other way.
    """
    tp, fp, tn, fn = counts.true_positive, counts.false_positive, counts.true_negative, counts.false_negative
    if not tp + fn or not tn + fp:
        return None, None
    return _restated(tp, fn, fp, tn, prevalence), _restated(tn, fp, fn, tp, 1.0 - prevalence)


def _restated(right: int, missed: int, wrong: int, cleared: int, share: float) -> Estimate | None:
    """Share of ``right`` among those called so, if the class of ``right`` and ``missed`` had ``share`` of all patients."""
    if not right + wrong:
        return None
    hit, false = right / (right + missed), wrong / (wrong + cleared)
    value = hit * share / (hit * share + false * (1.0 - share))
    r, m, w, c = (
        (right, missed, wrong, cleared) if min(right, missed, wrong, cleared) else _with_halves(right, missed, wrong, cleared)
    )
    hit, false = r / (r + m), w / (w + c)
    middle = np.log(hit * share / (false * (1.0 - share)))
    half = Z * np.sqrt((1.0 - hit) / r + (1.0 - false) / w)
    low, high = (float(x) for x in expit(np.array([middle - half, middle + half])))
    return Estimate(value, min(low, value), max(high, value), "logit, at the stated prevalence")


def _with_halves(*cells: int) -> tuple[float, ...]:
    return tuple(cell + 0.5 for cell in cells)


def threshold_of_sensitivity(histogram: ScoreHistogram, sensitivity: float) -> float | None:
    """The highest edge of the fine grid at which at least this share of the positives is surely called positive.

    ``None`` without positives, or if too many of them score below the first edge.
    """
    positives = sum(histogram.positives)
    surely = _from_bin(histogram, histogram.positives, histogram.starts)
    enough = [k for k in range(1, histogram.bins) if positives and surely[k] >= sensitivity * positives - 1e-9]
    return max(enough) / histogram.bins if enough else None


def threshold_of_youden(histogram: ScoreHistogram) -> float | None:
    """The edge of the fine grid with the greatest sensitivity + specificity; of several the middle one. Patients of an
    interval that reaches across an edge count half. Needs both classes."""
    n_positive, n_negative = sum(histogram.positives), sum(histogram.negatives)
    if not n_positive or not n_negative:
        return None
    shares = [
        0.5
        * (_from_bin(histogram, counts, histogram.starts) + _from_bin(histogram, counts, [k - 1 for k in histogram.stops]))
        / n
        for counts, n in ((histogram.positives, n_positive), (histogram.negatives, n_negative))
    ]
    gain = (shares[0] - shares[1])[1 : histogram.bins]
    best = np.flatnonzero(gain >= gain.max() - 1e-12) + 1
    return float(best[best.size // 2]) / histogram.bins


def _from_bin(histogram: ScoreHistogram, counts: Sequence[int], places: Sequence[int]) -> Floats:
    """At index ``k``, how many have their place at bin ``k`` or above."""
    held = np.bincount(np.asarray(places, np.int64), weights=np.asarray(counts, np.float64), minlength=histogram.bins)
    return np.asarray(np.cumsum(held[::-1])[::-1], np.float64)


def thresholds_by_rule(histogram: ScoreHistogram, sensitivities: Sequence[float]) -> dict[str, float]:
    """Thresholds chosen on the patients of ``histogram``, by rule; a rule that finds none is left out."""
    found = {f"sensitivity {wanted:.2f}": threshold_of_sensitivity(histogram, wanted) for wanted in sensitivities}
    found["youden"] = threshold_of_youden(histogram)
    return {rule: threshold for rule, threshold in found.items() if threshold is not None}

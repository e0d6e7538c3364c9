"""Rows of the document's tables of thresholds: a threshold, where it is from, and what calling by it does."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from shared_model import metrics
from shared_model.assessment import RuleThreshold
from shared_model.histogram import ScoreHistogram
from shared_model.protocol_evaluation import Evaluation
from shared_model.summaries import Estimate, Performance, ThresholdCounts

Json = dict[str, Any]
Rate = Callable[[ThresholdCounts], Estimate | None]

PRESET = "preset"
RATES: dict[str, Rate] = {
    "sensitivity": metrics.sensitivity,
    "specificity": metrics.specificity,
    "ppv": metrics.ppv,
    "npv": metrics.npv,
    "accuracy": metrics.accuracy,
}
NUMBERS: dict[str, Callable[[ThresholdCounts], float | None]] = {
    "net_benefit": metrics.net_benefit,
    "treat_all": metrics.net_benefit_treat_all,
    "interventions_avoided_per_100": metrics.interventions_avoided,
}


def preset(performance: Performance, evaluation: Evaluation) -> Iterator[Json]:
    """A row for each threshold of the protocol; exact."""
    for counts in performance.thresholds:
        yield _row(counts, counts, counts, evaluation, rule=PRESET, chosen_on="the protocol")


def of_site(found: Iterable[RuleThreshold], evaluation: Evaluation) -> Iterator[Json]:
    """A row for each threshold that a site found by rule; exact."""
    for chosen in found:
        yield _row(chosen.counts, chosen.counts, chosen.counts, evaluation, rule=chosen.rule, chosen_on=chosen.chosen_on)


def by_rule(
    performance: Performance, thresholds: Mapping[str, float], evaluation: Evaluation, *, chosen_on: str
) -> Iterator[Json]:
    """A row for each threshold that the center found by rule, counted from the histogram.

    Thresholds are edges of the fine grid, so that counts are exact unless the histogram's intervals reach across; then the
    intervals run from the worst case to the best, and ``undecided`` is the number of patients who may be on either side.
    """
    if not sum(performance.histogram.negatives) + sum(performance.histogram.positives):
        return  # nobody, or a histogram that was told under masks only
    for rule, threshold in thresholds.items():
        middle, worst, best = counted(performance.histogram, threshold)
        yield _row(middle, worst, best, evaluation, rule=rule, chosen_on=chosen_on)


def counted(histogram: ScoreHistogram, threshold: float) -> tuple[ThresholdCounts, ThresholdCounts, ThresholdCounts]:
    """Confusion matrix at ``threshold`` from a histogram: the middle case, the worst, and the best."""
    negatives, positives = histogram.at_least(threshold)
    n_negative, n_positive = sum(histogram.negatives), sum(histogram.positives)

    def matrix(true: int, false: int) -> ThresholdCounts:
        return ThresholdCounts(threshold, true, false, n_negative - false, n_positive - true)

    middle = matrix(sum(positives) // 2, sum(negatives) // 2)
    return middle, matrix(positives[0], negatives[1]), matrix(positives[1], negatives[0])


def place(row: Json) -> str:
    """Where a row's numbers belong, as ``not_estimable`` names them."""
    return f" at {row['threshold']:g}" if row["rule"] == PRESET else f" at {row['rule']} ({row['chosen_on']})"


def _row(
    middle: ThresholdCounts, worst: ThresholdCounts, best: ThresholdCounts, evaluation: Evaluation, *, rule: str, chosen_on: str
) -> Json:
    return {
        "threshold": middle.threshold,
        "rule": rule,
        "chosen_on": chosen_on,
        "undecided": best.true_positive - worst.true_positive + worst.false_positive - best.false_positive,
        **{name: _number(*(rate(counts) for counts in (middle, worst, best))) for name, rate in RATES.items()},
        "ppv_at": [_restated(0, middle, worst, best, prevalence) for prevalence in evaluation.prevalences],
        "npv_at": [_restated(1, middle, worst, best, prevalence) for prevalence in evaluation.prevalences],
        **{name: number(middle) for name, number in NUMBERS.items()},
    }


def _number(middle: Estimate | None, worst: Estimate | None, best: Estimate | None) -> Json | None:
    """The middle case's value; the interval reaches from the worst case's lower end to the best one's upper."""
    if middle is None:
        return None
    ends = [estimate for estimate in (worst, middle, best) if estimate is not None]
    low = min(estimate.value if estimate.low is None else estimate.low for estimate in ends)
    high = max(estimate.value if estimate.high is None else estimate.high for estimate in ends)
    return {"value": middle.value, "low": low, "high": high, "method": middle.method}


def _restated(which: int, middle: ThresholdCounts, worst: ThresholdCounts, best: ThresholdCounts, prevalence: float) -> Json:
    estimates = [metrics.predictive_values_at(counts, prevalence=prevalence)[which] for counts in (middle, worst, best)]
    found = _number(*estimates)
    return {"prevalence": prevalence, **(found or {"value": None, "low": None, "high": None, "method": "not estimable"})}

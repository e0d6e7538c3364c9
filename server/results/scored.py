"""One model on one group of patients, as the results document states it.

A number with an interval is ``{value, low, high, method}``. What is not estimable is ``null``, and ``not_estimable`` says why.
"""

from collections.abc import Sequence
from typing import Any

from shared_model import metrics
from shared_model.summaries import Estimate, Performance, ThresholdCounts

Json = dict[str, Any]

_NEEDS_EVENTS = {"average_precision", "sensitivity"}
_NEEDS_OTHERS = {"specificity"}
_NEEDS_BOTH = {"auc", "scaled_brier", "calibration_intercept", "calibration_slope"}
_RATES = {
    "sensitivity": metrics.sensitivity,
    "specificity": metrics.specificity,
    "ppv": metrics.ppv,
    "npv": metrics.npv,
    "accuracy": metrics.accuracy,
}


def at_site(performance: Performance, *, absence: str = "no test patients") -> Json:
    """Metrics at one site, with the site's own exact AUC; ``absence`` is the reason to give where there is nobody."""
    numbers = {
        "auc": _number(performance.auc),
        "average_precision": performance.average_precision,
        **_of_sums(performance),
        "calibration_intercept": _number(performance.calibration_intercept),
        "calibration_slope": _number(performance.calibration_slope),
        "thresholds": [_at_threshold(counts) for counts in performance.thresholds],
    }
    return _scored(performance, numbers, absence=absence)


def over_sites(
    performances: Sequence[Performance], *, together: Performance | None = None, absence: str = "no test patients"
) -> Json:
    """Metrics of the patients of all sites together, from additive summaries; the AUC states its ``error_bound``. Of a secure
    sum, ``together`` is given, and the single summaries are without histograms."""
    pooled = metrics.pool(performances) if together is None else together
    binned, interval = metrics.histogram_auc(pooled.histogram), metrics.histogram_auc_interval(pooled.histogram)
    auc = {**(_number(interval) or {}), "error_bound": binned[1]} if binned and interval else None
    numbers = {
        "auc": auc,
        **_of_sums(pooled),
        "thresholds": [_at_threshold(counts) for counts in pooled.thresholds],
    }
    return {"sites": len(performances), **_scored(pooled, numbers, absence=absence)}


def roc_curve(performance: Performance) -> Json | None:
    """The binned ROC curve, as lists of false and true positive rates."""
    curve = metrics.histogram_roc(performance.histogram)
    if curve is None:
        return None
    false, true = curve
    return {"false_positive_rate": [round(x, 6) for x in false], "true_positive_rate": [round(y, 6) for y in true]}


def difference(ours: Json, theirs: Json) -> Json:
    """Ours less theirs, of two ``over_sites``; positive AUC, but negative Brier score and log loss, favour ours."""
    a, b = ours["metrics"], theirs["metrics"]
    both = a["auc"] is not None and b["auc"] is not None
    auc = None
    if both:
        bound = a["auc"]["error_bound"] + b["auc"]["error_bound"]
        auc = {"value": a["auc"]["value"] - b["auc"]["value"], "error_bound": bound}
    losses = {
        name: None if a[name] is None or b[name] is None else a[name] - b[name]
        for name in ("brier", "scaled_brier", "log_loss")
    }
    return {"auc": auc, **losses}


def _of_sums(performance: Performance) -> Json:
    sums = performance.sums
    return {
        "brier": metrics.brier(sums),
        "scaled_brier": metrics.scaled_brier(sums),
        "log_loss": metrics.log_loss(sums),
        "oe_ratio": _number(metrics.oe_ratio(sums)),
    }


def _at_threshold(counts: ThresholdCounts) -> Json:
    return {
        "threshold": counts.threshold,
        **{name: _number(rate(counts)) for name, rate in _RATES.items()},
        "net_benefit": metrics.net_benefit(counts),
        "net_benefit_treat_all": metrics.net_benefit_treat_all(counts),
    }


def _scored(performance: Performance, numbers: Json, *, absence: str) -> Json:
    missing = [
        *((name, "") for name, value in numbers.items() if value is None),
        *((name, f" at {row['threshold']:g}") for row in numbers["thresholds"] for name, value in row.items() if value is None),
    ]
    return {
        "patients": performance.sums.count,
        "events": performance.sums.positives,
        "metrics": numbers,
        "not_estimable": [{"metric": name + place, "why": _why(name, performance, absence=absence)} for name, place in missing],
    }


def _why(metric: str, performance: Performance, *, absence: str) -> str:
    patients, events = performance.sums.count, performance.sums.positives
    fewest = metrics.MINIMUM_PER_CLASS if metric == "auc" else 1
    if patients == 0:
        return absence
    if metric in _NEEDS_EVENTS | _NEEDS_BOTH and events < fewest:
        return _count(events, "event")
    if metric in _NEEDS_OTHERS | _NEEDS_BOTH and patients - events < fewest:
        return _count(patients - events, "patient without the event", "patients without the event")
    if metric in {"calibration_intercept", "calibration_slope"}:
        return "the scores are all alike, or separate the outcome completely"
    return {
        "ppv": "nobody is called positive",
        "npv": "nobody is called negative",
        "oe_ratio": "the model predicts no event at all",
    }.get(metric, "not stated by the site")


def _count(number: int, one: str, many: str | None = None) -> str:
    noun = one if number == 1 else many or one + "s"
    return f"{number or 'no'} {noun}"


def _number(estimate: Estimate | None) -> Json | None:
    if estimate is None:
        return None
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "method": estimate.method}

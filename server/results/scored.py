"""One model on one group of patients, as the results document states it.

A number with an interval is ``{value, low, high, method}``. What is not estimable is ``null``, and ``not_estimable`` says why.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from server.results import curves, threshold_rows
from shared_model import metrics
from shared_model.assessment import Group
from shared_model.metrics import pooled_estimates
from shared_model.protocol_evaluation import Evaluation
from shared_model.summaries import Assessment, Estimate, Performance

Json = dict[str, Any]

METRICS = (
    "auc",
    "average_precision",
    "brier",
    "scaled_brier",
    "log_loss",
    "calibration_intercept",
    "calibration_slope",
    "oe_ratio",
    "ici",
    "e50",
    "e90",
)
ADVISED_PER_CLASS = 100  # events, and non-events, that an external validation should have (Collins et al. 2016)
TUNING_OF_ALL = "tuning patients of all sites"

_SMOOTHED = {"ici", "e50", "e90"}
_NEEDS_EVENTS = {"average_precision", "sensitivity"}
_NEEDS_OTHERS = {"specificity"}
_NEEDS_BOTH = {"auc", "scaled_brier", "calibration_intercept", "calibration_slope", *_SMOOTHED}


def at_site(
    performance: Performance,
    *,
    evaluation: Evaluation,
    common: Mapping[str, float],
    absence: str = "no test patients",
) -> Json:
    """Everything about one model at one site; ``absence`` is the reason to give where there is nobody.

    ``common`` are the thresholds that were chosen on the tuning patients of all sites, by rule.
    """
    assessment = performance.assessment or Assessment({})
    numbers = {name: _number(assessment.metrics.get(name)) for name in METRICS}
    numbers["auc"] = numbers["auc"] or _number(performance.auc)
    rows = [
        *threshold_rows.preset(performance, evaluation),
        *threshold_rows.by_rule(performance, common, evaluation, chosen_on=TUNING_OF_ALL),
        *threshold_rows.of_site(assessment.thresholds, evaluation),
    ]
    return {
        **_scored(performance, numbers, rows, absence=absence),
        **_curves(performance),
        "calibration_curve": curves.smoothed(assessment.calibration_curve),
        "recalibrated": _recalibrated(assessment),
        "subgroups": [_group(group) for group in assessment.groups],
        "missing_modality": [_group(group) for group in assessment.modalities],
        "suppressed": [
            {"what": f"{group.variable}: {group.level}", "why": group.suppressed}
            for group in (*assessment.groups, *assessment.modalities)
            if group.suppressed
        ],
        "sample_size": sample_size(performance),
    }


def over_sites(
    performances: Sequence[Performance],
    *,
    evaluation: Evaluation,
    common: Mapping[str, float],
    together: Performance | None = None,
    absence: str = "no test patients",
) -> Json:
    """The patients of all sites together, from additive summaries; each metric states its ``error_bound``. Of a secure sum,
    ``together`` is given, and the single summaries are without histograms."""
    pooled = metrics.pool(performances) if together is None else together
    bounded = pooled_estimates.estimates(pooled, replicates=evaluation.bootstrap)
    numbers = {name: _bounded(bounded.get(name)) for name in METRICS}
    rows = [
        *threshold_rows.preset(pooled, evaluation),
        *threshold_rows.by_rule(pooled, common, evaluation, chosen_on=TUNING_OF_ALL),
    ]
    return {
        "sites": len(performances),
        **_scored(pooled, numbers, rows, absence=absence),
        **_curves(pooled),
        "calibration_curve": curves.binned(pooled.histogram),
        "sample_size": sample_size(pooled),
    }


def difference(ours: Json, theirs: Json) -> Json:
    """Ours less theirs, of two ``over_sites``; positive AUC, but negative Brier score and log loss, favour ours."""
    a, b = ours["metrics"], theirs["metrics"]
    found: Json = {}
    for name in ("auc", "brier", "scaled_brier", "log_loss"):
        known = a[name] is not None and b[name] is not None
        bound = a[name]["error_bound"] + b[name]["error_bound"] if known else None
        found[name] = {"value": a[name]["value"] - b[name]["value"], "error_bound": bound} if known else None
    return found


def sample_size(performance: Performance) -> Json:
    """Whether there are as many events, and patients without, as are advised for a validation."""
    events, others = performance.sums.positives, performance.sums.count - performance.sums.positives
    adequate = min(events, others) >= ADVISED_PER_CLASS
    why = (
        f"{events} events and {others} patients without; at least {ADVISED_PER_CLASS} of each are advised (Collins et al. 2016)"
    )
    return {"events": events, "nonevents": others, "adequate": adequate, "why": why}


def _curves(performance: Performance) -> Json:
    histogram = performance.histogram
    return {
        "roc": curves.roc(histogram),
        "decision_curve": curves.decision(histogram),
        "risk_distribution": curves.risk_distribution(histogram),
    }


def _recalibrated(assessment: Assessment) -> Json:
    """What a local correction of the log odds, fitted on tuning patients, makes of the test patients; or why there is none."""
    found: Json = {"intercept": None, "logistic": None, "why_not": assessment.not_recalibrated}
    for fitted in assessment.recalibrated:
        found[fitted.kind] = {
            "intercept": fitted.intercept,
            "slope": fitted.slope,
            "patients": fitted.patients,
            "events": fitted.events,
            "metrics": {name: _number(fitted.metrics.get(name)) for name in METRICS},
            "calibration_curve": curves.smoothed(fitted.calibration_curve),
        }
    return found


def _group(group: Group) -> Json:
    return {
        "variable": group.variable,
        "level": group.level,
        "patients": group.patients,
        "events": group.events,
        "metrics": None
        if group.suppressed
        else {name: _number(group.metrics.get(name)) for name in ("auc", "brier", "calibration_intercept", "oe_ratio")},
        "suppressed": {"why": group.suppressed} if group.suppressed else None,
    }


def _scored(performance: Performance, numbers: Json, rows: list[Json], *, absence: str) -> Json:
    missing = [
        *((name, name, "") for name, value in numbers.items() if value is None),
        *((name, name, threshold_rows.place(row)) for row in rows for name in threshold_rows.RATES if row[name] is None),
        *(
            (name, name.removesuffix("_at"), f"{threshold_rows.place(row)} and prevalence {restated['prevalence']:g}")
            for row in rows
            for name in ("ppv_at", "npv_at")
            for restated in row[name]
            if restated["value"] is None
        ),
        *((name, name, threshold_rows.place(row)) for row in rows for name in threshold_rows.NUMBERS if row[name] is None),
    ]
    return {
        "patients": performance.sums.count,
        "events": performance.sums.positives,
        "metrics": numbers,
        "thresholds": rows,
        "not_estimable": [
            {"metric": name + where, "why": _why(metric, performance, absence=absence)} for name, metric, where in missing
        ],
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
    if metric in _SMOOTHED:
        return "too few patients, or scores too much alike, for a smoothed curve"
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


def _bounded(found: metrics.Bounded | None) -> Json | None:
    return None if found is None else {**(_number(found.estimate) or {}), "error_bound": found.bound}

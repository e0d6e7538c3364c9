"""Curves of the document, as columns of equal length, from histograms and from what a site has smoothed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from server.results.threshold_rows import counted
from shared_model import metrics
from shared_model.assessment import CurvePoint
from shared_model.histogram import ScoreHistogram

Json = dict[str, Any]

DECISION_THRESHOLDS = tuple(percent / 100 for percent in range(1, 100))
RISK_BINS = 10
GROUPS = 10
FEWEST_OF_GROUP = 10


def roc(histogram: ScoreHistogram) -> Json | None:
    """The ROC curve, as lists of false and true positive rates."""
    curve = metrics.histogram_roc(histogram)
    if curve is None:
        return None
    false, true = curve
    return {"false_positive_rate": [round(x, 6) for x in false], "true_positive_rate": [round(y, 6) for y in true]}


def decision(histogram: ScoreHistogram) -> Json | None:
    """Net benefit of the model and of treating all (treating nobody has none), and interventions avoided per 100 patients.

    ``error_bound`` is how far intervals that reach across a threshold can put the model's net benefit off.
    """
    if not sum(histogram.negatives) + sum(histogram.positives):
        return None
    found: Json = {"threshold": [], "model": [], "error_bound": [], "treat_all": [], "interventions_avoided_per_100": []}
    for threshold in DECISION_THRESHOLDS:
        middle, worst, best = counted(histogram, threshold)
        benefit, least, most = (metrics.net_benefit(counts) or 0.0 for counts in (middle, worst, best))
        found["threshold"].append(threshold)
        found["model"].append(benefit)
        found["error_bound"].append(max(most - benefit, benefit - least))
        found["treat_all"].append(metrics.net_benefit_treat_all(middle))
        found["interventions_avoided_per_100"].append(metrics.interventions_avoided(middle))
    return found


def risk_distribution(histogram: ScoreHistogram) -> Json | None:
    """Patients of each class in ``RISK_BINS`` equal bins of the predicted probability; intervals are spread evenly."""
    if not sum(histogram.negatives) + sum(histogram.positives):
        return None
    edges = np.linspace(0.0, 1.0, RISK_BINS + 1)
    starts, stops = np.asarray(histogram.starts) / histogram.bins, np.asarray(histogram.stops) / histogram.bins
    inside = np.minimum(stops, edges[1:, None]) - np.maximum(starts, edges[:-1, None])  # [risk bins, intervals]
    share = np.clip(inside, 0.0, None) / (stops - starts)
    return {
        "edges": [round(float(edge), 6) for edge in edges],
        "negatives": [round(float(n), 2) for n in share @ np.asarray(histogram.negatives)],
        "positives": [round(float(n), 2) for n in share @ np.asarray(histogram.positives)],
    }


def smoothed(points: Sequence[CurvePoint]) -> Json | None:
    """A site's smoothed calibration curve."""
    if not points:
        return None
    return {
        "predicted": [point.predicted for point in points],
        "observed": [point.observed for point in points],
        "low": [point.low for point in points],
        "high": [point.high for point in points],
        "patients": [point.patients for point in points],
        "method": "loess over the site's patients, means of groups alike in prediction, bootstrap band",
    }


def binned(histogram: ScoreHistogram) -> Json | None:
    """Observed share with Wilson's interval in groups of like prediction, from a histogram.

    Groups are of intervals side by side, at least ``FEWEST_OF_GROUP`` patients each; ``error_bound`` is how far the mean
    prediction of a group can be off, half the mean width of its intervals.
    """
    patients = np.asarray(histogram.negatives, np.int64) + np.asarray(histogram.positives, np.int64)
    total = int(patients.sum())
    if not total or not 0 < sum(histogram.positives) < total:
        return None
    starts, stops = np.asarray(histogram.starts) / histogram.bins, np.asarray(histogram.stops) / histogram.bins
    order = np.argsort(starts + stops, kind="stable")
    size = max(FEWEST_OF_GROUP, -(-total // GROUPS))
    found: Json = {name: [] for name in ("predicted", "observed", "low", "high", "patients", "error_bound")}
    group: list[int] = []
    left = total
    for cell in order:
        group.append(int(cell))
        held = int(patients[group].sum())
        if (held >= size and left - held >= FEWEST_OF_GROUP) or held == left:
            share = metrics.wilson(int(np.asarray(histogram.positives)[group].sum()), held)
            assert share is not None
            found["predicted"].append(float(np.average(0.5 * (starts + stops)[group], weights=patients[group])))
            found["error_bound"].append(float(np.average(0.5 * (stops - starts)[group], weights=patients[group])))
            found["patients"].append(held)
            for name, value in (("observed", share.value), ("low", share.low), ("high", share.high)):
                found[name].append(value)
            group, left = [], left - held
    return {**found, "method": f"groups of bins, {histogram.bins} bins, Wilson"}

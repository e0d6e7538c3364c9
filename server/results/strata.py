"""Low, intermediate and high risk: who falls where, and how often the outcome was there, from binned scores."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from server.records import RunRecord
from server.results.paired import number
from shared_model import metrics
from shared_model.summaries import Performance, ScoreHistogram

Json = dict[str, Any]
NAMES = ("low", "intermediate", "high")
SENSITIVITY = 0.95  # of the cut between low and intermediate, on tuning patients
SPECIFICITY = 0.95  # of that between intermediate and high


def strata(record: RunRecord, tested: Mapping[str, Performance], *, external: Collection[str] = ()) -> Json | None:
    """``strata`` of the document, at all sites ``tested``, and pooled without ``external`` ones; None where neither the
    protocol nor tuning patients give the two cuts."""
    tuning = [reply.parts["tune"] for reply in record.evaluations.values() if "tune" in reply.parts]
    source = "the protocol"
    cuts = record.protocol.evaluation.risk_strata
    if cuts is None:
        cuts = cuts_from(metrics.pool(tuning).histogram) if tuning else None
        source = (
            f"tuning patients of all sites: {SENSITIVITY:.0%} of those with the outcome lie above the lower cut, "
            f"{SPECIFICITY:.0%} of the others below the upper one"
        )
    if cuts is None or not tested:
        return None
    pooled = [performance for site, performance in tested.items() if site not in external]
    return {
        "low": cuts[0],
        "high": cuts[1],
        "source": source,
        "sites": {site: _rows(performance.histogram, cuts) for site, performance in tested.items()},
        "pooled": _rows(metrics.pool(pooled).histogram, cuts) if pooled else None,
    }


def cuts_from(histogram: ScoreHistogram) -> tuple[float, float] | None:
    """The two cuts, edges of bins: the highest with the sensitivity, the lowest with the specificity; in order where a model is
    so good that they would cross. None without patients of both outcomes."""
    positives, negatives = np.array(histogram.positives), np.array(histogram.negatives)
    if not positives.sum() or not negatives.sum():
        return None
    edges = np.arange(negatives.size + 1) / negatives.size
    spared = np.concatenate([[0], np.cumsum(negatives)]) / negatives.sum()  # share of non-events below each edge
    lower = highest_edge(histogram, sensitivity=SENSITIVITY)
    upper = float(edges[spared >= SPECIFICITY - 1e-12].min())
    assert lower is not None
    return min(lower, upper), max(lower, upper)


def highest_edge(histogram: ScoreHistogram, *, sensitivity: float) -> float | None:
    """The highest edge of a bin from which on at least this share of the events lies; None without events."""
    positives = np.array(histogram.positives)
    if not positives.sum():
        return None
    missed = np.concatenate([[0], np.cumsum(positives)]) / positives.sum()
    return float(np.flatnonzero(missed <= 1.0 - sensitivity + 1e-12).max() / positives.size)


def _rows(histogram: ScoreHistogram, cuts: Sequence[float]) -> list[Json]:
    bins = len(histogram.positives)
    places = [0, *(round(cut * bins) for cut in cuts), bins]
    patients_in_all = sum(histogram.positives) + sum(histogram.negatives)
    rows = []
    for name, start, end in zip(NAMES, places[:-1], places[1:], strict=True):
        events = sum(histogram.positives[start:end])
        patients = events + sum(histogram.negatives[start:end])
        rows.append(
            {
                "stratum": name,
                "patients": patients,
                "events": events,
                "share": patients / patients_in_all if patients_in_all else None,
                "observed": number(metrics.wilson(events, patients)),
            }
        )
    return rows

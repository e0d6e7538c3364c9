"""Low, intermediate and high risk: who falls where, and how often the outcome was there, from binned scores."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from server.records import RunRecord
from server.results.paired import number
from shared_model import metrics
from shared_model.summaries import Estimate, Performance, ScoreHistogram

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
    lower = metrics.threshold_of_sensitivity(histogram, SENSITIVITY)
    negatives = sum(histogram.negatives)
    if lower is None or not negatives:
        return None
    edges = (place / histogram.bins for place in range(histogram.bins + 1))
    spared = (edge for edge in edges if histogram.at_least(edge)[0][1] <= (1.0 - SPECIFICITY) * negatives + 1e-9)
    upper = next(spared, 1.0)
    return min(lower, upper), max(lower, upper)


def _rows(histogram: ScoreHistogram, cuts: Sequence[float]) -> list[Json]:
    """Each stratum's patients. Where a site merged bins across a cut, the count is the middle of what it may be, ``undecided``
    says how many may be on either side, and the interval reaches from the fewest events to the most."""
    bounds = [histogram.at_least(cut) for cut in cuts]
    everybody = sum(histogram.negatives), sum(histogram.positives)
    ends = [(everybody[0],) * 2, (everybody[1],) * 2], *bounds, [(0, 0), (0, 0)]
    rows = []
    for name, above, beyond in zip(NAMES, ends[:-1], ends[1:], strict=True):
        others, events = (
            (max(0, start[0] - stop[1]), start[1] - stop[0], sum(start) // 2 - sum(stop) // 2)
            for start, stop in zip(above, beyond, strict=True)
        )
        middle = metrics.wilson(events[2], events[2] + others[2])
        fewest, most = metrics.wilson(events[0], events[0] + others[1]), metrics.wilson(events[1], events[1] + others[0])
        known = [estimate for estimate in (fewest, middle, most) if estimate is not None]
        observed = middle and Estimate(
            middle.value,
            min(estimate.value if estimate.low is None else estimate.low for estimate in known),
            max(estimate.value if estimate.high is None else estimate.high for estimate in known),
            middle.method,
        )
        rows.append(
            {
                "stratum": name,
                "patients": events[2] + others[2],
                "events": events[2],
                "undecided": events[1] - events[0] + others[1] - others[0],
                "share": (events[2] + others[2]) / sum(everybody) if sum(everybody) else None,
                "observed": number(observed),
            }
        )
    return rows

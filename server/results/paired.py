"""Arms side by side, and their differences on the same patients, as the results document states them.

Everything comes from what sites say of pairs (``shared_model.paired``), never from intervals laid beside one another.
"""

import math
from collections.abc import Mapping
from functools import reduce
from typing import Any

from server.numerals import signed
from shared_model import metrics
from shared_model.messages import CompareReply
from shared_model.paired import FourFold, PairedCalls, PairedComparison
from shared_model.summaries import Estimate, Performance, ThresholdCounts

Json = dict[str, Any]
FEDERATED = "federated"
LABELS = {
    FEDERATED: "federated",
    "personal": "the site's own model, pulled towards the federated one (Ditto)",
    "fine_tuned": "federated, trained on at the site",
    "local": "trained at the site alone",
    "central": "all data in one place",
    "clinical_only": "federated, clinical variables only",
    "image_only": "federated, images only",
    "logistic": "logistic regression, all data in one place",
}
_Z = 1.959963984540054


def arms(replies: Mapping[str, CompareReply]) -> Json:
    """``arms`` of the document: each model at each site and over all; empty where nothing was compared."""
    found = {name for reply in replies.values() for name in reply.performances}
    if found <= {FEDERATED}:
        return {}
    return {
        name: {
            "label": label,
            "sites": {s: arm_at(reply.performances[name]) for s, reply in replies.items() if name in reply.performances},
            "pooled": _arm_over_sites([reply.performances[name] for reply in replies.values() if name in reply.performances]),
        }
        for name, label in LABELS.items()
        if name in found
    }


def comparisons(replies: Mapping[str, CompareReply]) -> Json:
    """``comparisons`` of the document: the federated model less each other one, paired, at each site and over all."""
    found: dict[str, dict[str, PairedComparison]] = {}
    for site, reply in replies.items():
        for name, pair in reply.comparisons.items():
            found.setdefault(name, {})[site] = pair
    return {
        name: {
            "label": label,
            "sites": {site: _pair(pair, where=f"At {site}", name=name) for site, pair in found[name].items()},
            "pooled": _pair(reduce(lambda a, b: a + b, found[name].values()), where="Over all sites", name=name),
            "not_compared": _not_compared(replies, name),
        }
        for name, label in LABELS.items()
        if name in found
    }


def _not_compared(replies: Mapping[str, CompareReply], name: str) -> list[Json]:
    return [
        {
            "site": site,
            "why": next((s.why.value for s in reply.suppressed if s.what == f"comparison with {name}"), "no such model"),
        }
        for site, reply in replies.items()
        if name not in reply.comparisons
    ]


def arm_at(performance: Performance) -> Json:
    """One model at one site."""
    return _arm(performance, performance.auc)


def _arm_over_sites(performances: list[Performance]) -> Json:
    return _arm(metrics.pool(performances), auc_within_sites(performances))


def auc_within_sites(performances: list[Performance]) -> Estimate | None:
    """AUC of patients of one site each, weighted by the sites' pairs: the arms' models may be others at each site, so scores of
    two sites are not ranked against each other. Standard errors are those of the sites' own intervals."""
    pairs = total = variance = 0.0
    for performance in performances:
        auc, sums = performance.auc, performance.sums
        if auc is None:
            continue
        weight = float(sums.positives * (sums.count - sums.positives))
        pairs, total = pairs + weight, total + weight * auc.value
        variance += (weight * _standard_error(auc)) ** 2
    if not pairs:
        return None
    value, error, method = total / pairs, math.sqrt(variance) / pairs, "within sites, weighted by pairs"
    if not 0.0 < value < 1.0 or error == 0.0:
        return Estimate(value, None, None, method)
    middle, half = math.log(value / (1.0 - value)), _Z * error / (value * (1.0 - value))
    low, high = (1.0 / (1.0 + math.exp(-bound)) for bound in (middle - half, middle + half))
    return Estimate(value, low, high, method)


def _standard_error(auc: Estimate) -> float:
    low, high, value = auc.low, auc.high, auc.value
    if low is None or high is None:
        return 0.0
    if 0.0 < low <= value <= high < 1.0:
        spread = math.log(high / (1.0 - high)) - math.log(low / (1.0 - low))
        return value * (1.0 - value) * spread / (2 * _Z)
    return (high - low) / (2 * _Z)


def _arm(performance: Performance, auc: Estimate | None) -> Json:
    return {
        "patients": performance.sums.count,
        "events": performance.sums.positives,
        "auc": number(auc),
        "brier": metrics.brier(performance.sums),
        "oe_ratio": number(metrics.oe_ratio(performance.sums)),
        "thresholds": [_threshold(counts) for counts in performance.thresholds],
    }


def _threshold(counts: ThresholdCounts) -> Json:
    return {
        "threshold": counts.threshold,
        "sensitivity": number(metrics.sensitivity(counts)),
        "specificity": number(metrics.specificity(counts)),
        "net_benefit": metrics.net_benefit(counts),
    }


def _pair(pair: PairedComparison, *, where: str, name: str) -> Json:
    auc = pair.auc.estimate("DeLong, paired, within sites") if pair.auc else None
    return {
        "patients": pair.patients,
        "events": pair.positives,
        "auc": number(auc),
        "brier": number(pair.brier.estimate("paired differences, t")),
        "thresholds": [calls_row(calls) for calls in pair.calls],
        "verdict": verdict(auc),
        "words": words(auc, where=where, name=name, events=pair.positives),
    }


def calls_row(calls: PairedCalls) -> Json:
    """First less second at one threshold, paired; P values are McNemar's exact ones."""
    return {
        "threshold": calls.threshold,
        "net_benefit": number(calls.net_benefit.estimate("paired differences, t")),
        "sensitivity": number(calls.positives.difference),
        "specificity": number(swapped(calls.negatives).difference),
        "p_sensitivity": calls.positives.mcnemar,
        "p_specificity": calls.negatives.mcnemar,
    }


def swapped(table: FourFold) -> FourFold:
    """The same patients with the calls of both turned round, as specificity counts them."""
    return FourFold(table.neither, table.second, table.first, table.both)


def verdict(estimate: Estimate | None) -> str:
    """``better``, ``worse`` or ``cannot be told`` for the first, by whether the interval holds no difference."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return "cannot be told"
    if estimate.low > 0.0:
        return "better"
    return "worse" if estimate.high < 0.0 else "cannot be told"


_THAN: dict[str, str] = {
    "local": "the model that it trains alone",
    "central": "a model trained on all data in one place",
    "logistic": "logistic regression on all data in one place",
    "clinical_only": "the federated model of clinical variables only",
    "image_only": "the federated model of images only",
    "fine_tuned": "the federated model trained on at the site",
    "personal": "the site's own Ditto model",
}
_FEW_EVENTS = 10


def words(auc: Estimate | None, *, where: str, name: str, events: int) -> str:
    """The difference in AUC in a sentence, with its uncertainty; of joining, where the other is the site's own model."""
    than = (
        _THAN[name] if where.startswith("At ") else _THAN[name].replace("that it trains alone", "that each site trains alone")
    )
    if auc is None:
        return f"{where} it cannot be told: too few patients of one outcome."
    if auc.low is None or auc.high is None:
        return f"{where} the AUCs differ by {signed(auc.value, 3)}, but too few patients tell how sure that is."
    span = f"{signed(auc.value, 3)} ({signed(auc.low, 3)} to {signed(auc.high, 3)})"
    ranks = f"{where} the federated model ranks patients"
    sentence = {
        "better": f"{ranks} better than {than}: AUC {span}.",
        "worse": f"{ranks} worse than {than}: AUC {span}.",
        "cannot be told": (
            f"{where} it cannot be told whether the federated model or {than} ranks patients better: AUC {span}."
        ),
    }[verdict(auc)]
    if name == "local":
        sentence += {
            "better": " Joining helps.",
            "worse": " Joining does not help.",
            "cannot be told": " Whether joining helps is open.",
        }[verdict(auc)]
    return sentence + (f" Only {events} events." if events < _FEW_EVENTS else "")


def number(estimate: Estimate | None) -> Json | None:
    """An estimate as the document writes it."""
    if estimate is None:
        return None
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "method": estimate.method}

"""The model beside what clinicians said of the same patients, as the results document states it."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

from server.numerals import signed
from server.results.paired import calls_row, number
from shared_model import metrics
from shared_model.messages import CompareReply
from shared_model.paired import FourFold
from shared_model.protocol import StudyProtocol
from shared_model.readings import Reading
from shared_model.summaries import Estimate

Json = dict[str, Any]


def comparators(replies: Mapping[str, CompareReply], protocol: StudyProtocol) -> Json:
    """``comparators`` of the document: each at each site and over all sites that have it."""
    return {name: _comparator(name, replies, protocol) for name in protocol.comparators}


def _comparator(name: str, replies: Mapping[str, CompareReply], protocol: StudyProtocol) -> Json:
    comparator = protocol.comparators[name]
    found = {site: reply.readings[name] for site, reply in replies.items() if name in reply.readings}
    rule = (
        f"at least {comparator.at_least:g}{f' {comparator.unit}' if comparator.unit else ''}"
        if comparator.at_least is not None
        else " or ".join(comparator.positive)
    )
    return {
        "description": comparator.description,
        "positive": rule,
        "an_input": comparator.variable is not None and protocol.network.kind != "image_only",
        "sites": {site: _reading(reading) for site, reading in found.items()},
        "pooled": _reading(reduce(lambda a, b: a + b, found.values())) if found else None,
        "without": [
            {
                "site": site,
                "why": next((s.why.value for s in reply.suppressed if s.what == f"comparator {name}"), "no readings"),
            }
            for site, reply in replies.items()
            if site not in found
        ],
    }


def _reading(reading: Reading) -> Json:
    avoided = reading.avoided.estimate("bootstrap, stratified by outcome")
    return {
        "patients": reading.patients,
        "events": reading.positives,
        "without": reading.without,
        "own": _own(reading),
        "auc": number(reading.auc.estimate("DeLong, paired, within sites")) if reading.auc else None,
        "thresholds": [{**calls_row(calls), "model": _model(calls.positives, calls.negatives)} for calls in reading.calls],
        "avoided_per_100": number(_hundredfold(avoided)),
        "words": _words(reading, avoided),
    }


def _own(reading: Reading) -> Json:
    """The comparator alone, from the second margin of any threshold's table."""
    if not reading.calls:
        return {"auc": number(reading.own_auc), "sensitivity": None, "specificity": None}
    positives, negatives = reading.calls[0].positives, reading.calls[0].negatives
    return {
        "auc": number(reading.own_auc),
        "sensitivity": number(metrics.wilson(positives.both + positives.second, positives.patients)),
        "specificity": number(metrics.wilson(negatives.first + negatives.neither, negatives.patients)),
    }


def _model(positives: FourFold, negatives: FourFold) -> Json:
    return {
        "sensitivity": number(metrics.wilson(positives.both + positives.first, positives.patients)),
        "specificity": number(metrics.wilson(negatives.second + negatives.neither, negatives.patients)),
    }


def _hundredfold(estimate: Estimate | None) -> Estimate | None:
    if estimate is None:
        return None
    low, high = (None if bound is None else 100.0 * bound for bound in (estimate.low, estimate.high))
    return Estimate(100.0 * estimate.value, low, high, estimate.method)


def _words(reading: Reading, avoided: Estimate | None) -> str:
    """False positives are patients without the outcome whom the assessment would have sent on."""
    if avoided is None:
        return "No patients of both outcomes have a reading."
    if avoided.low is None or avoided.high is None:
        return f"Missing no more events than the comparator, the model would avoid {100 * avoided.value:.1f} in 100."
    more = "avoids" if avoided.low > 0 else "adds" if avoided.high < 0 else "may avoid or add"
    low, high = 100 * avoided.low, 100 * avoided.high
    return (
        f"At the comparator's own sensitivity the model {more} false positives: {signed(100 * avoided.value, 1)} avoided in "
        f"100 patients ({signed(low, 1)} to {signed(high, 1)})."
    )

"""How patients of one site differ from the others', from the sites' summaries: standardised mean differences; and whether a
site has enough patients to be judged by.

A numeric variable's difference is in standard deviations, of both groups' mean variance; a categorical one's is Yang and
Dalton's (2012) multivariate distance of the shares. Above 0.1 is usually called a difference, above 0.25 a large one.
"""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np

from server.records import RunRecord
from shared_model.messages import DescribeReply
from shared_model.protocol import StudyProtocol
from shared_model.summaries import CategoryCounts, Moments, PartCounts

Json = dict[str, Any]
ENOUGH = 100  # events, and as many patients without (Collins et al. 2016)
SUPPOSED_AUC = 0.8
_Z = 1.959963984540054


def case_mix(record: RunRecord) -> Json:
    """``case_mix`` of the document: each site against all others together, and the pairs that differ most.

    Variables are of training patients (an external site has none, and is left out), the outcome of all.
    """
    described = {site: reply for site, reply in record.descriptions.items() if reply.parts["train"].patients}
    rows = [
        {
            "variable": name,
            "kind": variable.kind,
            "sites": {
                site: _of(name, record.protocol, own, [other for s, other in described.items() if s != site])
                for site, own in described.items()
            },
        }
        for name, variable in record.protocol.variables.items()
    ]
    everybody = record.descriptions
    outcome = {
        site: _of_outcome(own, [other for s, other in everybody.items() if s != site]) for site, own in everybody.items()
    }
    return {"variables": rows, "outcome": outcome, "pairs": _pairs(record.protocol, described)}


def adequacy(record: RunRecord) -> Json:
    """``sample_size`` of the document: what each site's test patients can tell, and what its training patients can teach."""
    return {site: _adequate(reply, record.protocol) for site, reply in record.descriptions.items()}


def numeric_difference(first: Moments, second: Moments) -> float | None:
    """Standardised mean difference, first less second; None where either has fewer than two values or nothing varies."""
    if min(first.count, second.count) < 2:
        return None
    spread = math.sqrt((first.standard_deviation**2 + second.standard_deviation**2) / 2.0)
    return (first.mean - second.mean) / spread if spread > 0.0 else None


def categorical_difference(first: CategoryCounts, second: CategoryCounts) -> float | None:
    """Yang and Dalton's distance of the shares of categories, 0 or more; None where either has nobody."""
    a, b = np.array(first.counts, float), np.array(second.counts, float)
    if not a.sum() or not b.sum():
        return None
    used = (a + b) > 0
    a, b = a[used] / a.sum(), b[used] / b.sum()
    difference = (a - b)[1:]
    covariance = sum((np.diag(p[1:]) - np.outer(p[1:], p[1:])) / 2.0 for p in (a, b))
    squared = float(difference @ np.linalg.pinv(covariance) @ difference) if difference.size else 0.0
    return math.sqrt(max(squared, 0.0))


def _of(name: str, protocol: StudyProtocol, own: DescribeReply, others: Sequence[DescribeReply]) -> float | None:
    if not others:
        return None
    if protocol.variables[name].kind == "numeric":
        return numeric_difference(own.moments[name], reduce(lambda a, b: a + b, [other.moments[name] for other in others]))
    return categorical_difference(
        own.categories[name], reduce(lambda a, b: a + b, [other.categories[name] for other in others])
    )


def _of_outcome(own: DescribeReply, others: Sequence[DescribeReply]) -> float | None:
    told = [counts for counts in map(_everybody, others) if counts.positives is not None]
    mine, theirs = _everybody(own), reduce(lambda a, b: a + b, told, PartCounts(0, 0))
    if mine.positives is None or theirs.positives is None or not mine.patients or not theirs.patients:
        return None
    p, q = mine.positives / mine.patients, theirs.positives / theirs.patients
    spread = math.sqrt((p * (1 - p) + q * (1 - q)) / 2.0)
    return (p - q) / spread if spread > 0.0 else None


def _everybody(description: DescribeReply) -> PartCounts:
    return reduce(lambda a, b: a + b, description.parts.values())


def _pairs(protocol: StudyProtocol, described: Mapping[str, DescribeReply]) -> list[Json]:
    """Each pair of sites with the variable in which they differ most, the most different pair first."""
    rows = []
    for first, second in combinations(described, 2):
        found = {name: _of(name, protocol, described[first], [described[second]]) for name in protocol.variables}
        known = {name: abs(value) for name, value in found.items() if value is not None}
        if known:
            worst = max(known, key=known.__getitem__)
            mean = sum(known.values()) / len(known)
            rows.append({"first": first, "second": second, "variable": worst, "difference": known[worst], "mean": mean})
    return sorted(rows, key=lambda row: -row["difference"])


def _adequate(description: DescribeReply, protocol: StudyProtocol) -> Json:
    train, test = description.parts["train"], description.parts["test"]
    parameters = sum(1 if v.kind == "numeric" else len(v.categories) - 1 for v in protocol.variables.values())
    events = test.positives
    others = None if events is None else test.patients - events
    known = events is not None and others is not None
    return {
        "events": events,
        "others": others,
        "enough": known and min(events or 0, others or 0) >= ENOUGH,
        "expected_width": expected_width(events, others) if events and others else None,
        "patients_for_width": _patients_for(0.1, events, others) if events and others else None,
        "events_per_parameter": train.positives / parameters if parameters and train.positives is not None else None,
        "parameters": parameters,
    }


def expected_width(events: float, others: float) -> float:
    """Width of the 95 % interval to expect of an AUC of ``SUPPOSED_AUC`` (Hanley and McNeil 1982)."""
    auc = SUPPOSED_AUC
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (events - 1) * (q1 - auc**2) + (others - 1) * (q2 - auc**2)
    return 2 * _Z * math.sqrt(variance / (events * others))


def _patients_for(width: float, events: int, others: int) -> int:
    """Test patients, with the outcome as frequent as here, of whom the interval would be ``width`` wide."""
    share = events / (events + others)
    low, high = 2.0, 1e7
    for _ in range(60):
        middle = (low * high) ** 0.5
        wide = expected_width(max(middle * share, 1.0), max(middle * (1 - share), 1.0)) > width
        low, high = (middle, high) if wide else (low, middle)
    return math.ceil(high)

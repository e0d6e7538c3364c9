"""The ``explanation`` of the results document: what sums over all sites say of the model, and whether each method passed.

A mean has Wald's 95 % interval from its sum and its sum of squares. Contributions are in logits, relative to the mean patient.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from math import sqrt
from typing import Any

import numpy as np

from server.records import Arm, RunRecord
from server.results.explanation_tests import verdicts
from shared_model import metrics
from shared_model.attribution.sanity import rank_correlation
from shared_model.explanation_layout import bin_count, network_modalities, network_variables
from shared_model.explanations import CLASSES, ExplanationSummary, total
from shared_model.inputs import numeric_names
from shared_model.protocol import StudyProtocol
from shared_model.protocol_explanation import Explanation

Json = dict[str, Any]
_Z = 1.959963984540054


def explanation(record: RunRecord, arms: Sequence[Arm] = ()) -> Json | None:
    """The block, None where the study explains nothing or no site has."""
    protocol, settings = record.protocol, record.protocol.explanation
    summaries = {site: reply.summary for site, reply in record.explanations.items()}
    if settings is None or not summaries:
        return None
    pooled = total(summaries.values())
    return {
        "sites": list(summaries),
        "parts": list(settings.parts),
        "clip": settings.clip,
        "threshold": protocol.evaluation.thresholds[0],
        "noise": None if settings.epsilon is None else {"epsilon": settings.epsilon, "delta": settings.delta},
        "training_epsilon": None if protocol.privacy.dp is None else protocol.privacy.dp.epsilon,
        "patients": _patients(pooled),
        "modality_share": _shares(pooled, protocol),
        "by_site": {site: _site(summary, protocol) for site, summary in summaries.items()},
        "variables": _variables(pooled, protocol),
        "tests": verdicts(pooled, protocol),
        "tests_by_site": {site: verdicts(summary, protocol) for site, summary in summaries.items()},
        "risk": _risk(pooled, protocol),
        "agreement_between_sites": _agreement(summaries, protocol),
        "drift": [
            {"round": model, **_like(total(r.summary for r in replies.values()), pooled, protocol)}
            for model, replies in record.drift.items()
        ],
        "compared": [
            {
                "kind": arm.kind,
                "site": arm.site,
                **_like(total(arm.explanations.values()), own, protocol, theirs=_of_arm(arm, protocol)),
            }
            for arm in arms
            if arm.explanations and (own := total(summaries[site] for site in arm.explanations if site in summaries)).cells
        ],
        "suppressed": [
            {"site": site, "what": item.what, "why": item.why.value}
            for site, reply in record.explanations.items()
            for item in reply.suppressed
        ],
    }


def importance(summary: ExplanationSummary, protocol: StudyProtocol) -> dict[str, float] | None:
    """Mean absolute contribution of each variable, in logits; None of nobody."""
    settings, cell = protocol.explanation, summary.cells.get("variables.size")
    if settings is None or cell is None or cell.patients <= 0.0:
        return None
    return dict(zip(network_variables(protocol), map(float, settings.clip * cell.means), strict=True))


def shares(summary: ExplanationSummary, protocol: StudyProtocol) -> dict[str, float]:
    """Mean share of each modality in what moves the model, 0..1; empty of nobody."""
    return {name: share["value"] for name, share in _shares(summary, protocol).items()}


def _patients(summary: ExplanationSummary) -> float:
    cell = summary.cells.get("modalities.share")
    return cell.patients if cell else 0.0


def _shares(summary: ExplanationSummary, protocol: StudyProtocol) -> Json:
    """Mean share of each modality, with its interval, and the same by leaving one out at a time."""
    cells = summary.cells
    if "modalities.share" not in cells:
        return {}
    share, patients = cells["modalities.share"].means, cells["modalities.share"].patients
    squares = cells["modalities.square"].means if "modalities.square" in cells else None
    out = cells["modalities.left_out"].means if "modalities.left_out" in cells else None
    return {
        name: {
            **_mean(float(share[place]), None if squares is None else float(squares[place]), patients),
            "left_out": None if out is None else float(out[place]),
        }
        for place, name in enumerate(network_modalities(protocol))
    }


def _mean(value: float, square: float | None, patients: float) -> Json:
    if square is None or patients < 2:
        return {"value": value, "low": None, "high": None, "method": "mean over patients"}
    half = _Z * sqrt(max(square - value**2, 0.0) / (patients - 1.0))
    return {"value": value, "low": value - half, "high": value + half, "method": "Wald of the mean over patients"}


def _site(summary: ExplanationSummary, protocol: StudyProtocol) -> Json:
    return {
        "patients": _patients(summary),
        "modality_share": shares(summary, protocol),
        "importance": importance(summary, protocol),
    }


def _variables(summary: ExplanationSummary, protocol: StudyProtocol) -> list[Json]:
    """Variables, the most important one first."""
    settings, sizes = protocol.explanation, importance(summary, protocol)
    if settings is None or sizes is None:
        return []
    names = network_variables(protocol)
    rows = []
    for place, name in enumerate(names):
        row: Json = {"name": name, "mean_absolute": sizes[name]}
        for group in CLASSES:
            cell = summary.cells.get(f"variables.{group}")
            if cell is None or cell.patients <= 0.0:
                row[group] = None
                continue
            up, down = (settings.clip * float(cell.means[at]) for at in (place, place + len(names)))
            row[group] = {"patients": cell.patients, "mean": up - down, "mean_absolute": up + down}
        row["curve"] = _curve(summary, protocol, settings, name)
        rows.append(row)
    return sorted(rows, key=lambda row: -float(row["mean_absolute"]))


def _curve(summary: ExplanationSummary, protocol: StudyProtocol, settings: Explanation, name: str) -> list[Json]:
    """Mean contribution of a variable where it lies in each bin; bins that may not be told are left out."""
    labels = _bin_labels(protocol, settings, name)
    points = []
    for place in range(bin_count(protocol, name)):
        cell = summary.cells.get(f"dependence.{name}.{place}")
        if cell is not None and cell.patients > 0.0:
            up, down = cell.means
            points.append({"at": labels[place], "patients": cell.patients, "mean": settings.clip * float(up - down)})
    return points


def _bin_labels(protocol: StudyProtocol, settings: Explanation, name: str) -> list[str]:
    if name in numeric_names(protocol):
        low, high = settings.bins[0], settings.bins[-1]
        between = [f"{start:+g} to {end:+g} SD" for start, end in pairwise(settings.bins)]
        return [f"below {low:+g} SD", *between, f"above {high:+g} SD", "not measured"]
    return [*protocol.variables[name].categories, "not measured"]


def _risk(summary: ExplanationSummary, protocol: StudyProtocol) -> Json | None:
    by = protocol.explanation.risk_by if protocol.explanation else None
    if by is None:
        return None
    unit = protocol.variables[by.distance].unit or ""
    between = [f"above {low:g} to {high:g} {unit}" for low, high in pairwise(by.edges)]
    ends = [f"up to {by.edges[0]:g} {unit}", *between, f"above {by.edges[-1]:g} {unit}"]
    positions = protocol.variables[by.position].categories
    return {
        "position": by.position,
        "distance": by.distance,
        "by_position": [_cell(summary, f"risk.position.{place}", label) for place, label in enumerate(positions)],
        "by_distance": [_cell(summary, f"risk.distance.{place}", label) for place, label in enumerate(ends)],
        "by_both": [
            {"position": label, "cells": [_cell(summary, f"risk.both.{p}.{d}", end) for d, end in enumerate(ends)]}
            for p, label in enumerate(positions)
        ],
    }


def _cell(summary: ExplanationSummary, name: str, label: str) -> Json:
    """Observed risk with Wilson's interval, and mean predicted risk; null where it may not be told."""
    cell = summary.cells.get(name)
    if cell is None or cell.patients < 1.0:
        return {"label": label, "patients": None, "observed": None, "predicted": None}
    events, predicted = cell.sums
    whole = min(max(round(events), 0), round(cell.patients))
    observed = metrics.wilson(whole, round(cell.patients))
    return {
        "label": label,
        "patients": cell.patients,
        "observed": None if observed is None else vars(observed),
        "predicted": min(max(predicted / cell.patients, 0.0), 1.0),
    }


def _agreement(summaries: Mapping[str, ExplanationSummary], protocol: StudyProtocol) -> Json:
    """Mean rank correlation of the variables' importance over pairs of sites; I2 of each modality's share."""
    sizes = [found for summary in summaries.values() if (found := importance(summary, protocol))]
    pairs = [ranks_alike(one, other) for one, other in combinations(sizes, 2)]
    return {
        "pairs": len(pairs),
        "rank_correlation": float(np.mean(pairs)) if pairs else None,
        "lowest": float(min(pairs)) if pairs else None,
        "heterogeneity": {
            name: _i2(summaries.values(), place) for place, name in enumerate(network_modalities(protocol))
        },
    }  # fmt: skip


def _i2(summaries: Any, place: int) -> float | None:
    """Share of the variation of a modality's mean share between sites that chance does not explain (Higgins 2002)."""
    means, weights = [], []
    for summary in summaries:
        share, square = summary.cells.get("modalities.share"), summary.cells.get("modalities.square")
        if share is not None and square is not None and share.patients >= 2.0:
            mean = float(share.means[place])
            variance = max(float(square.means[place]) - mean**2, 0.0) / (share.patients - 1.0)
            if variance > 0.0:
                means.append(mean)
                weights.append(1.0 / variance)
    if len(means) < 2:
        return None
    middle = np.average(means, weights=weights)
    q = float(np.sum(np.array(weights) * np.square(np.array(means) - middle)))
    return max(0.0, (q - (len(means) - 1)) / q) if q > 0.0 else 0.0


def _of_arm(arm: Arm, protocol: StudyProtocol) -> StudyProtocol:
    """The protocol of a comparator: logistic regression has no pictures."""
    if arm.kind != "logistic":
        return protocol
    return protocol.model_copy(update={"network": protocol.network.model_copy(update={"kind": "logistic"})})


def _like(
    other: ExplanationSummary, pooled: ExplanationSummary, protocol: StudyProtocol, *, theirs: StudyProtocol | None = None
) -> Json:
    """Another model's explanation, of protocol ``theirs``, beside that of the model, on the same patients. Shares compare only
    where both look at the same modalities."""
    sizes = importance(pooled, protocol), importance(other, theirs or protocol)
    ours, others = shares(pooled, protocol), shares(other, theirs or protocol)
    same = bool(ours) and list(ours) == list(others)
    return {
        "modality_share": others,
        "rank_correlation": ranks_alike(sizes[0], sizes[1]) if sizes[0] and sizes[1] else None,
        "largest_difference_of_share": max(abs(ours[name] - others[name]) for name in ours) if same else None,
    }


def ranks_alike(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Spearman's correlation of the sizes of the variables that both have; 0 where those of one are all the same."""
    names = [name for name in one if name in other]
    return float(rank_correlation(np.array([[one[n] for n in names]]), np.array([[other[n] for n in names]]))[0])

"""Tests of the explanations, from sums over patients: each with what it is held against, and whether it passed.

What counts as passing was fixed before any study was run; a method that fails is shown as failed.
"""

from math import sqrt
from typing import Any

from shared_model.attribution.maps import METHODS
from shared_model.attribution.sanity import STAGES
from shared_model.explanations import Cell, ExplanationSummary
from shared_model.protocol import StudyProtocol

Json = dict[str, Any]
_Z = 1.959963984540054

ALIKE = 0.5  # rank correlation to the untrained network's map from which on a map does not depend on training
REPEATS = 0.7  # rank correlation of an explanation with itself
AGREES = 0.5  # of attention with ablation, and of two methods
COMPLETE = 0.05  # share of patients whose completeness gap may be too large


def verdicts(summary: ExplanationSummary, protocol: StudyProtocol) -> list[Json]:
    """Every test that the summary has patients for."""
    cells, rows = summary.cells, []
    for method in METHODS:
        if cell := cells.get(f"faithfulness.{method}"):
            rows.append(_curve(method, "deletion", cell, at=0, chance_at=4, lower=True))
            rows.append(_curve(method, "insertion", cell, at=2, chance_at=6, lower=False))
        if cell := cells.get(f"pointing.{method}"):
            rows.append(_pointing(method, cell))
        if cell := cells.get(f"cascade.{method}"):
            rows.append(_cascade(method, cell))
        if cell := cells.get(f"repeat.{method}"):
            rows.append(_mean(method, "repeatability", cell, at=0, against=REPEATS))
    if cell := cells.get("complete.integrated_gradients"):
        rows.append(_complete("integrated_gradients", cell))
    return rows + _of_variables(summary)


def _of_variables(summary: ExplanationSummary) -> list[Json]:
    cells, rows = summary.cells, []
    if cell := cells.get("faithfulness.variables"):
        rows.append(_curve("variables", "deletion", cell, at=0, chance_at=2, lower=True))
    if cell := cells.get("complete.variables"):
        rows.append(_complete("variables", cell))
    if cell := cells.get("repeat.shapley"):
        rows.append(_mean("sampled_shapley", "repeatability", cell, at=0, against=REPEATS))
    if cell := cells.get("agree.shapley"):
        rows.append(_mean("variables", "agreement with sampled Shapley values", cell, at=0, against=AGREES))
    if cell := cells.get("attention.variables"):
        rows.append(_mean("attention_rollout", "agreement with ablation of variables", cell, at=0, against=AGREES))
        rows.append(_mean("variables", "agreement with ablation of variables", cell, at=1, against=AGREES))
    return rows


def _curve(method: str, test: str, cell: Cell, *, at: int, chance_at: int, lower: bool) -> Json:
    """Area under a curve against that of random orders: passed where their intervals do not meet, the right way round."""
    own, chance = _interval(cell, at), _interval(cell, chance_at)
    passed = own["high"] < chance["low"] if lower else own["low"] > chance["high"]
    return _row(method, test, cell, own, against=chance["value"], baseline="random order", passed=passed, chance=chance)


def _pointing(method: str, cell: Cell) -> Json:
    """Share of maps that are largest within the lesion against the lesion's share of the picture."""
    own, area = _interval(cell, 0), float(cell.means[2])
    return _row(method, "pointing game", cell, own, against=area, baseline="lesion's area", passed=own["low"] > area)


def _cascade(method: str, cell: Cell) -> Json:
    """Similarity to the map of the same network with all its parameters untrained."""
    stages = STAGES if len(cell.sums) == len(STAGES) else STAGES[-1:]
    steps = {stage: float(value) for stage, value in zip(stages, cell.means, strict=True)}
    own = _plain(steps[STAGES[-1]])
    passed = abs(own["value"]) <= ALIKE
    return {
        **_row(method, "randomised parameters", cell, own, against=ALIKE, baseline="at most", passed=passed),
        "stages": steps,
    }


def _complete(method: str, cell: Cell) -> Json:
    """Share of patients whose contributions do not add up to what they explain."""
    share = _plain(float(cell.means[1]))
    passed = share["value"] <= COMPLETE
    return _row(method, "completeness gap", cell, share, against=COMPLETE, baseline="at most", passed=passed)


def _mean(method: str, test: str, cell: Cell, *, at: int, against: float) -> Json:
    own = _plain(float(cell.means[at]))
    return _row(method, test, cell, own, against=against, baseline="at least", passed=own["value"] >= against)


def _row(
    method: str, test: str, cell: Cell, own: Json, *, against: float, baseline: str, passed: bool, chance: Json | None = None
) -> Json:
    return {
        "method": method,
        "test": test,
        "patients": cell.patients,
        **own,
        "against": against,
        "baseline": baseline,
        "baseline_interval": None if chance is None else [chance["low"], chance["high"]],
        "passed": bool(passed),
    }


def _interval(cell: Cell, at: int) -> Json:
    """Mean of sum ``at`` with Wald's interval; the sum of its squares comes next."""
    value, square = float(cell.means[at]), float(cell.means[at + 1])
    half = _Z * sqrt(max(square - value**2, 0.0) / max(cell.patients - 1.0, 1.0))
    return {"value": value, "low": value - half, "high": value + half}


def _plain(value: float) -> Json:
    return {"value": value, "low": None, "high": None}

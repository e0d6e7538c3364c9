"""Does something tell the outcome that should not? Each variable, all together, other columns, and the borders of pictures.

Cross-validated throughout, for a column of codes always fits the patients it was fitted to.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from client.cohort.tables import Table, number
from client.preflight.checks import Check, Problem, check_of, skipped

WARN, FAIL = 0.90, 0.95
LEAST_EVENTS = 10  # of each outcome
_FOLDS = 5
_BINS = 10
_PRIOR = 1.0  # patients by which a rare code is drawn to the mean

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def single_auc(values: Sequence[str] | Floats, labels: Labels) -> float:
    """AUC 0..1 of predicting ``labels`` ``[P]`` from one variable alone: codes (text), or numbers with NaN where missing.

    Each patient's score is the share of positives among the other folds' patients with the same code, or in the same
    tenth of the numbers; so any shape of dependence counts, and codes of one patient each do not. Numbers are also
    judged by their order, which needs no fitting.
    """
    scores = np.zeros(len(labels))
    for fit, held in _folds(labels):
        codes = _binned(values, fit) if isinstance(values, np.ndarray) else np.asarray(values, dtype=object)
        scores[held] = _target_means(codes, labels, fit)[held]
    auc = _auc(labels, scores)
    if not isinstance(values, np.ndarray):
        return auc
    ordered = _auc(labels, np.where(np.isnan(values), np.nanmedian(values), values))
    return max(auc, ordered, 1.0 - ordered)


def joint_auc(columns: Mapping[str, Floats | Sequence[str]], labels: Labels) -> float:
    """Cross-validated AUC of a logistic model of all ``columns`` together."""
    return _logistic_auc(np.column_stack([model_columns(values) for values in columns.values()]), labels)


def variable_check(columns: Mapping[str, Floats | Sequence[str]], labels: Labels) -> Check:
    """Whether one of the variables, or all together, tell the outcome nearly by themselves."""
    title = "No variable gives the outcome away"
    usable = {name: values for name, values in columns.items() if varies(values)}
    if (why := _too_few(labels)) or not usable:
        return skipped("leakage", title, why or "no variable has two values")
    alone = {name: single_auc(values, labels) for name, values in usable.items()}
    best = max(alone, key=lambda name: alone[name])
    failures = [_alone(name, auc, "the mapped variable") for name, auc in alone.items() if auc > FAIL]
    warnings = [_alone(name, auc, "the mapped variable") for name, auc in alone.items() if WARN < auc <= FAIL]
    found = f"strongest alone: {best}, AUC {alone[best]:.3f}"
    if len(usable) > 1:
        together = joint_auc(usable, labels)
        found += f"; all {len(usable)} together: {together:.3f}"
        if together > WARN:
            problem = _together(usable, labels, together)
            (failures if together > FAIL else warnings).append(problem)
    return check_of("leakage", title, found, warnings=warnings, failures=failures)


def column_check(table: Table, rows: Sequence[tuple[int, ...]], labels: Labels, *, used: set[str], decimal: str) -> Check:
    """Columns that are not mapped but tell the outcome: good to know before someone maps them."""
    title = "Columns that must never be mapped"
    if why := _too_few(labels):
        return skipped("columns", title, why)
    firsts = [members[0] for members in rows]
    told = {}
    for name, cells in table.columns.items():
        own = [cells[row] for row in firsts]
        if name not in used and varies(own):
            told[name] = single_auc(_numbers(own, decimal) if _is_numeric(own, decimal) else own, labels)
    warnings = [_alone(name, auc, "the column") for name, auc in sorted(told.items(), key=lambda item: -item[1]) if auc > WARN]
    return check_of("columns", title, f"{len(told)} columns that are not mapped", warnings=warnings)


def border_check(features: Mapping[str, Floats], labels: Labels) -> Check:
    """Whether the borders of pictures, where text and marks are, tell the outcome; features float ``[P, F]`` of each side."""
    title = "Picture borders do not give the outcome away"
    if why := _too_few(labels):
        return skipped("borders", title, why)
    told = {side: _logistic_auc(values, labels) for side, values in features.items()}
    best = max(told, key=lambda side: told[side])
    problems = [
        Problem(
            f"the {side} of the pictures alone predicts the outcome: AUC {auc:.3f}",
            "look for typed text, marks or frames there: crop them away",
        )
        for side, auc in told.items()
        if auc > WARN
    ]
    found = f"strongest: {best}, AUC {told[best]:.3f}"
    failing = told[best] > FAIL
    return check_of("borders", title, found, failures=problems if failing else (), warnings=() if failing else problems)


def _alone(name: str, auc: float, what: str) -> Problem:
    remedy = "is it known only after the outcome, or another word for it? then it is no input"
    return Problem(f"{what} {name!r} alone predicts the outcome: AUC {auc:.3f}", remedy)


def _together(columns: Mapping[str, Floats | Sequence[str]], labels: Labels, together: float) -> Problem:
    """Names the variable without which the rest does worst."""
    without = {
        name: joint_auc({other: values for other, values in columns.items() if other != name}, labels) for name in columns
    }
    culprit = min(without, key=lambda name: without[name])
    what = f"all variables together predict the outcome: AUC {together:.3f}; without {culprit!r} {without[culprit]:.3f}"
    return Problem(what, f"is {culprit!r} known only after the outcome, or does it encode it? then leave it out")


def _too_few(labels: Labels) -> str:
    events = int(min(labels.sum(), (1 - labels).sum()))
    return (
        f"{events} patients of the rarer outcome are too few to tell (at least {LEAST_EVENTS})" if events < LEAST_EVENTS else ""
    )


def _folds(labels: Labels) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    from sklearn.model_selection import StratifiedKFold

    yield from StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(np.zeros(len(labels)), labels)


def _target_means(codes: NDArray[np.object_], labels: Labels, fit: NDArray[np.int64]) -> Floats:
    """Share of positives among ``fit`` with each patient's code, float64 ``[P]``."""
    prior = float(labels[fit].mean())
    sums: dict[object, tuple[float, int]] = {}
    for place in fit:
        total, count = sums.get(codes[place], (0.0, 0))
        sums[codes[place]] = (total + labels[place], count + 1)
    rate = {code: (total + _PRIOR * prior) / (count + _PRIOR) for code, (total, count) in sums.items()}
    return np.array([rate.get(code, prior) for code in codes])


def _binned(values: Floats, fit: NDArray[np.int64]) -> NDArray[np.object_]:
    known = values[fit][~np.isnan(values[fit])]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1])) if known.size else known
    bins = np.searchsorted(edges, values).astype(object)
    bins[np.isnan(values)] = "missing"
    return bins


def model_columns(values: Floats | Sequence[str]) -> Floats:
    """Columns of a linear model: a number with an indicator of missing, or indicators of codes; float64 ``[P, F]``."""
    if isinstance(values, np.ndarray):
        gaps = np.isnan(values)
        middle = float(np.nanmedian(values)) if not gaps.all() else 0.0
        return np.column_stack([np.where(gaps, middle, values), gaps])
    codes = sorted(set(values))
    return np.array([[float(value == code) for code in codes] for value in values])


def _logistic_auc(features: Floats, labels: Labels) -> float:
    from sklearn.linear_model import LogisticRegression

    scores = np.zeros(len(labels))
    for fit, held in _folds(labels):
        mean, spread = features[fit].mean(axis=0), features[fit].std(axis=0)
        scaled = (features - mean) / np.where(spread > 1e-9, spread, 1.0)
        model = LogisticRegression(C=0.3, max_iter=500).fit(scaled[fit], labels[fit])
        scores[held] = model.decision_function(scaled[held])
    return _auc(labels, scores)


def _auc(labels: Labels, scores: Floats) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def varies(values: Floats | Sequence[str]) -> bool:
    """Whether there are two values, or a value and a gap of a code."""
    if isinstance(values, np.ndarray):
        return len(np.unique(values[~np.isnan(values)])) > 1
    return len(set(values)) > 1


def _is_numeric(cells: Sequence[str], decimal: str) -> bool:
    filled = [cell for cell in cells if cell]
    return len(set(filled)) > _BINS and all(number(cell, decimal=decimal) is not None for cell in filled)


def _numbers(cells: Sequence[str], decimal: str) -> Floats:
    found = (number(cell, decimal=decimal) for cell in cells)
    return np.array([np.nan if value is None else value for value in found])

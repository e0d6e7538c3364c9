"""Does the table say a thing twice? What a model owes to one of two such variables and what to the other cannot be told apart.

A decision tree foretells each variable from the others, cross-validated; it finds sums and scores of categories, such as
TI-RADS, as well as the same number in two units.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from client.preflight.checks import Check, Problem, check_of, skipped
from client.preflight.leakage import Floats, model_columns, varies

EXPLAINED = 0.9  # of a number's variance; of the patients whom its commonest code would get wrong
LEAST_PATIENTS, MOST_PATIENTS = 50, 2000
_NAMED = 0.02  # of a tree's importance
_FOLDS = 5


def redundancy_check(columns: Mapping[str, Floats | Sequence[str]]) -> Check:
    """Variables that follow from others; ``columns`` ``[P]`` each: numbers, NaN where missing, or codes, "" where missing."""
    title = "Variables that say the same"
    usable = {name: values for name, values in columns.items() if varies(values)}
    patients = len(next(iter(usable.values()), ()))
    if len(usable) < 2 or patients < LEAST_PATIENTS:
        return skipped("redundancy", title, f"two variables, and {LEAST_PATIENTS} patients, are the least to tell")
    usable = {name: _some(values, patients) for name, values in usable.items()}
    designs = {name: model_columns(values) for name, values in usable.items()}
    explained = {name: _explained(values, _without(designs, name)) for name, values in usable.items()}
    best = max(explained, key=lambda name: explained[name])
    told: list[set[str]] = []
    problems = []
    for name in sorted(usable, key=lambda name: -explained[name]):
        if explained[name] < EXPLAINED:
            break
        sources = _sources(usable[name], _without(designs, name))
        if not any({name, *sources} <= group for group in told):
            told.append({name, *sources})
            problems.append(_follows(name, sources, explained[name]))
    return check_of("redundancy", title, f"best foretold: {best}, {explained[best]:.0%} of it", warnings=problems)


def _some(values: Floats | Sequence[str], patients: int) -> Floats | list[str]:
    """Of the patients as many as it takes, the same for every variable."""
    chosen = np.random.default_rng(0).permutation(patients)[:MOST_PATIENTS]
    return values[chosen] if isinstance(values, np.ndarray) else [values[place] for place in chosen]


def _follows(name: str, sources: Sequence[str], explained: float) -> Problem:
    what = f"{name!r} follows from {', '.join(map(repr, sources))}: they explain {explained:.0%} of it"
    remedy = (
        "tell the center: what the model owes to each of these cannot be told apart; the study may leave one out, "
        "or make it a comparator"
    )
    return Problem(what, remedy)


def _explained(values: Floats | Sequence[str], others: Mapping[str, Floats]) -> float:
    """Share of ``values`` that a tree over ``others`` explains, cross-validated: 1 is all, 0 or less is nothing."""
    from sklearn.model_selection import KFold, cross_val_predict

    features, target = _known(values, np.column_stack(list(others.values())))
    if len(target) < LEAST_PATIENTS or len(set(target)) < 2:
        return 0.0
    folds = KFold(_FOLDS, shuffle=True, random_state=0)
    foretold = cross_val_predict(_tree(values), features, target, cv=folds)
    if isinstance(values, np.ndarray):
        return float(1.0 - np.mean((foretold - target) ** 2) / np.var(target))
    rarer = 1.0 - max(np.mean(target == code) for code in set(target))
    return float(1.0 - np.mean(foretold != target) / rarer)


def _sources(values: Floats | Sequence[str], others: Mapping[str, Floats]) -> list[str]:
    """Names of ``others`` on which a tree that explains ``values`` decides, the weightiest first."""
    features, target = _known(values, np.column_stack(list(others.values())))
    weights = _tree(values).fit(features, target).feature_importances_
    ends = np.cumsum([columns.shape[1] for columns in others.values()])
    shares = {name: part.sum() for name, part in zip(others, np.split(weights, ends[:-1]), strict=True)}
    return [name for name in sorted(shares, key=lambda name: -shares[name]) if shares[name] >= _NAMED]


def _known(values: Floats | Sequence[str], features: Floats) -> tuple[Floats, Floats]:
    """Rows of ``features`` ``[P, F]`` whose value is not missing, and these values; of codes, their numbers."""
    if isinstance(values, np.ndarray):
        known = ~np.isnan(values)
        return features[known], values[known]
    numbers = {code: float(number) for number, code in enumerate(sorted(set(values)))}
    known = np.array([code != "" for code in values])
    return features[known], np.array([numbers[code] for code in values])[known]


def _tree(values: Floats | Sequence[str]) -> Any:
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    return DecisionTreeRegressor(random_state=0) if isinstance(values, np.ndarray) else DecisionTreeClassifier(random_state=0)


def _without(designs: Mapping[str, Floats], name: str) -> dict[str, Floats]:
    return {other: columns for other, columns in designs.items() if other != name}

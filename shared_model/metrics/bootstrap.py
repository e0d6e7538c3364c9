"""Bootstrap intervals: patients drawn with replacement within each outcome class, all replicates at once.

Every statistic here depends on scores and outcomes only, so that a replicate is how often each score occurs in it. Beyond
``LEVELS`` distinct scores, neighbours share one (their mean): of 40,000 patients less than a thousandth apart.
"""

from dataclasses import dataclass

import numpy as np

from shared_model.counts import PROBABILITY_FLOOR
from shared_model.metrics.scale import Floats
from shared_model.metrics.smoothing import SPAN
from shared_model.record import Estimate

LEVELS = 1024
GRID = 64  # points at which a replicate's calibration curve is fitted
CHUNK = 250  # replicates held in memory at once


@dataclass(frozen=True)
class Replicates:
    """Statistics of each replicate: by name, float ``[replicates]``; ``curves`` ``[replicates, grid]`` at ``grid``.

    ``sample`` holds the same statistics of the sample itself.
    """

    statistics: dict[str, Floats]
    sample: dict[str, float]
    grid: Floats
    curves: Floats

    def interval(self, name: str, value: float, *, centre: float | None = None) -> Estimate:
        """``value`` with the percentile interval of the replicates, stretched to hold ``value`` if it does not.

        ``centre``, where given, is the value of the sample that the replicates were drawn from, if it is not quite ``value``.
        """
        shift = 0.0 if centre is None else value - centre
        low, high = np.quantile(self.statistics[name], [0.025, 0.975]) + shift
        count = self.statistics[name].size
        return Estimate(value, min(float(low), value), max(float(high), value), f"bootstrap, {count:,} replicates")

    def band(self, at: Floats) -> tuple[Floats, Floats]:
        """Pointwise 95 % band of the calibration curve at predicted probabilities ``at``."""
        low, high = np.quantile(self.curves, [0.025, 0.975], axis=0)
        return np.interp(at, self.grid, low), np.interp(at, self.grid, high)


def bootstrap(scores: Floats, labels: Floats, *, replicates: int, seed: int) -> Replicates | None:
    """Replicates of average precision, Brier score (also scaled), log loss, ICI, E50 and E90; ``None`` of one class."""
    if not 0.0 < labels.mean() < 1.0:
        return None
    return bootstrap_counts(*_levels(scores, labels), replicates=replicates, seed=seed)


def bootstrap_counts(values: Floats, negatives: Floats, positives: Floats, *, replicates: int, seed: int) -> Replicates:
    """The same of patients counted at ascending ``values`` of the score, each ``[levels]``; both classes are there."""
    rng = np.random.default_rng(seed)
    smoother = _Smoother(values, negatives + positives)
    parts = []
    for start in range(0, replicates, CHUNK):
        size = min(CHUNK, replicates - start)
        drawn = [rng.multinomial(int(n.sum()), n / n.sum(), size=size).astype(np.float64) for n in (negatives, positives)]
        parts.append(_statistics(values, drawn[0], drawn[1], smoother))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    curves = joined.pop("curves")
    sample = _statistics(values, negatives[None], positives[None], smoother)
    return Replicates(
        joined, {name: float(value[0]) for name, value in sample.items() if name != "curves"}, smoother.grid, curves
    )


def _levels(scores: Floats, labels: Floats) -> tuple[Floats, Floats, Floats]:
    """Ascending scores, and how many negatives and positives have each, ``[levels]``."""
    values, index = np.unique(scores, return_inverse=True)
    if values.size > LEVELS:
        order = np.argsort(scores, kind="stable")
        index = np.empty(scores.size, np.int64)
        index[order] = np.arange(scores.size) * LEVELS // scores.size
        values = np.bincount(index, weights=scores) / np.bincount(index)
    negatives, positives = (np.bincount(index[labels == label], minlength=values.size) for label in (0, 1))
    return values, negatives.astype(np.float64), positives.astype(np.float64)


def _statistics(values: Floats, negatives: Floats, positives: Floats, smoother: "_Smoother") -> dict[str, Floats]:
    """Each statistic ``[replicates]`` of counts ``[replicates, levels]``."""
    patients = negatives + positives
    n = patients.sum(axis=1)
    held = np.clip(values, PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
    brier = (negatives @ np.square(values) + positives @ np.square(1.0 - values)) / n
    prevalence = positives.sum(axis=1) / n
    curves = smoother.curves(patients, positives)
    return {
        "average_precision": _average_precision(negatives, positives),
        "brier": brier,
        "scaled_brier": 1.0 - brier / (prevalence * (1.0 - prevalence)),
        "log_loss": -(negatives @ np.log1p(-held) + positives @ np.log(held)) / n,
        **smoother.errors(patients, curves),
        "curves": curves,
    }


def _average_precision(negatives: Floats, positives: Floats) -> Floats:
    true = np.cumsum(positives[:, ::-1], axis=1)
    called = true + np.cumsum(negatives[:, ::-1], axis=1)
    precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0.0)
    return np.asarray(np.sum(positives[:, ::-1] * precision, axis=1) / true[:, -1], np.float64)


class _Smoother:
    """Loess at fixed points with the bandwidths of the sample, so that all replicates are a few matrix products."""

    def __init__(self, values: Floats, patients: Floats) -> None:
        self.values = values
        ranks = (np.cumsum(patients) - 0.5 * patients) / patients.sum()
        quantiles = np.interp(np.linspace(0.0, 1.0, GRID), ranks, values)
        self.grid = np.unique(np.concatenate([quantiles, np.linspace(values[0], values[-1], GRID // 2)]))
        distance = values - self.grid[:, None]  # [grid, levels]
        near = np.argsort(np.abs(distance), axis=1)
        held = np.cumsum(patients[near], axis=1)
        last = np.argmax(held >= SPAN * patients.sum(), axis=1)
        width = np.take_along_axis(np.abs(distance), np.take_along_axis(near, last[:, None], axis=1), axis=1)
        width = np.maximum(width * 1.0000001, 1e-9)
        kernel = np.clip(1.0 - np.abs(distance / width) ** 3, 0.0, None) ** 3
        self.moments = [(kernel * distance**power).T for power in range(3)]  # each [levels, grid]

    def curves(self, patients: Floats, positives: Floats) -> Floats:
        """Smoothed share of events ``[replicates, grid]``; where no line can be fitted, the local mean."""
        s0, s1, s2 = (patients @ moment for moment in self.moments)
        t0, t1 = (positives @ moment for moment in self.moments[:2])
        determinant = s0 * s2 - s1 * s1
        line = determinant > 1e-9 * s0 * s2
        fitted = np.where(line, (s2 * t0 - s1 * t1) / np.where(line, determinant, 1.0), t0 / np.maximum(s0, 1e-12))
        return np.asarray(np.clip(fitted, 0.0, 1.0), np.float64)

    def errors(self, patients: Floats, curves: Floats) -> dict[str, Floats]:
        """ICI, E50 and E90 ``[replicates]``."""
        right = np.clip(np.searchsorted(self.grid, self.values), 1, max(self.grid.size - 1, 1))
        left = right - 1
        if self.grid.size == 1:
            right = left
        span = np.maximum(self.grid[right] - self.grid[left], 1e-12)
        share = np.clip((self.values - self.grid[left]) / span, 0.0, 1.0)
        observed = curves[:, left] * (1.0 - share) + curves[:, right] * share
        distance = np.abs(observed - self.values)  # [replicates, levels]
        n = patients.sum(axis=1)
        order = np.argsort(distance, axis=1)
        ordered = np.take_along_axis(distance, order, axis=1)
        held = np.cumsum(np.take_along_axis(patients, order, axis=1), axis=1) / n[:, None]

        def quantile(share: float) -> Floats:
            chosen = np.take_along_axis(ordered, np.argmax(held >= share - 1e-12, axis=1)[:, None], axis=1)[:, 0]
            return np.asarray(chosen, np.float64)

        return {"ici": np.sum(patients * distance, axis=1) / n, "e50": quantile(0.5), "e90": quantile(0.9)}

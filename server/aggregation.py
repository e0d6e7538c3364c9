"""Aggregation rules: many updates, one pseudo-gradient. Each takes an update, uses it, and lets it go if it can.

An update is trained minus received parameters, float32 ``[D]``. The mean does not depend on the order in which replies
arrive: it is accumulated in twice the precision of float64, so that every engine and every rerun ends with the same bits.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared_model.errors import StudyError
from shared_model.messages import Vector
from shared_model.protocol import AggregationRule

CHUNK = 1 << 18  # coordinates at a time, so that what is temporary stays in the cache


class Aggregator(Protocol):
    """Takes updates one by one."""

    def add(self, site: str, update: Vector, *, weight: int) -> None:
        """Count ``update`` float32 ``[D]`` of a site with ``weight`` > 0 training patients."""

    def result(self) -> Vector:
        """The aggregated update, float32 ``[D]``."""


class WeightedMean:
    """``sum w_k u_k / sum w_k`` (McMahan et al. 2017), in memory that does not grow with the number of sites."""

    def __init__(self, size: int) -> None:
        self._total: NDArray[np.float64] = np.zeros(size)
        self._rest: NDArray[np.float64] = np.zeros(size)
        self._weight = 0

    def add(self, site: str, update: Vector, *, weight: int) -> None:
        """Count ``update``. ``weight * update`` is exact in float64: 24 bits times an integer below 2^29."""
        for start in range(0, len(update), CHUNK):
            part = slice(start, start + CHUNK)
            term = update[part].astype(np.float64) * weight
            before = self._total[part]
            after = before + term
            # Knuth's TwoSum: what the addition above rounded off.
            shifted = after - before
            self._rest[part] += (before - (after - shifted)) + (term - shifted)
            self._total[part] = after
        self._weight += weight

    def result(self) -> Vector:
        """The weighted mean, float32 ``[D]``."""
        return ((self._total + self._rest) / self._weight).astype(np.float32)


@dataclass(frozen=True)
class Summed:
    """What a secure sum has added up already."""

    mean: Vector

    def add(self, site: str, update: Vector, *, weight: int) -> None:
        """No single update is ever seen."""
        raise StudyError(f"an update of {site} alone in a secure sum")

    def result(self) -> Vector:
        """The weighted mean, float32 ``[D]``."""
        return self.mean


class _Stacked:
    """Base of rules that compare updates with one another, and so hold them all; weights are ignored, for a hostile site
    would choose its own."""

    def __init__(self, byzantine: int) -> None:
        self.byzantine = byzantine
        self._updates: dict[str, Vector] = {}

    def add(self, site: str, update: Vector, *, weight: int) -> None:
        """Hold ``update`` until the round ends."""
        self._updates[site] = update

    def _stack(self, *, minimum: int, rule: str) -> NDArray[np.float32]:
        """All updates, float32 ``[sites, D]``, in the order of the sites' names."""
        if len(self._updates) < minimum:
            raise StudyError(
                f"{rule} against {self.byzantine} hostile site(s) needs {minimum} replies, this round has "
                f"{len(self._updates)}: "
                "lower federation.aggregation.byzantine, or use weighted_mean"
            )
        return np.stack([self._updates[site] for site in sorted(self._updates)])


class Median(_Stacked):
    """Coordinate-wise median (Yin et al. 2018)."""

    def result(self) -> Vector:
        """The median, float32 ``[D]``."""
        middle: Vector = np.median(self._stack(minimum=1, rule="median"), axis=0).astype(np.float32)
        return middle


class TrimmedMean(_Stacked):
    """Coordinate-wise mean without the ``byzantine`` largest and smallest values (Yin et al. 2018); needs more than
    ``2 * byzantine`` sites."""

    def result(self) -> Vector:
        """The trimmed mean, float32 ``[D]``."""
        stack = np.sort(self._stack(minimum=2 * self.byzantine + 1, rule="trimmed_mean"), axis=0)
        kept = stack[self.byzantine : len(stack) - self.byzantine]
        mean: Vector = kept.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean


class Krum(_Stacked):
    """The one update nearest to its ``sites - byzantine - 2`` nearest others (Blanchard et al. 2017); needs at least
    ``2 * byzantine + 3`` sites."""

    def result(self) -> Vector:
        """The chosen update, float32 ``[D]``."""
        stack = self._stack(minimum=2 * self.byzantine + 3, rule="krum").astype(np.float64)
        distances = np.array([np.square(stack - update).sum(axis=1) for update in stack])  # [sites, sites]
        neighbours = len(stack) - self.byzantine - 2
        scores = np.sort(distances, axis=1)[:, 1 : neighbours + 1].sum(axis=1)
        chosen: Vector = stack[int(scores.argmin())].astype(np.float32)
        return chosen


def aggregator(rule: AggregationRule, *, size: int) -> Aggregator:
    """A fresh aggregator for one round of updates of length ``size``."""
    if rule.kind == "weighted_mean":
        return WeightedMean(size)
    if rule.kind == "median":
        return Median(rule.byzantine)
    return TrimmedMean(rule.byzantine) if rule.kind == "trimmed_mean" else Krum(rule.byzantine)

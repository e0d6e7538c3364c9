"""Two models, or a model and a clinician, on the same patients: what a site may say of their difference.

Differences are *first less second*. They are estimated where the patients are, for only there each patient's two scores are
known, and they add up over sites: the pooled difference is stratified by site, so no patient is compared with one of another
hospital. Unpaired intervals are never compared.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared_model.errors import MessageError
from shared_model.summaries import Estimate, Record

Floats = NDArray[np.float64]
MINIMUM_PER_CLASS = 2  # the variance of an AUC is of patients within each class
LEVEL = 0.95


@dataclass(frozen=True)
class Difference(Record):
    """A mean difference as a weighted sum over strata (sites), with the variance of that sum; a commutative monoid.

    Attributes:
        weight: of the strata, in patients, or in pairs of a positive and a negative patient of one site.
        total: sum over strata of weight times difference.
        variance: of ``total``.
        spread: sum over strata of their part of ``variance``, squared, over its degrees of freedom (Satterthwaite).
    """

    weight: float = 0.0
    total: float = 0.0
    variance: float = 0.0
    spread: float = 0.0

    @classmethod
    def of_means(cls, differences: Floats) -> Self:
        """The mean of one number a patient, ``[n]``; of fewer than two patients it is nobody's."""
        n = differences.size
        if n < 2:
            return cls()
        variance = n * float(np.var(differences, ddof=1))
        return cls(float(n), float(differences.sum()), variance, variance**2 / (n - 1))

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.weight + other.weight,
            self.total + other.total,
            self.variance + other.variance,
            self.spread + other.spread,
        )

    @property
    def value(self) -> float | None:
        """The difference, or None of nobody."""
        return self.total / self.weight if self.weight else None

    @property
    def standard_error(self) -> float | None:
        """Of ``value``."""
        return math.sqrt(self.variance) / self.weight if self.weight else None

    @property
    def z(self) -> float | None:
        """``value`` in standard errors; None where it does not vary."""
        return self.total / math.sqrt(self.variance) if self.variance > 0.0 else None

    def estimate(self, method: str) -> Estimate | None:
        """With an interval of 95 % by Student's t with Satterthwaite's degrees of freedom, which is as wide as few patients
        ask for and the normal one for many. Without one where the difference does not vary from patient to patient but is
        not zero: that claims a certainty which nobody has."""
        from scipy.special import ndtri, stdtrit

        if self.value is None or self.standard_error is None:
            return None
        if self.variance <= 0.0:
            bound = 0.0 if self.total == 0.0 else None
            return Estimate(self.value, bound, bound, method)
        level = 0.5 + LEVEL / 2
        quantile = float(stdtrit(self.variance**2 / self.spread, level) if self.spread > 0.0 else ndtri(level))
        half = quantile * self.standard_error
        return Estimate(self.value, self.value - half, self.value + half, method)


def auc_difference(first: Floats, second: Floats, labels: Floats, strata: NDArray[np.int64] | None = None) -> Difference | None:
    """AUC of ``first`` less that of ``second``, ``[n]`` each, after DeLong et al. 1988; None with fewer than two patients of a
    class that can be compared.

    With ``strata`` (the folds of a cross-validation, whose models' scores are of different scales), patients are ranked within
    their own stratum only.
    """
    strata = np.zeros(labels.size, np.int64) if strata is None else strata
    gains: dict[int, list[Floats]] = {0: [], 1: []}
    pairs = total = 0.0
    for stratum in np.unique(strata):
        members = strata == stratum
        positive, negative = members & (labels == 1), members & (labels == 0)
        if positive.any() and negative.any():
            of_positives = _above(first[positive], first[negative]) - _above(second[positive], second[negative])
            of_negatives = _below(first[negative], first[positive]) - _below(second[negative], second[positive])
            weight = float(of_positives.size * of_negatives.size)
            pairs, total = pairs + weight, total + weight * float(of_positives.mean())
            gains[1].append(of_positives)
            gains[0].append(of_negatives)
    classes = [np.concatenate(gains[outcome]) for outcome in (1, 0) if gains[outcome]]
    if not classes or min(own.size for own in classes) < MINIMUM_PER_CLASS:
        return None
    parts = [pairs**2 * float(np.var(own, ddof=1)) / own.size for own in classes]
    spread = sum(part**2 / (own.size - 1) for part, own in zip(parts, classes, strict=True))
    return Difference(pairs, total, sum(parts), spread)


def stratified_auc(scores: Floats, labels: Floats, strata: NDArray[np.int64]) -> Estimate | None:
    """AUC within strata, weighted by their pairs, as ``auc_difference`` from scores that are all alike (whose AUC is a half).

    For a cross-validation: the interval holds the models of the folds as they are (LeDell et al. 2015), and does not count that
    other patients would have trained others.
    """
    found = auc_difference(scores, np.zeros_like(scores), labels, strata)
    if found is None or found.value is None or found.standard_error is None:
        return None
    value, error = found.value + 0.5, found.standard_error
    method = "DeLong within folds, logit"
    if error == 0.0 or not 0.0 < value < 1.0:
        return Estimate(value, None, None, method)
    middle, half = math.log(value / (1.0 - value)), 1.959963984540054 * error / (value * (1.0 - value))
    low, high = (1.0 / (1.0 + math.exp(-bound)) for bound in (middle - half, middle + half))
    return Estimate(value, low, high, method)


def _above(scores: Floats, others: Floats) -> Floats:
    """For each of ``scores``, the share of ``others`` that lie below it, ties counted half."""
    ordered = np.sort(others)
    ranks = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    return np.asarray(ranks / (2.0 * others.size), np.float64)


def _below(scores: Floats, others: Floats) -> Floats:
    return np.asarray(1.0 - _above(scores, others), np.float64)


@dataclass(frozen=True)
class FourFold(Record):
    """Patients of one class by whom they are called positive: by both, by the first only, the second only, by neither."""

    both: int = 0
    first: int = 0
    second: int = 0
    neither: int = 0

    @classmethod
    def of(cls, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Self:
        """Counts of two calls ``[n]``."""
        return cls(
            int(np.sum(first & second)),
            int(np.sum(first & ~second)),
            int(np.sum(~first & second)),
            int(np.sum(~first & ~second)),
        )

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.both + other.both, self.first + other.first, self.second + other.second, self.neither + other.neither
        )

    @property
    def patients(self) -> int:
        """Of all four cells."""
        return self.both + self.first + self.second + self.neither

    @property
    def difference(self) -> Estimate | None:
        """Share called positive by the first less that by the second, with Bonett and Price's interval (2012): Wald's after one
        patient is added to each discordant cell, which keeps its coverage with few patients."""
        from scipy.special import ndtri

        if not self.patients:
            return None
        n = self.patients + 2
        first, second = (self.first + 1) / n, (self.second + 1) / n
        middle = first - second
        half = float(ndtri(0.5 + LEVEL / 2)) * math.sqrt(max(first + second - middle**2, 0.0) / n)
        value = (self.first - self.second) / self.patients
        return Estimate(value, max(-1.0, middle - half), min(1.0, middle + half), "Bonett-Price")

    @property
    def mcnemar(self) -> float | None:
        """Exact two-sided p of McNemar's test that both call equally many positive; None where they never differ."""
        from scipy.special import bdtr

        discordant = self.first + self.second
        return min(1.0, 2.0 * float(bdtr(min(self.first, self.second), discordant, 0.5))) if discordant else None


@dataclass(frozen=True)
class PairedCalls(Record):
    """Who calls whom positive when the first calls so from ``threshold`` on, by outcome; adds up over sites and folds."""

    threshold: float
    positives: FourFold = FourFold()
    negatives: FourFold = FourFold()

    @classmethod
    def of(cls, first: NDArray[np.bool_], second: NDArray[np.bool_], labels: Floats, *, threshold: float) -> Self:
        """Of the calls of both ``[n]`` of patients with ``labels`` ``[n]``, 0 or 1."""
        positive = labels == 1
        return cls(threshold, FourFold.of(first[positive], second[positive]), FourFold.of(first[~positive], second[~positive]))

    def __add__(self, other: Self) -> Self:
        if self.threshold != other.threshold:
            raise MessageError(f"paired calls at {self.threshold} and {other.threshold} do not add")
        return type(self)(self.threshold, self.positives + other.positives, self.negatives + other.negatives)

    @property
    def net_benefit(self) -> Difference:
        """Net benefit a patient at ``threshold`` (Vickers and Elkin 2006), first less second."""
        odds = self.threshold / (1.0 - self.threshold)
        gains = (1.0, -1.0, -odds, odds)
        counts = (self.positives.first, self.positives.second, self.negatives.first, self.negatives.second)
        n = self.positives.patients + self.negatives.patients
        if n < 2:
            return Difference()
        total = sum(count * gain for count, gain in zip(counts, gains, strict=True))
        squares = sum(count * gain**2 for count, gain in zip(counts, gains, strict=True))
        variance = n * max(squares - total**2 / n, 0.0) / (n - 1)
        return Difference(float(n), total, variance, variance**2 / (n - 1))


@dataclass(frozen=True)
class PairedComparison(Record):
    """Two models on the same test patients of one site.

    ``auc`` is None where it cannot be compared. ``brier`` is of squared errors, so that below zero the first is better.
    """

    patients: int
    positives: int
    auc: Difference | None
    brier: Difference
    calls: tuple[PairedCalls, ...]

    @classmethod
    def of(
        cls,
        first: Floats,
        second: Floats,
        labels: Floats,
        *,
        thresholds: tuple[float, ...],
        strata: NDArray[np.int64] | None = None,
    ) -> Self:
        """Of probabilities ``first`` and ``second`` ``[n]`` of patients with ``labels`` ``[n]``; ``strata`` as in
        ``auc_difference``."""
        return cls(
            patients=int(labels.size),
            positives=int(np.sum(labels == 1)),
            auc=auc_difference(first, second, labels, strata),
            brier=Difference.of_means(np.square(first - labels) - np.square(second - labels)),
            calls=tuple(PairedCalls.of(first >= cut, second >= cut, labels, threshold=cut) for cut in thresholds),
        )

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.patients + other.patients,
            self.positives + other.positives,
            _sum(self.auc, other.auc),
            self.brier + other.brier,
            tuple(a + b for a, b in zip(self.calls, other.calls, strict=True)),
        )


def _sum(first: Difference | None, second: Difference | None) -> Difference | None:
    if first is None or second is None:
        return first or second
    return first + second

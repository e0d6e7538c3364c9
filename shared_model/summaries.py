"""What a site may say about its patients: additive, typed values.

Each summary is a commutative monoid: ``a + b`` is the summary of both groups of patients together, ``zero`` is the
summary of nobody. So any grouping of sites gives the same pooled answer. Histograms and sums only: no value of one patient.
Those of a model's scores are in ``histogram``, ``counts`` and ``assessment``, and can be had from here as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared_model.assessment import Assessment
from shared_model.counts import PROBABILITY_FLOOR, ScoreSums, ThresholdCounts
from shared_model.errors import MessageError
from shared_model.histogram import ScoreHistogram
from shared_model.record import Estimate, Record

__all__ = [
    "PROBABILITY_FLOOR",
    "Assessment",
    "CategoryCounts",
    "CohortFlow",
    "Estimate",
    "Moments",
    "Normalization",
    "PartCounts",
    "Performance",
    "Record",
    "ScoreHistogram",
    "ScoreSums",
    "ThresholdCounts",
]


@dataclass(frozen=True)
class Moments(Record):
    """Count, sum and sum of squares of one numeric variable, of patients with a value."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Self:
        """Moments of ``values``, float ``[n]`` without missing ones."""
        return cls(int(values.size), float(values.sum()), float(np.square(values).sum()))

    def __add__(self, other: Self) -> Self:
        return type(self)(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float:
        """Mean, or 0 of nobody."""
        return self.total / self.count if self.count else 0.0

    @property
    def standard_deviation(self) -> float:
        """Sample standard deviation (n - 1), or 0 where it is undefined."""
        if self.count < 2:
            return 0.0
        return float(np.sqrt(max(self.squares - self.count * self.mean**2, 0.0) / (self.count - 1)))


@dataclass(frozen=True)
class CategoryCounts(Record):
    """Patients in each category of one variable, in the protocol's order."""

    counts: tuple[int, ...]

    def __add__(self, other: Self) -> Self:
        if len(self.counts) != len(other.counts):
            raise MessageError(f"category counts of {len(self.counts)} and {len(other.counts)} categories do not add")
        return type(self)(tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)))


@dataclass(frozen=True)
class Normalization(Record):
    """Location and scale of a study's variables, from training patients only; the network standardises with them.

    Attributes:
        mean, scale: of each numeric variable (of its logarithm where the protocol says so), in the protocol's order;
            ``scale`` > 0.
        frequency: for each categorical variable, the share of each category among patients with a value.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    frequency: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, moments: Sequence[Moments], counts: Sequence[CategoryCounts]) -> Self:
        """From (pooled) moments and category counts in the protocol's order.

        A variable without spread, or that nobody measured, gets scale 1; categories that nobody measured get equal shares.
        """
        return cls(
            mean=tuple(m.mean for m in moments),
            scale=tuple(m.standard_deviation or 1.0 for m in moments),
            frequency=tuple(
                tuple(count / sum(c.counts) for count in c.counts) if sum(c.counts) else (1.0 / len(c.counts),) * len(c.counts)
                for c in counts
            ),
        )


@dataclass(frozen=True)
class Performance(Record):
    """How a model does on one group of patients of one site.

    ``histogram``, ``sums`` and ``thresholds`` add up over sites. ``auc`` and the ``assessment`` (of the test patients only)
    are the site's own exact numbers, which do not.
    """

    histogram: ScoreHistogram
    sums: ScoreSums
    thresholds: tuple[ThresholdCounts, ...]
    auc: Estimate | None = None
    assessment: Assessment | None = None


@dataclass(frozen=True)
class CohortFlow(Record):
    """Patients from the export to the tensors; ``excluded`` counts by reason. Images likewise. What was not to be
    told is ``None``."""

    found: int | None
    excluded: dict[str, int]
    images_found: int | None
    images_unusable: int | None


@dataclass(frozen=True)
class PartCounts(Record):
    """Labelled patients of one part of a site's cohort (``train``, ``tune`` or ``test``). ``positives`` is ``None`` where
    it was not to be told."""

    patients: int
    positives: int | None

    def __add__(self, other: Self) -> Self:
        known = self.positives is not None and other.positives is not None
        return type(self)(self.patients + other.patients, (self.positives or 0) + (other.positives or 0) if known else None)

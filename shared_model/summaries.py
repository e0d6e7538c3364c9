"""What a site may say about its patients: additive, typed values.

Each summary is a commutative monoid: ``a + b`` is the summary of both groups of patients together, ``zero`` is the
summary of nobody. So any grouping of sites gives the same pooled answer. Histograms and sums only: no value of one patient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from shared_model.errors import MessageError

PROBABILITY_FLOOR = 1e-7  # probabilities are held this far from 0 and 1 before a logarithm is taken


class Record:
    """Base of everything that crosses the network: decoded strictly, no unknown keys, every number finite."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


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
class ScoreHistogram(Record):
    """Patients by predicted probability, per outcome class, on ``bins`` equal bins of [0, 1].

    Attributes:
        negatives, positives: patients in each bin; the last bin includes 1.0.
    """

    negatives: tuple[int, ...]
    positives: tuple[int, ...]

    @classmethod
    def of(cls, scores: NDArray[np.float64], labels: NDArray[np.float64], *, bins: int) -> Self:
        """Histogram of ``scores`` float ``[n]`` in 0..1 with ``labels`` ``[n]`` 0 or 1."""
        index = np.minimum((scores * bins).astype(np.int64), bins - 1)
        negatives = np.bincount(index[labels == 0], minlength=bins)
        positives = np.bincount(index[labels == 1], minlength=bins)
        return cls(tuple(map(int, negatives)), tuple(map(int, positives)))

    @classmethod
    def zero(cls, bins: int) -> Self:
        """The histogram of nobody."""
        return cls((0,) * bins, (0,) * bins)

    def __add__(self, other: Self) -> Self:
        if len(self.negatives) != len(other.negatives):
            raise MessageError(f"histograms of {len(self.negatives)} and {len(other.negatives)} bins do not add")
        return type(self)(
            tuple(a + b for a, b in zip(self.negatives, other.negatives, strict=True)),
            tuple(a + b for a, b in zip(self.positives, other.positives, strict=True)),
        )


@dataclass(frozen=True)
class ThresholdCounts(Record):
    """The confusion matrix at one threshold: a patient is called positive if the probability is at least it."""

    threshold: float
    true_positive: int = 0
    false_positive: int = 0
    true_negative: int = 0
    false_negative: int = 0

    @classmethod
    def of(cls, scores: NDArray[np.float64], labels: NDArray[np.float64], *, threshold: float) -> Self:
        """Counts of ``scores`` float ``[n]`` with ``labels`` ``[n]`` 0 or 1."""
        called, positive = scores >= threshold, labels == 1
        return cls(
            threshold,
            true_positive=int(np.sum(called & positive)),
            false_positive=int(np.sum(called & ~positive)),
            true_negative=int(np.sum(~called & ~positive)),
            false_negative=int(np.sum(~called & positive)),
        )

    def __add__(self, other: Self) -> Self:
        if self.threshold != other.threshold:
            raise MessageError(f"confusion matrices at {self.threshold} and {other.threshold} do not add")
        return type(self)(
            self.threshold,
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.true_negative + other.true_negative,
            self.false_negative + other.false_negative,
        )


@dataclass(frozen=True)
class ScoreSums(Record):
    """Sums over patients from which Brier score, log loss and calibration-in-the-large (O/E) follow.

    ``log_loss`` sums the negative log likelihood with probabilities held ``PROBABILITY_FLOOR`` away from 0 and 1.
    """

    count: int = 0
    positives: int = 0
    probability: float = 0.0
    squared_error: float = 0.0
    log_loss: float = 0.0

    @classmethod
    def of(cls, scores: NDArray[np.float64], labels: NDArray[np.float64]) -> Self:
        """Sums of ``scores`` float ``[n]`` in 0..1 with ``labels`` ``[n]`` 0 or 1."""
        held = np.clip(scores, PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
        loss = -np.where(labels == 1, np.log(held), np.log1p(-held))
        return cls(
            int(scores.size),
            int(np.sum(labels == 1)),
            float(scores.sum()),
            float(np.square(scores - labels).sum()),
            float(loss.sum()),
        )

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.count + other.count,
            self.positives + other.positives,
            self.probability + other.probability,
            self.squared_error + other.squared_error,
            self.log_loss + other.log_loss,
        )


@dataclass(frozen=True)
class Estimate(Record):
    """A number with its interval and how it was made; ``None`` bounds where no interval can be had."""

    value: float
    low: float | None
    high: float | None
    method: str


@dataclass(frozen=True)
class Performance(Record):
    """How a model does on one group of patients of one site.

    ``histogram``, ``sums`` and ``thresholds`` add up over sites. ``auc``, ``average_precision`` and the calibration
    estimates are the site's own exact numbers (they are not additive, and are ``None`` where not estimable).
    ``calibration_intercept`` is calibration-in-the-large: the slope held at 1, not the intercept fitted beside the slope.
    """

    histogram: ScoreHistogram
    sums: ScoreSums
    thresholds: tuple[ThresholdCounts, ...]
    auc: Estimate | None = None
    average_precision: float | None = None
    calibration_intercept: Estimate | None = None
    calibration_slope: Estimate | None = None


@dataclass(frozen=True)
class CohortFlow(Record):
    """Patients from the export to the tensors; ``excluded`` counts by reason. Images likewise. ``found`` is ``None`` where
    it was not to be told."""

    found: int | None
    excluded: dict[str, int]
    images_found: int
    images_unusable: int


@dataclass(frozen=True)
class PartCounts(Record):
    """Labelled patients of one part of a site's cohort (``train``, ``tune`` or ``test``). ``positives`` is ``None`` where
    it was not to be told."""

    patients: int
    positives: int | None

    def __add__(self, other: Self) -> Self:
        known = self.positives is not None and other.positives is not None
        return type(self)(self.patients + other.patients, (self.positives or 0) + (other.positives or 0) if known else None)

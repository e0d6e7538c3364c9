"""Confusion matrices and sums over patients: what adds up of a model's scores, besides their histogram."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared_model.errors import MessageError
from shared_model.record import Record

PROBABILITY_FLOOR = 1e-7  # probabilities are held this far from 0 and 1 before a logarithm is taken


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

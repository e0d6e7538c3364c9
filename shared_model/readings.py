"""A model beside what clinicians said of the same patients (``[comparators]``): what a site may say of it."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared_model.paired import Difference, Floats, PairedCalls, auc_difference
from shared_model.summaries import Estimate, Record

REPLICATES = 400


@dataclass(frozen=True)
class Reading(Record):
    """A model and one comparator on the test patients who have both.

    Attributes:
        without: test patients without a reading.
        calls: model (first, at each threshold of the protocol) and comparator (second, by its own rule).
        auc: of the model less that of the comparator's scale (its categories in order); None where it cannot be compared.
        avoided: false positives a patient that the model avoids at the comparator's own sensitivity; weight in patients.
        own_auc: of the comparator's scale at this site alone; lost when sites are added up.
    """

    patients: int
    positives: int
    without: int
    calls: tuple[PairedCalls, ...]
    auc: Difference | None = None
    avoided: Difference = field(default_factory=Difference)
    own_auc: Estimate | None = None

    def __add__(self, other: Self) -> Self:
        auc = self.auc + other.auc if self.auc and other.auc else self.auc or other.auc
        return type(self)(
            self.patients + other.patients,
            self.positives + other.positives,
            self.without + other.without,
            tuple(a + b for a, b in zip(self.calls, other.calls, strict=True)),
            auc,
            self.avoided + other.avoided,
        )


def read(
    scores: Floats,
    labels: Floats,
    ratings: Floats,
    called: NDArray[np.bool_],
    *,
    thresholds: tuple[float, ...],
    own_auc: Estimate | None,
    seed: int,
    strata: NDArray[np.int64] | None = None,
) -> Reading:
    """``scores`` (probabilities), ``labels``, ``ratings`` (NaN: none) and calls of the comparator, ``[n]`` each; ``strata`` as
    in ``auc_difference``."""
    rated = ~np.isnan(ratings)
    scores, labels, ratings, called = scores[rated], labels[rated], ratings[rated], called[rated]
    strata = None if strata is None else strata[rated]
    return Reading(
        patients=int(labels.size),
        positives=int(np.sum(labels == 1)),
        without=int(np.sum(~rated)),
        calls=tuple(PairedCalls.of(scores >= cut, called, labels, threshold=cut) for cut in thresholds),
        auc=auc_difference(scores, ratings, labels, strata),
        avoided=avoided_at_equal_sensitivity(scores, called, labels, seed=seed),
        own_auc=own_auc,
    )


def avoided_at_equal_sensitivity(scores: Floats, called: NDArray[np.bool_], labels: Floats, *, seed: int) -> Difference:
    """False positives of the comparator less those of the model at the highest threshold where it misses no more positives.

    The threshold follows from the same patients, so its own uncertainty is part of the variance: that of a bootstrap which
    draws positives and negatives apart and looks for the threshold anew in each replicate.
    """
    positive = labels == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return Difference()
    positives, negatives = (scores[positive], called[positive]), (scores[~positive], called[~positive])
    rng = np.random.default_rng(seed)

    def avoided(chosen: NDArray[np.intp], others: NDArray[np.intp]) -> float:
        found = int(positives[1][chosen].sum())
        ranked = np.sort(positives[0][chosen])[::-1]
        cut = ranked[found - 1] if found else np.inf
        return float(negatives[1][others].sum() - np.sum(negatives[0][others] >= cut))

    total = avoided(np.arange(n_positive), np.arange(n_negative))
    replicates = [
        avoided(rng.integers(n_positive, size=n_positive), rng.integers(n_negative, size=n_negative)) for _ in range(REPLICATES)
    ]
    return Difference(float(labels.size), total, float(np.var(replicates, ddof=1)))

"""The model's risk made right for one hospital: logistic recalibration on its own tuning patients, with an interval.

Log odds of the outcome = intercept + slope x the model's log odds, fitted by maximum likelihood (Cox 1958). The interval of a
patient's risk is Wald's on the logit scale: it says how well this hospital's patients fix the two numbers, and nothing of
what the model does not know of the patient.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FEWEST = 20  # tuning patients, and
FEWEST_OF_A_CLASS = 5
_Z = 1.959963984540054
_STEEPEST = 20.0


@dataclass(frozen=True)
class Risk:
    """A probability with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Recalibration:
    """``covariance`` of (intercept, slope) ``[2, 2]``; ``patients`` it was fitted on."""

    intercept: float
    slope: float
    covariance: Floats
    patients: int

    def risk(self, logit: float) -> Risk:
        """Recalibrated risk of a patient of the model's ``logit``."""
        point = np.array([1.0, logit])
        middle, spread = self.intercept + self.slope * logit, float(np.sqrt(point @ self.covariance @ point))
        value, low, high = map(float, _sigmoid(middle + spread * np.array([0.0, -_Z, _Z])))
        return Risk(value, low, high)


def fit(logits: Floats, labels: Floats) -> Recalibration | str:
    """Recalibration on patients of ``logits`` ``[n]`` and ``labels`` ``[n]``, or in words why there is none."""
    events = int(labels.sum())
    if len(labels) < FEWEST or min(events, len(labels) - events) < FEWEST_OF_A_CLASS:
        return (
            f"{len(labels)} tuning patients are too few for it ({FEWEST}, and {FEWEST_OF_A_CLASS} of each outcome, are needed)"
        )
    design = np.stack([np.ones_like(logits), logits], axis=1)
    beta = np.array([0.0, 1.0])
    for _ in range(50):
        chance = _sigmoid(design @ beta)
        information = (design * (chance * (1.0 - chance))[:, None]).T @ design
        if np.linalg.cond(information) > 1e12:
            return "the tuning patients' risks do not differ, or separate the outcomes wholly"
        step = np.linalg.solve(information, design.T @ (labels - chance))
        beta = beta + step
        if np.abs(beta).max() > _STEEPEST:
            return "the tuning patients' risks separate the outcomes wholly"
        if np.abs(step).max() < 1e-10:
            return Recalibration(
                float(beta[0]), float(beta[1]), np.asarray(np.linalg.inv(information), dtype=np.float64), len(labels)
            )
    return "its fit does not come to an end"


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -700.0, 700.0))))

"""What one explanation of several patients is: a number of logits for each part of the input."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Attribution:
    """Contributions to the logit of ``B`` patients.

    Attributes:
        names: parts of the input, ``J`` of them: variables or modalities.
        values: float64 ``[B, J]``, logits; 0 for what a patient has not got.
        logit: float64 ``[B]``, what the network says of the patient.
        reference: float64 ``[B]``, what it says where every part is at its baseline.
    """

    names: tuple[str, ...]
    values: Floats
    logit: Floats
    reference: Floats

    @property
    def gap(self) -> Floats:
        """How far the contributions miss ``logit - reference``, relative to their absolute sum; ``[B]``, 0 where nothing
        contributes."""
        missed = np.abs(self.values.sum(axis=1) - (self.logit - self.reference))
        size = np.abs(self.values).sum(axis=1)
        return np.asarray(np.where(size > 0.0, missed / np.where(size > 0.0, size, 1.0), missed))


def contributions(names: tuple[str, ...], values: Floats, *, logit: Floats, reference: Floats) -> Attribution:
    """An attribution, its shapes checked."""
    if values.shape != (len(logit), len(names)) or reference.shape != logit.shape:
        raise ValueError(f"contributions {values.shape} of {len(names)} parts and {len(logit)} patients")
    return Attribution(names, values, logit, reference)

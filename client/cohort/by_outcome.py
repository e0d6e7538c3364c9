"""Each variable by outcome, as the first table of a paper has it: values and what is missing, negative and positive apart."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.cohort.findings import OutcomeFinding, VariableFinding
from client.cohort.values import Values
from shared_model.protocol import StudyProtocol
from shared_model.variables import Variable

OUTCOMES = ("negative", "positive")


def with_outcomes(values: Mapping[str, Values], labels: Sequence[int], protocol: StudyProtocol) -> dict[str, VariableFinding]:
    """The findings of ``values``, each also by outcome; ``labels`` 0 or 1 of the same patients."""
    outcome, wanted = np.asarray(labels), protocol.mapped
    return {
        name: replace(
            value.finding,
            by_outcome={called: _summary(value.array[outcome == place], wanted[name]) for place, called in enumerate(OUTCOMES)},
        )
        for name, value in values.items()
    }


def _summary(array: NDArray[np.float64], variable: Variable) -> OutcomeFinding:
    present = array[~np.isnan(array)]
    missing = array.size - present.size
    if variable.kind == "categorical":
        counts = {category: int((present == place).sum()) for place, category in enumerate(variable.categories)}
        return OutcomeFinding(array.size, missing, categories=counts)
    if not present.size:
        return OutcomeFinding(array.size, missing)
    low, middle, high = (float(value) for value in np.quantile(present, [0.25, 0.5, 0.75]))
    return OutcomeFinding(array.size, missing, quartiles=(low, middle, high))

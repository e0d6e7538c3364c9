"""What clinicians said of each patient: the comparators of a protocol, read as variables are."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from client.cohort.tables import Table
from client.cohort.values import Source, Values, read_values
from client.site_config import SiteConfig
from shared_model.errors import CohortError, Fault
from shared_model.protocol import StudyProtocol


def read_ratings(
    table: Table,
    config: SiteConfig,
    protocol: StudyProtocol,
    rows: Sequence[tuple[int, ...]],
    *,
    values: Mapping[str, Values],
    where: str,
) -> dict[str, NDArray[np.float64]]:
    """Each comparator of the patients whose table rows are ``rows``, float64 ``[P]``: a number in the protocol's unit, or the
    place of a category; NaN where missing, and throughout where the site does not map it. ``values`` are the study's variables.

    Raises:
        CohortError: rows of one patient that disagree, or a unit that cannot be right.
    """
    ratings: dict[str, NDArray[np.float64]] = {}
    faults: list[Fault] = []
    for name, comparator in protocol.comparators.items():
        mapping = config.cohort.comparators.get(name)
        if comparator.variable is not None:
            ratings[name] = values[comparator.variable].array
        elif mapping is None:
            ratings[name] = np.full(len(rows), np.nan)
        else:
            variable = comparator.defined(protocol.variables)
            source = Source(name, variable, mapping, table, config.cohort.decimal, where, section="cohort.comparators")
            read = read_values(source, rows)
            faults += read.faults
            ratings[name] = read.array
    if faults:
        raise CohortError(faults)
    return ratings

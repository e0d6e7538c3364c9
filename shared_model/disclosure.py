"""What a site says of what it did not say: the words for a result that may not leave it.

A suppression names what was left out and why, from closed lists of words: never a count, for the count is what is protected.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from shared_model.summaries import Record


@dataclass(frozen=True)
class Rule:
    """From how many patients on something may be said of them. ``minimum_patients`` is the fewest in a group of whom a
    statistic is told, ``minimum_cell`` the fewest in a cell of a table that is not empty (1: any)."""

    minimum_patients: int = 10
    minimum_cell: int = 5


class Why(StrEnum):
    """Why something was left out. A closed set: no text of a site's own crosses the network."""

    FEW_PATIENTS = "fewer patients than this site's minimum"
    FEW_OF_A_CLASS = "fewer patients of one outcome than this site's minimum for a cell"
    SMALL_CELL = "a cell with fewer patients than this site's minimum"
    DERIVABLE = "a small cell would follow from it by subtraction"
    ALIKE = "it would tell the value of single patients"
    PRIVATE = "not told under differential privacy"


@dataclass(frozen=True)
class Suppression(Record):
    """Something that a reply was to hold, and that its site left out. ``what`` is one of the names that this module makes."""

    what: Annotated[str, Field(max_length=120, pattern=r"^[A-Za-z0-9_ .,>=-]+$")]
    why: Why


def performance_on(part: str, *, personal: bool = False) -> str:
    """Name of the performance of a model on one part of the patients; ``personal`` of the site's own model."""
    return f"performance{' of the own model' if personal else ''} on {part} patients"


def is_suppressed(what: str, suppressed: Iterable[Suppression]) -> bool:
    """Whether ``what`` is among ``suppressed``."""
    return any(suppression.what == what for suppression in suppressed)

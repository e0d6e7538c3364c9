"""What a site may tell of explanations: sums over groups of patients, which add up over sites.

A ``Cell`` is a number of patients and the sum of a vector over them. Each patient's vector has an absolute sum of 1 at most
(contributions), or entries within -1..1 (results of tests), so that a sum says little of any one. Cells have names that
follow from the protocol (``explanation_layout``), so that a summary is also one flat vector of known length: that is what
secure aggregation adds up and what noise is added to. Never in a summary: a map, an example, a patient's own values.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from shared_model.errors import MessageError
from shared_model.summaries import Record

CLASSES = ("low", "high")  # predicted risk below the protocol's first threshold, and from it on
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cell(Record):
    """``patients`` and the sum of their vectors; with noise neither is a whole number, nor need it be above 0."""

    patients: float
    sums: tuple[float, ...]

    def __add__(self, other: Self) -> Self:
        if len(self.sums) != len(other.sums):
            raise MessageError(f"cells of {len(self.sums)} and {len(other.sums)} sums do not add")
        return type(self)(self.patients + other.patients, tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)))

    @property
    def means(self) -> Floats:
        """Mean vector of a patient; zeros of nobody."""
        sums = np.array(self.sums)
        return np.asarray(sums / self.patients if self.patients > 0.0 else np.zeros_like(sums))


@dataclass(frozen=True)
class ExplanationSummary(Record):
    """Cells by name; a cell that is not there is of nobody. A commutative monoid."""

    cells: dict[Annotated[str, Field(max_length=200)], Cell] = field(default_factory=dict)

    def __add__(self, other: Self) -> Self:
        cells = dict(self.cells)
        for name, cell in other.cells.items():
            cells[name] = cells[name] + cell if name in cells else cell
        return type(self)(cells)

    @classmethod
    def of(cls, rows: Mapping[str, tuple[NDArray[np.bool_], Floats]]) -> Self:
        """From, by cell, which of ``n`` patients belong to it (bool ``[n]``) and their vectors ``[n, k]``; empty cells are
        left out. A patient with NaN in the vector does not belong."""
        cells = {}
        for name, (members, vectors) in rows.items():
            known = members & ~np.isnan(vectors).any(axis=1)
            if known.any():
                cells[name] = Cell(float(known.sum()), tuple(map(float, vectors[known].sum(axis=0))))
        return cls(cells)

    def flatten(self, lengths: Mapping[str, int]) -> Floats:
        """One vector of patients and sums of every cell of ``lengths``, zeros where there is none."""
        parts = [self.cells.get(name, Cell(0.0, (0.0,) * length)) for name, length in lengths.items()]
        return np.array([number for cell in parts for number in (cell.patients, *cell.sums)], dtype=np.float64)

    @classmethod
    def unflatten(cls, vector: Floats, lengths: Mapping[str, int]) -> Self:
        """The summary of which ``vector`` is the flat one.

        Raises:
            MessageError: it has another length.
        """
        if vector.shape != (sum(lengths.values()) + len(lengths),):
            raise MessageError(f"a flat summary of {vector.shape} where {len(lengths)} cells were expected")
        cells, place = {}, 0
        for name, length in lengths.items():
            patients, *sums = map(float, vector[place : place + 1 + length])
            place += 1 + length
            if patients or any(sums):
                cells[name] = Cell(patients, tuple(sums))
        return cls(cells)


def total(summaries: Iterable[ExplanationSummary]) -> ExplanationSummary:
    """All of ``summaries`` together, whatever their order."""
    result = ExplanationSummary()
    for summary in summaries:
        result = result + summary
    return result


def groups(names: Iterable[str]) -> list[list[str]]:
    """Cells that together hold the same patients as others do, so that one of them alone could be had by subtraction."""
    found: dict[str, list[str]] = {}
    for name in names:
        kind, *rest = name.split(".")
        if kind == "variables" and rest[0] in CLASSES:
            found.setdefault("variables", []).append(name)
        elif kind == "dependence":
            found.setdefault(f"dependence.{rest[0]}", []).append(name)
        elif kind == "risk" and rest[0] == "both":
            found.setdefault(f"risk.row.{rest[1]}", []).append(name)
            found.setdefault(f"risk.column.{rest[2]}", []).append(name)
        elif kind == "risk":
            found.setdefault(f"risk.{rest[0]}", []).append(name)
    return list(found.values())


def small_cells(summary: ExplanationSummary, *, minimum: int) -> set[str]:
    """Cells that may not be told: those of fewer than ``minimum`` patients, and of each group as many of the next larger
    ones as it takes that no small one follows by subtraction."""
    hidden = {name for name, cell in summary.cells.items() if cell.patients < minimum}
    while True:
        more: set[str] = set()
        for group in groups(summary.cells):
            out = [name for name in group if name in hidden]
            left = sorted((summary.cells[name].patients, name) for name in group if name not in hidden)
            if out and left and (len(out) == 1 or sum(summary.cells[name].patients for name in out) < minimum):
                more.add(left[0][1])
        if not more - hidden:
            return hidden
        hidden |= more


def clipped(values: Floats, *, clip: float) -> Floats:
    """Contributions ``[n, J]`` in units of ``clip`` logits, each patient's scaled to an absolute sum of 1 at most."""
    scaled = values / clip
    return np.asarray(scaled / np.maximum(np.abs(scaled).sum(axis=1, keepdims=True), 1.0))


def by_sign(values: Floats) -> Floats:
    """What raises and what lowers, side by side: ``[n, J]`` -> ``[n, 2 J]``, none negative; the absolute sum stays."""
    return np.concatenate([np.maximum(values, 0.0), np.maximum(-values, 0.0)], axis=1)

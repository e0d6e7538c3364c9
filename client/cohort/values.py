"""From cells to the numbers and categories of the protocol: codes, units, plausible ranges, several rows a patient."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from statistics import median

import numpy as np
from numpy.typing import NDArray

from client.cohort.findings import VariableFinding
from client.cohort.redcap import simplified
from client.cohort.tables import Table, listed, number
from client.site_config import Mapping, Scalar, canonical_code
from shared_model.errors import Fault
from shared_model.variables import Variable, known_units, unit_factor

_SHOWN_CODES = 20


class _Unusable(Enum):
    MISSING = auto()
    NO_NUMBER = auto()
    UNMAPPED = auto()
    OUT_OF_RANGE = auto()


_Decoder = Callable[[str], float | _Unusable]
_COMBINE: dict[str, Callable[[list[float]], float]] = {
    "agree": lambda values: values[0],
    "first": lambda values: values[0],
    "last": lambda values: values[-1],
    "min": min,
    "max": max,
    "mean": lambda values: math.fsum(values) / len(values),
}


@dataclass(frozen=True)
class Values:
    """One variable of all patients: float64 ``[P]`` in the protocol's unit or category index, NaN where missing."""

    array: NDArray[np.float64]
    finding: VariableFinding
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Source:
    """Where a protocol variable comes from at this site; ``where`` and ``key`` name the mapping in ``site.toml``, in the table
    ``section``."""

    name: str
    variable: Variable
    mapping: Mapping
    table: Table
    decimal: str
    where: str
    section: str

    @property
    def key(self) -> str:
        """The dotted key of the mapping."""
        return f"{self.section}.{self.name}"

    @property
    def factor(self) -> float:
        """From the site's unit to the protocol's; 1 where there is nothing to convert."""
        if self.mapping.unit is None or self.variable.unit is None:
            return 1.0
        return unit_factor(self.mapping.unit, self.variable.unit, variable=self.name) or 1.0

    def plausible(self, value: float) -> bool:
        """Whether ``value`` in the protocol's unit is in its range; converted numbers may miss an end by rounding."""
        if self.variable.range is None:
            return True
        low, high = self.variable.range
        return low <= value <= high or math.isclose(value, low, rel_tol=1e-9) or math.isclose(value, high, rel_tol=1e-9)


def unmapped_values(patients: int) -> Values:
    """A variable that this site does not have."""
    return Values(np.full(patients, np.nan), VariableFinding(column=None, patients=patients, missing=patients))


def read_values(source: Source, rows: Sequence[tuple[int, ...]]) -> Values:
    """The variable of the patients whose table rows are ``rows``.

    What cannot be used becomes missing, and is counted; faults are left for what only the site can decide: rows of one
    patient that disagree, and a unit that cannot be right.
    """
    cells = source.table.column(source.mapping.column)
    used = Counter(cells[row] for members in rows for row in members)
    decode = _number_decoder(source) if source.variable.kind == "numeric" else _category_decoder(source)
    missing = {canonical_code(spelling) for spelling in source.mapping.missing} | {""}
    column = source.mapping.column
    decoded = {
        cell: _Unusable.MISSING if source.table.known_as(column, cell, missing) in missing else decode(cell) for cell in used
    }

    array, conflicts = np.full(len(rows), np.nan), []
    combine = _COMBINE[source.mapping.combine]
    for place, members in enumerate(rows):
        found = [value for row in members if not isinstance(value := decoded[cells[row]], _Unusable)]
        if source.mapping.combine == "agree" and len(set(found)) > 1:
            conflicts.append([cells[row] for row in members])
        elif found:
            array[place] = combine(found)

    counts = {kind: {cell: n for cell, n in used.most_common() if decoded[cell] is kind} for kind in _Unusable}
    faults = _disagreement(source, conflicts)
    better = None
    if out_of_range := sum(counts[_Unusable.OUT_OF_RANGE].values()):
        numbers = _local_numbers(source, {c: n for c, n in used.items() if decoded[c] is not _Unusable.MISSING})
        better = _better_unit(source, numbers)
        if out_of_range > len(numbers) / 2:
            faults.append(_implausible(source, numbers, better))
    return Values(array, _finding(source, array, counts, better), tuple(faults))


def _number_decoder(source: Source) -> _Decoder:
    local, factor = _local_number(source), source.factor

    def decode(cell: str) -> float | _Unusable:
        value = local(cell)
        if value is None:
            return _Unusable.NO_NUMBER
        return value * factor if source.plausible(value * factor) else _Unusable.OUT_OF_RANGE

    return decode


def _local_number(source: Source) -> Callable[[str], float | None]:
    """A cell as a number in the site's unit."""
    codes = {canonical_code(code): float(value) for code, value in (source.mapping.codes or {}).items()}
    return lambda cell: codes.get(canonical_code(cell), number(cell, decimal=source.decimal))


def _local_numbers(source: Source, used: dict[str, int]) -> list[float]:
    local = _local_number(source)
    return [value for cell, n in used.items() if (value := local(cell)) is not None for _ in range(n)]


def _category_decoder(source: Source) -> _Decoder:
    place = {canonical_code(category): float(k) for k, category in enumerate(source.variable.categories)}
    codes: dict[str, Scalar] = dict(source.mapping.codes or {category: category for category in source.variable.categories})
    index = {canonical_code(code): place[canonical_code(category)] for code, category in codes.items()}
    alike = {simplified(name): k for name, k in place.items()} if source.mapping.codes is None else {}

    def decode(cell: str) -> float | _Unusable:
        code = source.table.known_as(source.mapping.column, cell, index)
        labelled = code != canonical_code(cell)  # a label is for people: "Male" is the protocol's "male"
        return index.get(code, alike.get(simplified(code), _Unusable.UNMAPPED) if labelled else _Unusable.UNMAPPED)

    return decode


def _disagreement(source: Source, conflicts: list[list[str]]) -> list[Fault]:
    if not conflicts:
        return []
    examples = listed((" and ".join(dict.fromkeys(cell or "nothing" for cell in cells)) for cells in conflicts), limit=5)
    found = f"column {source.mapping.column!r} differs between rows of one patient: {examples}"
    remedy = 'set combine = "first", "last", "min" or "max" to say which counts, or mend the table'
    return [Fault(source.where, f"{source.key}.combine", found, "one value for a patient", remedy)]


def _implausible(source: Source, numbers: list[float], better: str | None) -> Fault:
    """More than half of the numbers are outside the range: a wrong unit, or a wrong column."""
    low, high = source.variable.range or (-math.inf, math.inf)
    middle, unit = median(numbers), source.variable.unit or ""
    found = f"median {_with_unit(middle * source.factor, unit)} in column {source.mapping.column!r}"
    expected = f"most values within the plausible range {low:g}..{_with_unit(high, unit)}"
    remedy = "check column and unit; a number that means missing belongs in missing = [...]"
    if better is not None:
        factor = unit_factor(better, unit, variable=source.name) or 1.0
        remedy = f'if the column is in {better} it is {_with_unit(middle * factor, unit)}: set unit = "{better}"'
    return Fault(source.where, f"{source.key}.unit", found, expected, remedy)


def _better_unit(source: Source, numbers: list[float]) -> str | None:
    """The unit that would bring more values, and their median, into the plausible range than the one that is set."""
    unit = source.variable.unit
    if unit is None:
        return None

    def plausible(other: str) -> int:
        factor = unit_factor(other, unit, variable=source.name) or 1.0
        return sum(source.plausible(value * factor) for value in numbers) if source.plausible(median(numbers) * factor) else 0

    best = max(known_units(unit, variable=source.name), key=plausible)
    return best if plausible(best) > sum(source.plausible(value * source.factor) for value in numbers) else None


def _with_unit(value: float, unit: str) -> str:
    return f"{value:.4g} {unit}".rstrip()


def _finding(
    source: Source, array: NDArray[np.float64], counts: dict[_Unusable, dict[str, int]], better: str | None
) -> VariableFinding:
    present = array[~np.isnan(array)]
    numeric = source.variable.kind == "numeric" and present.size > 0
    return VariableFinding(
        column=source.mapping.column,
        unit=source.mapping.unit,
        factor=source.factor,
        patients=array.size,
        missing=int(np.isnan(array).sum()),
        low=float(present.min()) if numeric else None,
        median=float(np.median(present)) if numeric else None,
        high=float(present.max()) if numeric else None,
        categories={name: int((present == k).sum()) for k, name in enumerate(source.variable.categories)},
        out_of_range=sum(counts[_Unusable.OUT_OF_RANGE].values()),
        better_unit=better,
        no_number=_commonest(counts[_Unusable.NO_NUMBER]),
        unmapped=_commonest(counts[_Unusable.UNMAPPED]),
    )


def _commonest(counts: dict[str, int]) -> dict[str, int]:
    return dict(list(counts.items())[:_SHOWN_CODES])

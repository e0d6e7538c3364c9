"""Time between two columns of dates, as a column of its own: an age from the dates of birth and operation."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Literal

from client.cohort.tables import Table, counted
from client.site_config import Cohort, Mapping
from shared_model.errors import CohortError, Fault
from shared_model.variables import unit_factor

Order = Literal["dmy", "mdy"]

_ISO = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ].*)?")
_WRITTEN = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4})(?: .*)?")


def with_elapsed(table: Table, cohort: Cohort, *, where: str) -> tuple[Table, Cohort]:
    """``table`` with a column for each mapping by ``from`` and ``to``, and ``cohort`` with these mappings by that column.

    Raises:
        CohortError: cells that are no dates, or dates whose order of day and month does not show.
    """
    columns, variables, faults = dict(table.columns), dict(cohort.variables), list[Fault]()
    dated = {name: mapping for name, mapping in cohort.variables.items() if mapping.since and mapping.to}
    for name, mapping in dated.items():
        try:
            column, cells = _elapsed(table, mapping, cohort, where=where, key=f"cohort.variables.{name}")
        except CohortError as error:
            faults += error.faults
            continue
        columns[column] = cells
        variables[name] = mapping.model_copy(
            update={"column": column, "since": None, "to": None, "unit": mapping.unit or "years"}
        )
    if faults:
        raise CohortError(faults)
    return replace(table, columns=columns), cohort.model_copy(update={"variables": variables})


def parsed_dates(cells: Sequence[str], order: Order | None) -> list[date | None]:
    """The dates that ``cells`` spell, None for an empty cell: 2021-04-03 (with or without a time), 3.4.2021, 03/04/2021.

    Where day and month could be either, the column as a whole decides, and ``order`` only if it cannot.

    Raises:
        ValueError: with the first cell that is no date, or whose order does not show.
    """
    order = order or _order(cells)
    return [_date(cell, order) if cell else None for cell in cells]


def _elapsed(table: Table, mapping: Mapping, cohort: Cohort, *, where: str, key: str) -> tuple[str, list[str]]:
    ends, faults = [], []
    for end, column in (("from", mapping.since or ""), ("to", mapping.to or "")):
        try:
            ends.append(parsed_dates(table.column(column), cohort.date_order))
        except ValueError as error:
            found = f"{error} in column {column!r}, which holds {counted(table.column(column), limit=3)}"
            remedy = 'set date_order = "dmy" or "mdy" in [cohort]; list what means missing in cohort.missing'
            faults.append(Fault(where, f"{key}.{end}", found, "dates such as 2021-04-03 or 3.4.2021", remedy))
    if faults:
        raise CohortError(faults)
    factor = unit_factor("days", mapping.unit or "years") or 1.0

    def spelled(start: date | None, end: date | None) -> str:
        if start is None or end is None:
            return ""
        return f"{(end - start).days * factor:.4f}".replace(".", cohort.decimal)

    return f"{mapping.since} to {mapping.to}", [spelled(start, end) for start, end in zip(*ends, strict=True)]


def _order(cells: Sequence[str]) -> Order | None:
    written = [match for cell in cells if (match := _WRITTEN.fullmatch(cell))]
    if any(int(match[1]) > 12 or match[2] == "." for match in written):
        return "dmy"
    return "mdy" if any(int(match[3]) > 12 for match in written) else None


def _date(cell: str, order: Order | None) -> date:
    try:
        if match := _ISO.fullmatch(cell):
            return date(int(match[1]), int(match[2]), int(match[3]))
        if match := _WRITTEN.fullmatch(cell):
            first, second, year = int(match[1]), int(match[3]), int(match[4])
            if order is None and first != second:
                raise ValueError(f'"{cell}" may be day or month first')
            return date(year, first, second) if order == "mdy" else date(year, second, first)
    except ValueError as error:
        if "first" in str(error):
            raise
    raise ValueError(f'"{cell}" is no date')

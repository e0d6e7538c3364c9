"""A table once, for the page and as CSV: each cell holds what is read and the number behind it."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from server.report import wording

Json = dict[str, Any]
Value = str | int | float | None


@dataclass(frozen=True)
class Cell:
    """``text`` is read, with ``small`` below it; ``values`` go into the CSV file under the column's key and its suffixes."""

    text: str
    small: str = ""
    values: dict[str, Value] = field(default_factory=dict)
    absent: bool = False  # there is no number, and ``small`` says why
    warn: bool = False


@dataclass(frozen=True)
class Column:
    """``key`` names the column in the CSV file, ``label`` on the page."""

    key: str
    label: str
    left: bool = False  # words, not numbers


@dataclass(frozen=True)
class Row:
    """Cells in the order of the table's columns, the first being the row's heading."""

    cells: tuple[Cell, ...]
    total: bool = False


@dataclass(frozen=True)
class Table:
    """``name`` is its CSV file's name without suffix. ``wide`` tables scroll on narrow screens; the others become cards."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""
    wide: bool = False

    @property
    def csv(self) -> str:
        """The table as CSV: numbers in full, empty cells where there is none, the reason in ``<key>_note``."""
        records = [
            {
                column.key + suffix: value
                for column, cell in zip(self.columns, row.cells, strict=True)
                for suffix, value in cell.values.items()
            }
            for row in self.rows
        ]
        order = [column.key for column in self.columns]
        found = dict.fromkeys(key for record in records for key in record)
        names = [name for key in order for name in found if name == key or name.rpartition("_")[0] == key]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(names)), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: "" if value is None else value for name, value in record.items()} for record in records)
        return text.getvalue()


def words(text: str, small: str = "", *, warn: bool = False) -> Cell:
    """A cell of words."""
    return Cell(text, small, {"": text if not small else f"{text} ({small})"}, warn=warn)


def count(number: int | None, *, of: int | None = None) -> Cell:
    """A number of patients, ``of`` so many: ``12`` above ``24%``."""
    if number is None:
        return absent("not stated")
    small = wording.percent(number / of) if of else ""
    return Cell(f"{number:,}", small, {"": number})


def absent(why: str, text: str = "–") -> Cell:
    """A cell without a number, and the reason."""
    return Cell(text, why, {"": None, "_note": why}, absent=True)


def number(value: float | None, digits: int = 2, *, why: str = "") -> Cell:
    """A number without an interval."""
    return absent(why) if value is None else Cell(wording.decimal(value, digits), "", {"": value})


def estimate(known: Json | None, digits: int = 2, *, why: str = "", percent: bool = False) -> Cell:
    """A number of the document with its interval below it; ``why`` it is not there, if it is not."""
    if known is None:
        return absent(why)
    low, high = known.get("low"), known.get("high")
    values = {"": known["value"], "_low": low, "_high": high}
    if percent:
        text = wording.percent(known["value"])
        small = "" if low is None or high is None else f"{100 * low:.0f} to {100 * high:.0f}"
    else:
        text = wording.decimal(known["value"], digits)
        small = "" if low is None or high is None else f"{wording.decimal(low, digits)} to {wording.decimal(high, digits)}"
    return Cell(text, small, values)


def columns(*named: tuple[str, str] | Column) -> tuple[Column, ...]:
    """Columns from ``(key, label)`` pairs."""
    return tuple(column if isinstance(column, Column) else Column(*column) for column in named)


def table(name: str, caption: str, of: Sequence[tuple[str, str] | Column], rows: Sequence[Row], **more: Any) -> Table | None:
    """A table, or nothing where it would have no row. Columns in which no row says anything are left out."""
    if not rows:
        return None
    kept = [
        i for i, _ in enumerate(of) if i == 0 or any(row.cells[i].text not in {"", "–"} or row.cells[i].small for row in rows)
    ]
    return Table(
        name,
        caption,
        columns(*(of[i] for i in kept)),
        tuple(Row(tuple(row.cells[i] for i in kept), row.total) for row in rows),
        **more,
    )

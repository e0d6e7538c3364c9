"""A table once, for the page and as CSV: each cell holds what is read and the number behind it."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from server.numerals import signed
from server.report import wording

Json = dict[str, Any]
Value = str | int | float | None
_SUFFIXES = ("", "_low", "_high", "_events", "_difference", "_difference_low", "_difference_high", "_note")


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
    """Cells in the order of the table's columns, the first being the row's heading; or that and ``instead``, why no more."""

    cells: tuple[Cell, ...]
    total: bool = False
    instead: str = ""


@dataclass(frozen=True)
class Table:
    """``name`` is its CSV file's name without suffix. ``wide`` tables scroll on narrow screens; the others become cards.

    Of the rows, the page shows the first ``shown``; the file has all.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""
    wide: bool = False
    shown: int | None = None

    @property
    def on_page(self) -> tuple[Row, ...]:
        """The rows that the page shows."""
        return self.rows[: self.shown]

    @property
    def csv(self) -> str:
        """The table as CSV: numbers in full, empty cells where there is none, the reason in ``<key>_note``."""
        records = [self._record(row) for row in self.rows]
        order = {column.key + suffix: None for column in self.columns for suffix in _SUFFIXES} | {"note": None}
        names = [name for name in order if any(name in record for record in records)]
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _harmless(value) for name, value in record.items()} for record in records)
        return text.getvalue()

    def _record(self, row: Row) -> dict[str, Value]:
        pairs = zip(self.columns, row.cells, strict=not row.instead)
        record = {column.key + suffix: value for column, cell in pairs for suffix, value in cell.values.items()}
        return record | {"note": row.instead} if row.instead else record


def _harmless(value: Value) -> Value:
    """A value as a spreadsheet may open it: text that it would take for a formula is marked as text."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return "" if value is None else value


def words(text: str, small: str = "", *, warn: bool = False) -> Cell:
    """A cell of words."""
    return Cell(text, small, {"": text if not small else f"{text} ({small})"}, warn=warn)


def site_name(name: str, *, shown: bool = True) -> Cell:
    """The heading of a site's row; not ``shown`` again in the further rows of the same site."""
    return Cell(name if shown else "", "", {"": name})


def metric(block: Json, name: str, digits: int = 2) -> Cell:
    """A metric of a scored block, or why it is not there."""
    return estimate(block["metrics"].get(name), digits, why=wording.why_not(block, name))


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


def difference(known: Json | None, digits: int = 2) -> Cell:
    """A difference with its sign, and its interval below it."""
    if known is None:
        return absent("")
    low, high = known["low"], known["high"]
    small = "no interval" if low is None else f"{signed(low, digits)} to {signed(high, digits)}"
    return Cell(signed(known["value"], digits), small, {"": known["value"], "_low": low, "_high": high})


def table(name: str, caption: str, of: Sequence[Column], rows: Sequence[Row], **more: Any) -> Table | None:
    """A table, or nothing where it would have no row. Columns in which no row says anything are left out."""
    if not rows:
        return None
    full = [row for row in rows if not row.instead]
    kept = [i for i, _ in enumerate(of) if i == 0 or any(row.cells[i].text not in {"", "–"} for row in full)]
    trimmed = (row if row.instead else Row(tuple(row.cells[i] for i in kept), row.total) for row in rows)
    return Table(name, caption, tuple(of[i] for i in kept), tuple(trimmed), **more)

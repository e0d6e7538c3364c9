"""A hospital's export as a table of text, whatever kind of file it is: csv, tsv, xlsx, parquet.

Everything stays text until the configuration says what it means: patient "007" keeps its zeros, "None" is a value like
any other, and only an empty cell (or a spelling listed in ``missing``) is missing.
"""

import csv
import hashlib
import io
import math
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from client.site_config import Between, Scalar, TableFormat, canonical_code
from shared_model.config_file import did_you_mean, expand, quoted
from shared_model.errors import CohortError, ConfigurationError, Fault

ROW_NUMBER = "#row"
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_SNIFFED_ROWS = 50
_ZIP = b"PK\x03\x04"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Table:
    """Columns of stripped text, ``""`` where a cell is missing.

    ``repeated`` names columns that the header has more than once: they cannot be told apart, and only the last is kept.
    ``choices`` gives the codes of a column a meaning (code -> label), where a data dictionary does.
    """

    path: Path
    columns: dict[str, list[str]]
    rows: int
    repeated: frozenset[str]
    sha256: str
    choices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def column(self, name: str) -> list[str]:
        """The cells of a column, one for each row; ``#row`` numbers the rows from 1."""
        return [str(row) for row in range(1, self.rows + 1)] if name == ROW_NUMBER else self.columns[name]

    def texts(self, column: str | None, row: int) -> tuple[str, ...]:
        """The cell of ``column`` in ``row``, and its label if it has one; nothing without a column."""
        if column is None:
            return ()
        cell = self.column(column)[row]
        label = self.choices.get(column, {}).get(canonical_code(cell))
        return (cell,) if label is None else (cell, label)

    def known_as(self, column: str, cell: str, known: Container[str]) -> str:
        """The canonical code of ``cell``, or that of its label if only this is ``known``."""
        code = canonical_code(cell)
        label = self.choices.get(column, {}).get(code)
        return code if label is None or code in known else canonical_code(label)


def locate(text: str, *, base: Path, where: str, key: str) -> Path:
    """The path that a configuration file in ``base`` means by ``text``, with ``${NAME}`` replaced.

    Raises:
        ConfigurationError: an environment variable is not set.
    """
    path, unset = expand(text)
    if unset:
        faults = [
            Fault(where, key, quoted(text), f"the environment variable {name} to be set", f"export {name}=/the/folder")
            for name in unset
        ]
        raise ConfigurationError(faults)
    return base / path


def read_table(path: Path, layout: TableFormat, *, where: str, key: str) -> Table:
    """Read the table at ``path``; what kind of file it is shows in its first bytes, not in its name.

    ``where`` and ``key`` are the configuration file and the key that name the table.

    Raises:
        CohortError: no such file, or not a table that can be read, with the reason and what to do.
    """
    content = _content(path, where, key)
    return _table(_rows(content, path, layout), path, layout, sha256=hashlib.sha256(content).hexdigest())


def read_rows(path: Path, layout: TableFormat, *, where: str, key: str) -> list[list[str]]:
    """All rows as they stand in the file, the header among them. Raises as ``read_table``."""
    return _rows(_content(path, where, key), path, layout)


def sheet_names(path: Path) -> tuple[str | None, ...]:
    """The sheets of a workbook; ``(None,)`` for any other kind of table."""
    with path.open("rb") as file:
        if file.read(4) != _ZIP:
            return (None,)
    import openpyxl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        book = openpyxl.load_workbook(path, read_only=True)
    names = tuple(book.sheetnames)
    book.close()
    return names


def row_filter(table: Table, conditions: dict[str, Scalar | tuple[Scalar, ...] | Between], layout: TableFormat) -> list[int]:
    """Indices of the rows that fulfil every condition, in the table's order."""
    kept = list(range(table.rows))
    for column, condition in conditions.items():
        cells, fits = table.column(column), _matcher(condition, layout, table, column)
        kept = [row for row in kept if fits(cells[row])]
    return kept


def number(text: str, *, decimal: str) -> float | None:
    """The finite number that ``text`` spells, or None: no thousands separators, no units, no ``<``."""
    plain = text.strip()
    if decimal == ",":
        if "." in plain:
            return None
        plain = plain.replace(",", ".")
    try:
        value = float(plain)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in plain else None


def counted(values: Iterable[str], *, limit: int = 12) -> str:
    """Values with their counts, commonest first, for a message: ``"F" (683), "M" (207)``."""
    counts = Counter(values)
    shown = [f"{quoted(value) if value else 'empty'} ({count})" for value, count in counts.most_common(limit)]
    return ", ".join(shown) + (f" and {len(counts) - limit} more" if len(counts) > limit else "") if counts else "nothing"


def listed(names: Iterable[str], *, limit: int = 40) -> str:
    """Names for a message, cut after ``limit``."""
    every = list(names)
    return ", ".join(every[:limit]) + (f" and {len(every) - limit} more" if len(every) > limit else "")


def _matcher(
    condition: Scalar | tuple[Scalar, ...] | Between, layout: TableFormat, table: Table, column: str
) -> Callable[[str], bool]:
    if isinstance(condition, Between):
        low = -math.inf if condition.min is None else condition.min
        high = math.inf if condition.max is None else condition.max

        def lies_between(cell: str) -> bool:
            value = number(cell, decimal=layout.decimal)
            return value is not None and low <= value <= high

        return lies_between
    codes = {canonical_code(code) for code in (condition if isinstance(condition, tuple) else (condition,))}
    return lambda cell: table.known_as(column, cell, codes) in codes


def _rows(content: bytes, path: Path, layout: TableFormat) -> list[list[str]]:
    if content.startswith(_ZIP):
        return _excel_rows(content, path, layout)
    if content.startswith(b"PAR1"):
        return _parquet_rows(content, path, layout)
    return _text_rows(content, path, layout)


def _content(path: Path, where: str, key: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        remedy = did_you_mean(path.name, siblings, otherwise="check the path; it is relative to the configuration file")
        raise CohortError([Fault(where, key, f"no such file: {path}", "a csv, tsv, xlsx or parquet file", remedy)]) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        remedy = "name a file, and check that this user may read it"
        raise CohortError([Fault(where, key, f"{path}: {reason}", "a readable file", remedy)]) from None
    start = content[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        raise _unreadable(path, "an empty file", "export the table again")
    if start.startswith((b"<!doctype", b"<html", b"<table", b"<?xml", b"<head", b"<body")):
        raise _unreadable(
            path, "a web page (HTML or XML)", "it may be a log-in or error page saved as a table: export it again"
        )
    if content.startswith(b"\xd0\xcf\x11\xe0"):
        raise _unreadable(path, "an old Excel file (.xls)", "save it as .xlsx or .csv")
    return content


def _unreadable(path: Path, found: str, remedy: str, *, key: str = "") -> CohortError:
    return CohortError([Fault(str(path), key, found, "a csv, tsv, xlsx or parquet table", remedy)])


def _text_rows(content: bytes, path: Path, layout: TableFormat) -> list[list[str]]:
    text = _decoded(content, path, layout)
    separator = layout.separator or _sniffed_separator(text, layout)
    rows, lines = [], []
    try:
        for line, row in _split(text, separator):
            rows.append(row)
            lines.append(line)
    except (csv.Error, TypeError) as error:
        raise _unreadable(path, str(error), "check the separator (one character) and unclosed quotes") from None
    above = 0 if layout.columns else layout.header_row - 1  # titles above the header may be of any width
    _check_widths(rows[above:], lines[above:], path, layout, separator)
    return rows


def _decoded(content: bytes, path: Path, layout: TableFormat) -> str:
    unicode_marked = content.startswith(_UTF_16)
    wide = layout.encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32"))
    if b"\0" in content[:8192] and not wide:
        if unicode_marked:
            raise _unreadable(path, "UTF-16 text", 'set encoding = "utf-16"', key="encoding")
        raise _unreadable(path, "a binary file", "name the exported table itself, in one of these formats")
    try:
        return content.decode(layout.encoding)
    except LookupError:
        expected, remedy = "an encoding that Python knows", 'use "utf-8-sig", "cp1252" (Windows) or "latin-1"'
        raise CohortError([Fault(str(path), "encoding", quoted(layout.encoding), expected, remedy)]) from None
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        line = content.count(b"\n", 0, start) + 1
        found = f"line {line} holds bytes that are not {layout.encoding}"
        remedy = 'set encoding = "cp1252" (Windows export), or export as UTF-8'
        raise CohortError([Fault(str(path), "encoding", found, f"{layout.encoding} text", remedy)]) from None


def _split(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Non-empty rows with the number of the line on which each ends."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    for row in reader:
        cells = [cell.strip() for cell in row]
        if any(cells):
            yield reader.line_num, cells


def _sniffed_separator(text: str, layout: TableFormat) -> str:
    """The separator that cuts the first rows into equally many cells, and into most; a decimal comma is none."""
    start = "\n".join(text.splitlines()[:_SNIFFED_ROWS])
    above = layout.header_row - 1

    def evenness(separator: str) -> tuple[bool, int]:
        try:
            widths = [len(row) for _, row in _split(start, separator)][above:]
        except csv.Error:
            return False, 0
        return len(set(widths)) == 1 and widths[0] > 1, widths[0] if widths else 0

    return max((s for s in _SEPARATORS if s != layout.decimal), key=evenness)


def _check_widths(rows: list[list[str]], lines: list[int], path: Path, layout: TableFormat, separator: str) -> None:
    width = len(layout.columns or (rows[0] if rows else ()))
    for row in rows:
        while len(row) > width and not row[-1]:
            row.pop()
    ragged = [(line, len(row)) for line, row in zip(lines, rows, strict=True) if len(row) != width]
    if ragged:
        name = _SEPARATORS.get(separator, repr(separator))
        source = "as columns = [...] lists" if layout.columns else "as the header has"
        remedy = "quote cells that hold the separator; set separator = ... if it is another"
        if layout.columns and len(ragged) == len(rows):
            remedy = f"list all {ragged[0][1]} columns in columns = [...], or set separator = ..."
        found = listed((f"line {line} has {cells}" for line, cells in ragged), limit=5)
        raise CohortError([Fault(str(path), "", found, f"{width} cells in each line, {source} (separator: {name})", remedy)])


def _excel_rows(content: bytes, path: Path, layout: TableFormat) -> list[list[str]]:
    import openpyxl

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl warns of Excel features (validation, styles) that hold no data
            book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
            sheets = book.sheetnames
            if layout.sheet is not None and layout.sheet not in sheets:
                remedy = did_you_mean(layout.sheet, sheets, otherwise="name one of them")
                found, expected = quoted(layout.sheet), f"a sheet of this file: {listed(sheets)}"
                raise CohortError([Fault(str(path), "sheet", found, expected, remedy)])
            sheet = book[layout.sheet or sheets[0]]
            rows = [[_spelled(value, layout.decimal) for value in row] for row in sheet.iter_rows(values_only=True)]
            book.close()
    except CohortError:
        raise
    except Exception:  # openpyxl raises whatever the zip and XML layers below it raise
        raise _unreadable(path, "a zip file that is no Excel workbook, or a damaged one", "save it again as .xlsx") from None
    filled = [row for row in rows if any(row)]
    used = max((place + 1 for row in filled for place, cell in enumerate(row) if cell), default=0)
    return [(row + [""] * used)[:used] for row in filled]


def _parquet_rows(content: bytes, path: Path, layout: TableFormat) -> list[list[str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
        columns = [[_spelled(value, layout.decimal) for value in column.to_pylist()] for column in table.columns]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, f"a damaged Parquet file ({type(error).__name__})", "export the table again") from None
    return [list(table.column_names), *map(list, zip(*columns, strict=True))]


def _spelled(value: Any, decimal: str) -> str:
    """A typed cell as the text that a csv export of it would hold."""
    if value is None:
        return ""
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() else repr(value).replace(".", decimal)
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value).strip()


def _table(rows: list[list[str]], path: Path, layout: TableFormat, *, sha256: str) -> Table:
    if layout.columns is None:
        header, *body = rows[layout.header_row - 1 :] or [[]]
    else:
        header, body = list(layout.columns), rows
    body = body[layout.skip_rows :]
    if not body:
        raise _unreadable(path, "no rows below the header" if header else "no rows", "export the table again")
    if len(body[0]) != len(header):
        found, expected = f"{len(header)} names", f"a name for each of the {len(body[0])} columns"
        raise CohortError([Fault(str(path), "columns", found, expected, "mend columns = [...]")])
    if layout.columns is not None and body[0] == header:
        remedy = "remove columns = [...]"
        raise CohortError([Fault(str(path), "columns", "the first row repeats the names", "a file without a header", remedy)])
    missing = {canonical_code(spelling) for spelling in layout.missing}
    cells = [_without_missing(list(column), missing) for column in zip(*body, strict=True)]
    repeated = frozenset(name for name, count in Counter(header).items() if count > 1)
    return Table(path, dict(zip(header, cells, strict=True)), len(body), repeated, sha256)


def _without_missing(column: list[str], missing: set[str]) -> list[str]:
    if not missing:
        return column
    spellings = {cell for cell in set(column) if canonical_code(cell) in missing}
    return ["" if cell in spellings else cell for cell in column]

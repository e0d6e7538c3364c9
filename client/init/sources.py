"""What an export consists of: its tables, each with how it has to be read, and its pictures."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.cohort.redcap import FIELD_HEADINGS
from client.cohort.tables import Table, number, read_rows, read_table, sheet_names
from client.init.words import means_missing
from client.site_config import TableFormat, canonical_code
from shared_model.errors import CohortError, ConfigurationError, Fault

PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}
DICOM = {".dcm", ".dicom", ".ima"}
_TABLES = {".csv", ".tsv", ".txt", ".xlsx", ".parquet", ".data"}
_MOST_TABLES = 50
_TITLE_ROWS = 5  # titles above a header are tried up to this row
_SAME_NAMES = 0.3  # of a row's cells repeat the names above: a second header row
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_DECIMAL_POINT = re.compile(r"[+-]?\d+\.\d+")


@dataclass(frozen=True)
class Source:
    """One table of an export: ``settings`` are the keys of ``site.toml`` with which it reads, each with its evidence."""

    path: Path
    table: Table
    layout: TableFormat
    settings: dict[str, tuple[object, str]] = field(default_factory=dict)

    @property
    def is_dictionary(self) -> bool:
        """Whether this is REDCap's data dictionary."""
        return all(heading in self.table.columns for heading in FIELD_HEADINGS)


@dataclass(frozen=True)
class Export:
    """The tables of an export that can be read, its pictures, and the folders that hold DICOM files."""

    tables: tuple[Source, ...]
    pictures: tuple[Path, ...]
    dicom: tuple[Path, ...]


def read_export(paths: Sequence[Path]) -> Export:
    """Everything that ``paths`` (tables, pictures, folders of both) hold.

    Raises:
        CohortError: a table that was named cannot be read; one that was only found in a folder is passed over.
        ConfigurationError: a path that does not exist, or no table anywhere.
    """
    absent = [path for path in paths if not path.exists()]
    if absent:
        faults = [Fault(str(path), "", "no such file or folder", "an export", "check the path") for path in absent]
        raise ConfigurationError(faults)
    files = [path for path in paths if path.is_file()]
    found = sorted(file for path in paths if path.is_dir() for file in path.rglob("*") if file.is_file())
    tables = [source for file in files if file.suffix.lower() not in PICTURES | DICOM for source in _sources(file)]
    for file in [file for file in found if file.suffix.lower() in _TABLES][:_MOST_TABLES]:
        try:
            tables += _sources(file)
        except CohortError:
            continue
    if not tables:
        fault = Fault(" ".join(map(str, paths)), "", "no table", "a csv, xlsx or parquet table of patients", "name its file")
        raise ConfigurationError([fault])
    every = [*files, *found]
    pictures = tuple(file for file in every if file.suffix.lower() in PICTURES)
    dicom = tuple(dict.fromkeys(file.parent for file in every if file.suffix.lower() in DICOM))
    return Export(tuple(tables), pictures, dicom)


def _sources(path: Path) -> Iterator[Source]:
    for sheet in sheet_names(path):
        settings: dict[str, tuple[object, str]] = {}
        if sheet is not None:
            settings["sheet"] = (sheet, "one of the sheets of the workbook")
        settings |= _encoding(path)
        settings |= _header(path, _layout(settings))
        settings |= _decimal(read_table(path, _layout(settings), where=str(path), key=""))
        settings |= _missing(read_table(path, _layout(settings), where=str(path), key=""))
        layout = _layout(settings)
        yield Source(path, read_table(path, layout, where=str(path), key=""), layout, settings)


def _layout(settings: dict[str, tuple[object, str]]) -> TableFormat:
    return TableFormat.model_validate({key: value for key, (value, _) in settings.items()}, strict=False)


def _encoding(path: Path) -> dict[str, tuple[object, str]]:
    content = path.read_bytes()
    if content.startswith((b"PK\x03\x04", b"PAR1")):
        return {}
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return {"encoding": ("utf-16", "the file begins with the mark of UTF-16")}
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return {
            "encoding": ("cp1252", f"line {line} is not UTF-8; Windows exports are cp1252: look at the umlauts and accents")
        }
    return {}


def _header(path: Path, layout: TableFormat) -> dict[str, tuple[object, str]]:
    """The row of names: below any titles, and of several header rows the first without a name twice."""
    first, rows = _body(path, layout)
    below = 0
    while below + 1 < len(rows) and below < _TITLE_ROWS and _repeats_header(rows[0], rows[below + 1]):
        below += 1
    if not below:
        return {"header_row": (first, f"{first - 1} rows of titles above")} if first > 1 else {}
    header = next((k for k in range(below + 1) if len(set(rows[k])) == len(rows[k])), 0)
    settings: dict[str, tuple[object, str]] = {}
    if first + header > 1:
        settings["header_row"] = (first + header, "the first row of names that has none twice")
    if below > header:
        settings["skip_rows"] = (below - header, f"{below + 1} header rows: the rows below the names repeat or number them")
    return settings


def _body(path: Path, layout: TableFormat) -> tuple[int, list[list[str]]]:
    """The number of the first row that is as wide as those below, and the rows from there."""
    for first in range(1, _TITLE_ROWS + 1):
        try:
            attempt = layout.model_copy(update={"header_row": first})
            return first, read_rows(path, attempt, where=str(path), key="")[first - 1 :]
        except CohortError:
            if first == _TITLE_ROWS:
                raise
    raise AssertionError("unreachable")


def _repeats_header(header: list[str], row: list[str]) -> bool:
    filled = [(name, cell) for name, cell in zip(header, row, strict=False) if cell]
    if not filled or any(number(cell, decimal=".") is not None for _, cell in filled):
        return False
    same = sum(name == cell for name, cell in filled) / len(filled)
    stems = {cell.partition(":")[0] for _, cell in filled if ":" in cell}
    numbered = len(stems) == 1 and all(":" in cell for _, cell in filled)
    return same >= _SAME_NAMES or numbered


def _decimal(table: Table) -> dict[str, tuple[object, str]]:
    cells = [cell for column in table.columns.values() for cell in column]
    commas, points = (sum(bool(kind.fullmatch(cell)) for cell in cells) for kind in (_DECIMAL_COMMA, _DECIMAL_POINT))
    return {"decimal": (",", f"{commas} cells such as 1,5 and {points} such as 1.5")} if commas > points else {}


def _missing(table: Table) -> dict[str, tuple[object, str]]:
    counts: dict[str, int] = {}
    for column in table.columns.values():
        for cell in column:
            if cell and means_missing(cell) and number(cell, decimal=".") is None:
                counts[cell] = counts.get(cell, 0) + 1
    distinct = {canonical_code(cell): cell for cell in sorted(counts)}
    if not distinct:
        return {}
    seen = ", ".join(f"{cell} ({counts[cell]})" for cell in distinct.values())
    return {"missing": (list(distinct.values()), f"cells that usually mean missing: {seen}")}

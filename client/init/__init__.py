"""``consilium-site init``: a first ``site.toml`` from a hospital's export."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from client.cohort.redcap import INSTRUMENT, column_titles, read_fields, with_choices
from client.cohort.tables import Table
from client.init.draft import Guesses, draft
from client.init.guess import Guess, guess_variables
from client.init.label import LabelGuess, guess_identifier, guess_label
from client.init.pictures import file_column, guess_dicom, guess_pictures, guess_split, uid_column
from client.init.sources import Export, Source, read_export
from client.init.words import SPLITS
from client.site_config import read_site
from shared_model.errors import ConfigurationError, Fault
from shared_model.protocol import StudyProtocol, read_protocol

__all__ = ["Drafted", "initialise"]

_LABEL_WORTH = 3.0  # a table with an outcome counts as much as one with so many variables


@dataclass(frozen=True)
class Drafted:
    """What ``initialise`` wrote: the file, variables and comparators found and not found, guesses marked CHECK, and remarks
    for the reader."""

    path: Path
    found: tuple[str, ...]
    absent: tuple[str, ...]
    has_label: bool
    to_check: int
    remarks: tuple[str, ...]


def initialise(
    exports: Sequence[Path], *, out: Path, study: Path | None = None, name: str | None = None, force: bool = False
) -> Drafted:
    """Write ``out`` from what ``exports`` (tables, or folders with tables and pictures) hold, for ``study``.

    Without a study, the variables of the demo study are looked for. Every guess stands under its evidence.

    Raises:
        ConfigurationError: ``out`` exists and not ``force``; nothing there to read; ``study`` is not valid.
        CohortError: a table that is named cannot be read.
    """
    if out.exists() and not force:
        remedy = "give another --out, or --force to write over it"
        raise ConfigurationError([Fault(str(out), "", "the file exists", "a new file", remedy)])
    if not out.parent.is_dir():
        raise ConfigurationError([Fault("--out", "", f"no folder {out.parent}", "an existing folder", "create it first")])
    protocol = read_protocol(study) if study else _demo_study()
    export = read_export(exports)
    guesses = _guesses(export, protocol, out=out, name=name or _site_name(exports[0]), with_study=study is not None)
    text = draft(guesses, protocol, base=out.parent)
    out.write_text(text, encoding="utf-8")
    read_site(out)
    absent = tuple(name for name in protocol.mapped if name not in guesses.variables)
    return Drafted(
        out,
        tuple(guesses.variables),
        absent,
        guesses.label is not None,
        sum("CHECK" in line for line in text.splitlines()),
        guesses.remarks,
    )


def _demo_study() -> StudyProtocol:
    return read_protocol(Path(str(files("site_configs") / "demo" / "study.toml")))


def _guesses(export: Export, protocol: StudyProtocol, *, out: Path, name: str, with_study: bool) -> Guesses:
    dictionary = next((source for source in export.tables if source.is_dictionary), None)
    tables = [source for source in export.tables if not source.is_dictionary]
    if not tables:
        fault = Fault(str(export.tables[0].path), "", "only a data dictionary", "the export itself", "name its csv as well")
        raise ConfigurationError([fault])
    picture_tables = [source for source in tables if file_column(source) or (export.dicom and uid_column(source))]
    shared = [set(cells) for source in picture_tables for cells in source.table.columns.values()]
    read = [_read(source, dictionary, protocol, shared) for source in tables]
    source, identifier, label, variables = max(read, key=lambda found: len(found[3]) + _LABEL_WORTH * (found[2] is not None))
    images = None
    if protocol.images is not None:
        patients = set(source.table.column(identifier[0]))
        images = guess_pictures(
            [*(table for table in picture_tables if table is not source), source],
            protocol.images,
            patients=patients,
            identifier=identifier[0],
            pictures=export.pictures,
            base=out.parent,
        )
        if images is None and export.dicom:
            images = guess_dicom(
                picture_tables, protocol.images, folders=export.dicom, cohort=source, identifier=identifier[0], base=out.parent
            )
    return Guesses(
        name=name,
        cohort=source,
        dictionary=dictionary,
        identifier=identifier,
        label=label,
        variables=variables,
        images=images,
        split=guess_split(source, SPLITS),
        remarks=tuple(_remarks(source.table, identifier[0], with_study=with_study)),
    )


def _read(
    source: Source, dictionary: Source | None, protocol: StudyProtocol, shared: list[set[str]]
) -> tuple[Source, tuple[str, str], LabelGuess | None, dict[str, Guess]]:
    fields = read_fields(dictionary.table) if dictionary else {}
    table = with_choices(source.table, fields)
    identifier = guess_identifier(table, shared)
    label = guess_label(table, protocol.study, taken={identifier[0]})
    taken = {identifier[0], *([label.column] if label else [])}
    variables = guess_variables(
        table, protocol.mapped, decimal=source.layout.decimal, taken=taken, titles=column_titles(table, fields)
    )
    return source, identifier, label, variables


def _remarks(table: Table, identifier: str, *, with_study: bool) -> list[str]:
    remarks = []
    if not with_study:
        remarks.append("no --study was given: the variables and the outcome of the demo study were looked for")
    cells = [cell for cell in table.column(identifier) if cell]
    if len(set(cells)) < len(cells):
        remarks.append('patients have several rows: where they differ, set combine = "first", "max" ... for the variable')
    if table.columns.get(INSTRUMENT):
        held = ", ".join(sorted(set(filter(None, table.columns[INSTRUMENT]))))
        remarks.append(f"repeating instruments: {held}; redcap_instruments = [...] keeps the rows of some")
    if table.repeated:
        remarks.append(f"columns with the same name cannot be told apart: {', '.join(sorted(table.repeated))}")
    return remarks


def _site_name(path: Path) -> str:
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem).strip("_-")
    return stem[:64].lower() or "site"

"""REDCap exports: what the data dictionary says about codes and units, repeating instruments, events, and long tables.

A raw export holds codes ("1"), the dictionary their meaning ("1, Male | 2, Female"). With the dictionary, ``site.toml`` may
use either, and a field that is named as a variable of the study, with choices named as its categories, needs no mapping.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from client.cohort.tables import Table, listed
from client.site_config import Between, Cohort, Long, Scalar, canonical_code
from client.site_config import Mapping as VariableMapping
from shared_model.config_file import did_you_mean, quoted
from shared_model.errors import ConfigurationError, Fault
from shared_model.protocol import StudyProtocol
from shared_model.variables import Variable, known_units

EVENT, INSTRUMENT = "redcap_event_name", "redcap_repeat_instrument"
FIELD_HEADINGS = ("Variable / Field Name", "Field Type", "Field Label", "Choices, Calculations, OR Slider Labels")

_YES_NO = {"yesno": {"1": "Yes", "0": "No"}, "truefalse": {"1": "True", "0": "False"}}
_TICKED = {"1": "Yes", "0": "No"}
_CODED = {"radio", "dropdown", "select"}


@dataclass(frozen=True)
class Field:
    """One field of a data dictionary; ``choices`` maps codes to labels, ``note`` is what is written beside the field."""

    name: str
    kind: str
    label: str
    choices: Mapping[str, str]
    note: str = ""


def simplified(text: str) -> str:
    """Letters and digits in lower case, for names that people spell in several ways.

    >>> simplified("Wild type") == simplified("wild_type")
    True
    """
    return "_".join(re.findall(r"[^\W_]+", text.casefold()))


def read_fields(dictionary: Table) -> dict[str, Field]:
    """The fields of a data dictionary, by name.

    Raises:
        ConfigurationError: the table lacks the headings of a data dictionary.
    """
    if absent := [heading for heading in FIELD_HEADINGS if heading not in dictionary.columns]:
        expected = f"the columns of REDCap's data dictionary: {listed(FIELD_HEADINGS)}"
        remedy = "download it again from Project Setup, Data Dictionary, and leave its header as it is"
        raise ConfigurationError([Fault(str(dictionary.path), "", f"no column {listed(absent)}", expected, remedy)])
    names, kinds, labels, choices = (dictionary.column(heading) for heading in FIELD_HEADINGS)
    notes = dictionary.columns.get("Field Note", [""] * dictionary.rows)
    return {
        name: Field(
            name, kind, label, _YES_NO.get(kind) or (parsed_choices(text) if kind in {*_CODED, "checkbox"} else {}), note
        )
        for name, kind, label, text, note in zip(names, kinds, labels, choices, notes, strict=True)
        if name
    }


def parsed_choices(text: str) -> dict[str, str]:
    """Codes and labels of a choice list.

    >>> parsed_choices("1, Male | 2, Female, or other | -99, Unknown")
    {'1': 'Male', '2': 'Female, or other', '-99': 'Unknown'}
    """
    pairs = (choice.split(",", 1) for choice in text.split("|") if "," in choice)
    return {canonical_code(code): label.strip() for code, label in pairs}


def with_choices(table: Table, fields: Mapping[str, Field]) -> Table:
    """``table`` knowing what its codes mean; a checkbox is one column of yes and no for each of its choices."""
    choices = {name: field.choices for name, field in fields.items() if field.choices and field.kind != "checkbox"}
    boxes = {name for name, field in fields.items() if field.kind == "checkbox"}
    choices |= {column: _TICKED for column in table.columns if column.rpartition("___")[0] in boxes}
    return replace(table, choices=choices)


def column_titles(table: Table, fields: Mapping[str, Field]) -> dict[str, str]:
    """What the form calls each column: the field's label and note, or the label of the box to tick."""
    titles = {name: f"{field.label} {field.note}".strip() for name, field in fields.items() if name in table.columns}
    for column in table.columns:
        name, _, code = column.rpartition("___")
        if name in fields and fields[name].kind == "checkbox":
            titles[column] = fields[name].choices.get(canonical_code(code), column)
    return titles


def with_matches(cohort: Cohort, fields: Mapping[str, Field], protocol: StudyProtocol) -> Cohort:
    """``cohort`` with a mapping for each variable not mapped yet that a field fits by name, and by choices or unit."""
    named = {simplified(text): field for field in fields.values() for text in (field.label, field.name)}
    found = {
        name: mapping
        for name, variable in protocol.variables.items()
        if name not in cohort.variables
        and (field := named.get(simplified(name))) is not None
        and (mapping := _fitting(name, variable, field)) is not None
    }
    return cohort.model_copy(update={"variables": {**cohort.variables, **found}})


def with_rows_of(cohort: Cohort, table: Table, *, where: str) -> Cohort:
    """``cohort`` whose row filter keeps the events and repeating instruments asked for.

    Raises:
        ConfigurationError: the export has no such event or instrument.
    """
    conditions: dict[str, Scalar | tuple[Scalar, ...] | Between] = dict(cohort.where)
    wanted = {EVENT: ("cohort.redcap_events", cohort.redcap_events or None)}
    wanted[INSTRUMENT] = ("cohort.redcap_instruments", cohort.redcap_instruments)
    faults = []
    for column, (key, names) in wanted.items():
        if names is None:
            continue
        held = list(dict.fromkeys(filter(None, table.columns.get(column, []))))
        for name in names:
            if name not in held:
                expected = f"one of {listed(held)}" if held else f"a column {column}, which this export does not have"
                remedy = did_you_mean(name, held, otherwise="use these names, or remove the key")
                faults.append(Fault(where, key, quoted(name), expected, remedy))
        # A patient's own row names no repeating instrument.
        conditions[column] = (*names, "") if column == INSTRUMENT else names
    if faults:
        raise ConfigurationError(faults)
    return cohort.model_copy(update={"where": {column: held for column, held in conditions.items() if column in table.columns}})


def widened(table: Table, long: Long, *, where: str) -> Table:
    """A long table with a column for each thing measured: its rows stay, each with its value under its name.

    Raises:
        ConfigurationError: the table lacks one of the two columns.
    """
    faults = [
        Fault(
            where,
            f"cohort.long.{key}",
            f"no column {quoted(column)}",
            listed(table.columns),
            did_you_mean(column, table.columns),
        )
        for key, column in (("name", long.name), ("value", long.value))
        if column not in table.columns
    ]
    if faults:
        raise ConfigurationError(faults)
    names, values = table.columns[long.name], table.columns[long.value]
    measured = {
        name: [value if own == name else "" for own, value in zip(names, values, strict=True)]
        for name in dict.fromkeys(filter(None, names))
    }
    return replace(table, columns={**table.columns, **measured})


def _fitting(name: str, variable: Variable, field: Field) -> VariableMapping | None:
    if variable.kind == "categorical":
        known = {simplified(category) for category in variable.categories}
        fits = len(known & {simplified(label) for label in field.choices.values()}) == len(known)
        return VariableMapping(column=field.name) if fits and field.kind != "checkbox" else None
    if field.choices or field.kind not in {"text", "calc", "slider"}:
        return None
    if variable.unit is None:
        return VariableMapping(column=field.name)
    words = set(re.split(r"[\s()\[\],;:]+", f"{field.note} {field.label}"))
    unit = next((unit for unit in known_units(variable.unit, variable=name) if unit in words), None)
    return VariableMapping(column=field.name, unit=unit) if unit else None

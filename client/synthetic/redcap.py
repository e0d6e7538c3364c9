"""A synthetic hospital's table as REDCap exports it: raw codes, ticked boxes as 0 and 1, and the data dictionary beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

MISSING = "-99"
_HEADINGS = (
    "Variable / Field Name",
    "Form Name",
    "Section Header",
    "Field Type",
    "Field Label",
    "Choices, Calculations, OR Slider Labels",
    "Field Note",
    "Text Validation Type OR Show Slider Number",
    "Text Validation Min",
    "Text Validation Max",
)


@dataclass(frozen=True)
class Item:
    """A field of the project.

    Attributes:
        label: what the form asks.
        source: the variable it holds; empty for a list of boxes to tick.
        form: the instrument it is on.
        choices: category -> code and label, empty for a number; of boxes, yes-no variable -> code and label, each exported as
            ``<field>___<code>``.
        note: written beside the field, such as its unit.
        factor, decimals: of a number, as in a plain table.
    """

    label: str
    source: str = ""
    form: str = "ultrasound"
    choices: Mapping[object, tuple[int, str]] = field(default_factory=dict)
    note: str = ""
    decimals: int = 1
    factor: float = 1.0


def export(values: pd.DataFrame, items: Mapping[str, Item], *, gone: pd.DataFrame) -> pd.DataFrame:
    """The raw export: one row a record, ``-99`` where ``gone`` (bool, by source) says that a value is missing."""
    columns: dict[str, Any] = {"record_id": values["id"]}
    for name, item in items.items():
        lost = gone[item.source] if item.source in gone else np.zeros(len(values), dtype=np.bool_)
        columns |= {heading: np.where(lost, MISSING, cells) for heading, cells in _cells(name, item, values).items()}
    return pd.DataFrame(columns | {f"{form}_complete": "2" for form in dict.fromkeys(item.form for item in items.values())})


def dictionary(items: Mapping[str, Item]) -> pd.DataFrame:
    """REDCap's data dictionary of the project."""
    rows = [("record_id", "demographics", "", "text", "Record ID", "", "", "", "", "")]
    for name, item in items.items():
        kind = "checkbox" if not item.source else "radio" if item.choices else "text"
        codes = " | ".join(f"{code}, {label}" for code, label in item.choices.values())
        choices = f"{codes} | {MISSING}, Not known" if kind == "radio" else codes
        rows.append((name, item.form, "", kind, item.label, choices, item.note, "" if item.choices else "number", "", ""))
    return pd.DataFrame(rows, columns=list(_HEADINGS))


def _cells(name: str, item: Item, values: pd.DataFrame) -> dict[str, "pd.Series[str]"]:
    """Columns of one field."""
    if not item.source:
        boxes = {str(variable): code for variable, (code, _) in item.choices.items()}
        return {f"{name}___{code}": values[variable].map({True: "1", False: "0"}) for variable, code in boxes.items()}
    held = values[item.source]
    if item.choices:
        return {name: held.map({category: str(code) for category, (code, _) in item.choices.items()})}
    return {name: held.map(lambda value: f"{value * item.factor:.{item.decimals}f}")}

"""The model beside what clinicians said of the same patients: a table for each comparator."""

from collections.abc import Iterator
from typing import Any

from server.report.tables.model import Column, Row, Table, count, difference, estimate, site_name, table

Json = dict[str, Any]

_COLUMNS = (
    Column("site", "Site", left=True),
    Column("patients", "Patients"),
    Column("events", "Events"),
    Column("own_sensitivity", "Its sensitivity"),
    Column("own_specificity", "Its specificity"),
    Column("sensitivity", "Sensitivity, difference"),
    Column("specificity", "Specificity, difference"),
    Column("net_benefit", "Net benefit, difference"),
    Column("auc", "AUC, difference"),
    Column("avoided_per_100", "Avoided in 100 at its sensitivity"),
)


def build(document: Json) -> Iterator[Table | None]:
    """``reading_NAME`` on test patients and ``reading_NAME_folds`` of all folds of a cross-validation."""
    folds = document["design"]["folds"]
    for comparators, suffix in ((document["comparators"], ""), (folds["comparators"] if folds else {}, "_folds")):
        for name, comparator in comparators.items():
            if comparator["pooled"]:
                yield _table(f"reading_{name}{suffix}", comparator)


def _table(name: str, comparator: Json) -> Table | None:
    rows = [_row(site, reading) for site, reading in comparator["sites"].items()]
    thresholds = comparator["pooled"]["thresholds"]
    calls = f"; the model calls positive from {thresholds[0]['threshold']:g} on" if thresholds else ""
    caption = f"The assessment alone, and the model less the assessment on the same patients (paired){calls}."
    return table(name, caption, _COLUMNS, [*rows, _row("All sites together", comparator["pooled"], total=True)])


def _row(site: str, reading: Json, *, total: bool = False) -> Row:
    first = reading["thresholds"][0] if reading["thresholds"] else {}
    cells = (
        site_name(site),
        count(reading["patients"]),
        count(reading["events"], of=reading["patients"]),
        estimate(reading["own"]["sensitivity"], percent=True),
        estimate(reading["own"]["specificity"], percent=True),
        difference(first.get("sensitivity")),
        difference(first.get("specificity")),
        difference(first.get("net_benefit"), 3),
        difference(reading["auc"], 3),
        difference(reading["avoided_per_100"], 1),
    )
    return Row(cells, total)

"""Who the sites' patients are beside one another, whether there are enough of them, and how many are at which risk."""

from collections.abc import Iterator
from typing import Any

from server.numerals import signed
from server.report.tables.model import Cell, Column, Row, Table, absent, count, estimate, number, site_name, table, words
from server.report.wording import decimal, percent

Json = dict[str, Any]
LARGE = 0.25  # standardised difference that is usually called large


def build(document: Json) -> Iterator[Table | None]:
    """``strata``, ``case_mix`` and ``sample_size``."""
    if document["strata"]:
        yield _strata(document["strata"])
    described = [site for site in document["sites"] if any(site in row["sites"] for row in document["case_mix"]["variables"])]
    if len(described) > 1:
        yield _case_mix(document["case_mix"], described)
    yield _sample_size(document["sample_size"])


def _strata(strata: Json) -> Table | None:
    of = [Column("site", "Site", left=True)]
    for name in ("low", "intermediate", "high"):
        of += [Column(name, f"{name.capitalize()} risk: patients"), Column(f"{name}_observed", "Observed")]
    rows = [Row((site_name(name), *_levels(levels))) for name, levels in strata["sites"].items()]
    if strata["pooled"]:
        rows.append(Row((site_name("All sites together"), *_levels(strata["pooled"])), total=True))
    return table("strata", "Test patients, and how many of them had the outcome.", of, rows)


def _levels(levels: list[Json]) -> Iterator[Cell]:
    for level in levels:
        share = percent(level["share"]) if level["share"] is not None else ""
        yield Cell(f"{level['patients']:,}", share, {"": level["patients"]})
        yield estimate(level["observed"], percent=True, why="nobody")


def _case_mix(case_mix: Json, described: list[str]) -> Table | None:
    of = [Column("variable", "Variable", left=True), *(Column(name, name) for name in described)]
    outcome = Row((words("outcome, all patients"), *(_difference(case_mix["outcome"][name], signs=True) for name in described)))
    rows = [
        Row((words(row["variable"]), *(_difference(row["sites"][name], signs=row["kind"] == "numeric") for name in described)))
        for row in case_mix["variables"]
    ]
    caption = (
        "Standardised mean difference of each site from all others together, training patients. "
        f"Beyond {LARGE} is usually called large, and is marked."
    )
    return table("case_mix", caption, of, [outcome, *rows], wide=True)


def _difference(value: float | None, *, signs: bool) -> Cell:
    if value is None:
        return absent("")
    text = signed(value, 2) if signs else decimal(value)
    return Cell(text, "large" if abs(value) > LARGE else "", {"": value}, warn=abs(value) > LARGE)


def _sample_size(sizes: Json) -> Table | None:
    of = (
        Column("site", "Site", left=True),
        Column("events", "With the outcome"),
        Column("others", "Without"),
        Column("enough", "Enough"),
        Column("expected_width", "Interval to expect of an AUC of 0.8"),
        Column("patients_for_width", "Patients for an interval of 0.1"),
        Column("events_per_parameter", "Training events for each parameter"),
    )
    rows = []
    for name, size in sizes.items():
        wide = size["expected_width"]
        cells = (
            site_name(name),
            count(size["events"]),
            count(size["others"]),
            words("yes" if size["enough"] else "no"),
            absent("") if wide is None else Cell(f"{decimal(wide)} wide", "", {"": wide}),
            count(size["patients_for_width"]),
            number(size["events_per_parameter"], 1),
        )
        rows.append(Row(cells))
    caption = (
        "Are there enough test patients? At least 100 with the outcome and 100 without are advised to judge a model at a site."
    )
    return table("sample_size", caption, of, rows)

"""Tests of the explanations: of all sites' patients together, and at each site."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from server.report.tables.model import Cell, Column, Row, Table, absent, count, estimate, site_name, table, words
from server.report.wording import decimal

Json = dict[str, Any]

_COLUMNS = (
    Column("method", "Method", left=True),
    Column("test", "Test", left=True),
    Column("patients", "Patients"),
    Column("value", "Result"),
    Column("against", "Held against"),
    Column("verdict", "Verdict"),
)
_TOLD_AT_SITES = ("deletion", "insertion", "pointing game")


def build(document: Json) -> Iterator[Table | None]:
    """``explanation_tests``, ``explanation_by_site`` and, as a file only, ``explanation_tests_by_site``."""
    explained = document.get("explanation")
    if not explained:
        return
    caption = (
        "Patients of all sites together. What counts as passing was fixed before the study; a method that failed is not to be "
        "relied on."
    )
    yield table("explanation_tests", caption, _COLUMNS, [Row(_cells(row)) for row in explained["tests"]])
    sites = {name: tests for name, tests in explained["tests_by_site"].items() if tests}
    yield _at_sites(sites)
    every = [Row((site_name(site), *_cells(row))) for site, tests in sites.items() for row in tests]
    yield table("explanation_tests_by_site", "Every test at every site.", (Column("site", "Site", left=True), *_COLUMNS), every)


def _cells(row: Json) -> tuple[Cell, ...]:
    low, high = row["baseline_interval"] or (None, None)
    held = estimate({"value": row["against"], "low": low, "high": high})
    return (
        words(row["method"].replace("_", " ")),
        words(row["test"]),
        count(round(row["patients"])),
        estimate(row),
        Cell(f"{row['baseline']} {held.text}", held.small, {"": row["against"]}),
        words("passed") if row["passed"] else Cell("failed", "not to be relied on", {"": "failed"}, warn=True),
    )


def _at_sites(sites: dict[str, list[Json]]) -> Table | None:
    """Deletion, insertion and pointing of each method: a row a method, a column a site."""
    rows = []
    for method, test in dict.fromkeys((row["method"], row["test"]) for tests in sites.values() for row in tests):
        if test in _TOLD_AT_SITES:
            found = (_found(tests, method, test) for tests in sites.values())
            rows.append(Row((words(method.replace("_", " ")), words(test), *found)))
    of = (Column("method", "Method", left=True), Column("test", "Test", left=True), *(Column(name, name) for name in sites))
    caption = "The same at each site: result, and below it what it is held against. “Failed” may be for want of patients."
    return table("explanation_by_site", caption, of, rows)


def _found(tests: list[Json], method: str, test: str) -> Cell:
    for row in tests:
        if (row["method"], row["test"]) == (method, test):
            against = f"{row['baseline']} {decimal(row['against'])}, {round(row['patients'])} patients"
            small = against if row["passed"] else f"failed; {against}"
            return replace(estimate(row), small=small, warn=not row["passed"])
    return absent("not told")

"""The report's tables, one module a family: each has ``build(document)``, which yields what there are rows for."""

from typing import Any

from server.report.tables import (
    arms,
    between,
    cohort,
    comparison,
    course,
    explained,
    groups,
    left_out,
    performance,
    privacy,
    readings,
    samples,
)
from server.report.tables.model import Table

Json = dict[str, Any]

__all__ = ["FAMILIES", "Table", "build_tables"]

FAMILIES = (cohort, performance, between, groups, left_out, arms, comparison, readings, samples, explained, course, privacy)


def build_tables(document: Json) -> dict[str, Table]:
    """Every table that the document has rows for, by name (its CSV file's name without the suffix)."""
    built = (found for family in FAMILIES for found in family.build(document))
    return {found.name: found for found in built if found is not None}

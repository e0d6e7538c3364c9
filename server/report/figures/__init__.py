"""The report's figures, one module a family: each has ``draw(document)``, which yields what there is data for."""

from typing import Any

from server.report.figures import (
    calibration,
    cohort,
    comparison,
    convergence,
    designs,
    discrimination,
    explanation,
    forest,
    subgroups,
    utility,
)
from server.report.svg import Drawing

Json = dict[str, Any]

FAMILIES = (
    cohort,
    discrimination,
    calibration,
    utility,
    forest,
    subgroups,
    comparison,
    designs,
    convergence,
    explanation,
)


def draw_figures(document: Json) -> dict[str, Drawing]:
    """Every figure that the document has data for, by name (its file's name without the suffix)."""
    return {drawing.name: drawing for family in FAMILIES for drawing in family.draw(document)}

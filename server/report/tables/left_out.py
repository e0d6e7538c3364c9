"""Each site tested by a model that was trained and chosen without it."""

from collections.abc import Iterator
from typing import Any

from server.report.tables.model import Column, Row, Table, absent, count, estimate, number, site_name, table, words

Json = dict[str, Any]

_COLUMNS = (
    Column("site", "Site left out", left=True),
    Column("patients", "Patients"),
    Column("events", "Events"),
    Column("auc", "AUC"),
    Column("oe_ratio", "Observed / expected"),
    Column("calibration_slope", "Calibration slope"),
    Column("threshold", "Threshold of the others"),
    Column("sensitivity", "Sensitivity there"),
    Column("specificity", "Specificity there"),
    Column("trained_on", "Trained at", left=True),
)


def build(document: Json) -> Iterator[Table | None]:
    """``leave_one_site_out``."""
    left_out = document["design"]["left_out"]
    if left_out:
        rows = [_row(name, study) for name, study in left_out["sites"].items()]
        yield table(
            "leave_one_site_out", "All labelled patients of each site, tested by a model of the others.", _COLUMNS, rows
        )


def _row(name: str, study: Json) -> Row:
    result, chosen = study["result"], study["chosen_threshold"] or {}
    if not result:
        return Row((site_name(name),), instead=study["why_not"])
    metrics = result["metrics"]
    cells = (
        site_name(name),
        count(result["patients"]),
        count(result["events"], of=result["patients"]),
        *(estimate(metrics[key], why="not estimable") for key in ("auc", "oe_ratio", "calibration_slope")),
        number(chosen.get("threshold"), 3, why="not chosen"),
        *(estimate(chosen.get(key), percent=True, why="not estimable") for key in ("sensitivity", "specificity")),
        words(f"{len(study['trained_on'])} sites") if study["trained_on"] else absent("nowhere"),
    )
    return Row(cells)

"""How the model does in groups of patients, and with and without a modality."""

from collections.abc import Iterator
from typing import Any

from server.report.tables.model import Column, Row, Table, count, estimate, site_name, table, words

Json = dict[str, Any]

_COLUMNS = (
    Column("site", "Site", left=True),
    Column("variable", "Variable", left=True),
    Column("level", "Level", left=True),
    Column("patients", "Test patients"),
    Column("events", "Events"),
    Column("auc", "AUC"),
    Column("oe_ratio", "Observed / expected"),
    Column("brier", "Brier score"),
)


def build(document: Json) -> Iterator[Table | None]:
    """``subgroups`` and ``missing_modality``."""
    yield table("subgroups", "Groups of test patients at each site.", _COLUMNS, _rows(document, "subgroups"), wide=True)
    caption = "Test patients with and without each modality, at each site."
    yield table("missing_modality", caption, _COLUMNS, _rows(document, "missing_modality"), wide=True)


def _rows(document: Json, key: str) -> list[Row]:
    rows = []
    for name, site in document["sites"].items():
        for group in site[key]:
            if not group["metrics"]:  # told once, among what is suppressed
                continue
            numbers = group["metrics"]
            rows.append(
                Row(
                    (
                        site_name(name),
                        words(group["variable"].replace("_", " ")),
                        words(group["level"].replace("_", " ")),
                        count(group["patients"]),
                        count(group["events"], of=group["patients"]),
                        estimate(
                            numbers["auc"], why="one outcome only" if group["events"] in {0, group["patients"]} else "too few"
                        ),
                        estimate(numbers["oe_ratio"], why="not estimable"),
                        estimate(numbers["brier"], 3, why="not estimable"),
                    )
                )
            )
    return rows

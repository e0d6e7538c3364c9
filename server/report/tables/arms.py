"""Every way of training on the same test patients, paired: of one split, and of cross-validation."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from server.report.tables.model import Cell, Column, Row, Table, count, difference, estimate, site_name, table
from server.report.wording import capital

Json = dict[str, Any]


def build(document: Json) -> Iterator[Table | None]:
    """``paired``, ``paired_folds`` and, of a cross-validation without other arms, ``folds``."""
    yield _paired("paired", "Every way of training on the same test patients", document["arms"], document["comparisons"])
    folds = document["design"]["folds"]
    if folds and folds["pooled"]:
        yield _paired("paired_folds", "Every way of training, on all patients", folds["arms"], folds["comparisons"])
        yield None if folds["arms"] else _alone(folds)


def _paired(name: str, title: str, arms: Json, comparisons: Json) -> Table | None:
    if not arms:
        return None
    of = [Column("site", "Site", left=True), *(Column(arm, capital(block["label"])) for arm, block in arms.items())]
    rows = [
        Row(
            (
                site_name(site),
                *(_cell(arm, block["sites"].get(site), _compared(comparisons, arm, site)) for arm, block in arms.items()),
            )
        )
        for site in arms["federated"]["sites"]
    ]
    whole = (_cell(arm, block["pooled"], comparisons.get(arm, {}).get("pooled")) for arm, block in arms.items())
    rows.append(Row((site_name("All, within sites"), *whole), total=True))
    caption = (
        f"{title}. AUC of each way of training; below it, the federated model's less this one's on the same patients, paired."
    )
    return table(name, caption, of, rows)


def _compared(comparisons: Json, arm: str, site: str) -> Json | None:
    found: Json | None = comparisons.get(arm, {}).get("sites", {}).get(site)
    return found


def _cell(arm: str, own: Json | None, compared: Json | None) -> Cell:
    """AUC, and below it what the federated model's is more; of the federated model itself, its interval."""
    auc = estimate(own["auc"] if own else None, why="not estimable")
    if auc.absent or arm == "federated":
        return auc
    if compared is None or compared["auc"] is None:
        return replace(auc, small="")
    less = difference(compared["auc"], 3)
    differences = {f"_difference{suffix}": value for suffix, value in less.values.items()}
    return replace(auc, small=f"{less.text}; {less.small}", values=auc.values | differences)


def _alone(folds: Json) -> Table | None:
    of = (Column("site", "Site", left=True), Column("patients", "Patients"), Column("events", "Events"), Column("auc", "AUC"))
    rows = [
        Row(
            (
                site_name(name),
                count(result["patients"]),
                count(result["events"], of=result["patients"]),
                estimate(result["metrics"]["auc"], why="not estimable"),
            )
        )
        for name, result in folds["sites"].items()
    ]
    return table("folds", "Cross-validated, at each site.", of, rows)

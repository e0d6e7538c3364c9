"""Every way of training on the same test patients, paired: of one split, and of cross-validation."""

from collections.abc import Iterator
from typing import Any

from server.report.tables.model import Cell, Column, Row, Table, absent, count, estimate, site_name, table
from server.report.wording import decimal, signed

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
    of = [Column("site", "Site", left=True), *(Column(arm, _capital(block["label"])) for arm, block in arms.items())]
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
    auc = own["auc"] if own else None
    if auc is None:
        return absent("not estimable")
    values = {"": auc["value"], "_low": auc["low"], "_high": auc["high"]}
    if arm == "federated":
        span = "" if auc["low"] is None else f"{decimal(auc['low'])} to {decimal(auc['high'])}"
        return Cell(decimal(auc["value"]), span, values)
    less = compared["auc"] if compared else None
    if less is None:
        return Cell(decimal(auc["value"]), "", values)
    values |= {"_difference": less["value"], "_difference_low": less["low"], "_difference_high": less["high"]}
    span = "no interval" if less["low"] is None else f"{signed(less['low'], 3)} to {signed(less['high'], 3)}"
    return Cell(decimal(auc["value"]), f"{signed(less['value'], 3)}; {span}", values)


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


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]

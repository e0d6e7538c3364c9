"""Does joining help: the federated model beside those trained otherwise, on the same test patients."""

from collections.abc import Iterator
from typing import Any

from server.report.tables.model import Cell, Column, Row, Table, absent, metric, site_name, table
from server.report.wording import best_local

Json = dict[str, Any]

ARMS = {
    "personal": "Federated, personalised",
    "local_only": "This site alone",
    "central": "All data in one place",
    "logistic": "Logistic regression",
}


def build(document: Json) -> Iterator[Table | None]:
    """``comparison``: AUC and Brier score."""
    arms = [arm for arm in ARMS if any(arm in site for site in document["sites"].values()) or arm in document]
    if not arms:
        return
    for key, label, digits in (("auc", "AUC", 2), ("brier", "Brier score", 3)):
        of = [Column("site", "Site", left=True), Column("federated", "Federated"), *(Column(arm, ARMS[arm]) for arm in arms)]
        rows = []
        for name, site in document["sites"].items():
            if site["metrics"][key] is not None:
                others = (metric(site[arm], key, digits) if arm in site else absent("not trained") for arm in arms)
                rows.append(Row((site_name(name), metric(site, key, digits), *others)))
        pooled = document["pooled"]
        if rows and pooled["metrics"][key] is not None:
            others = (_over_all(document, arm, key, digits) for arm in arms)
            rows.append(Row((site_name("All sites together"), metric(pooled, key, digits), *others), total=True))
        caption = f"{label} on each site's test patients, by how the model was trained."
        yield table("comparison" if key == "auc" else f"comparison_{key}", caption, of, rows)


def _over_all(document: Json, arm: str, key: str, digits: int) -> Cell:
    if arm in document:
        return metric(document[arm], key, digits)
    best = best_local(document) if arm == "local_only" else None
    if best is None:
        return absent("")
    name = best[0]
    cell = metric(document["sites"][name]["local_only"]["pooled"], key, digits)
    return Cell(cell.text, f"{cell.small}; best: {name}", cell.values)

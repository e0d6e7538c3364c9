"""Who was studied: the flow from records to parts, Table 1, and why patients were left out."""

from collections.abc import Iterator
from typing import Any

from server.report.tables.model import Cell, Column, Row, Table, count, site_name, table, words
from server.report.wording import decimal, left_out, percent

Json = dict[str, Any]

_PARTS = (("train", "Training"), ("tune", "Tuning"), ("test", "Test"))
MUCH = 0.5  # a share of missing values that a reader should see


def build(document: Json) -> Iterator[Table | None]:
    """``flow``, ``exclusions`` and ``characteristics``."""
    described = {name: site for name, site in document["sites"].items() if site["cohort"]}
    yield _flow(document)
    yield _exclusions(described)
    if described:
        yield _characteristics(described)


def _flow(document: Json) -> Table | None:
    modalities = document["study"]["modalities"]
    of = [Column("site", "Site", left=True), Column("found", "Found"), Column("left_out", "Left out")]
    of += [Column(key, label) for key, label in _PARTS]
    of += [Column("images", "Pictures"), *(Column(f"has_{name}", f"With {name}") for name in modalities)]
    rows = []
    for name, site in document["sites"].items():
        cohort = site["cohort"]
        if cohort is None:
            rows.append(Row((site_name(name),), instead="never described its patients"))
            continue
        pictures = Cell("")
        if cohort["images_found"]:
            pictures = Cell(
                f"{cohort['images_found']:,}", f"{cohort['images_unusable']:,} unusable", {"": cohort["images_found"]}
            )
        shares = (Cell(percent(share), "", {"": share}) for share in (cohort["modalities"][name] for name in modalities))
        cells = (
            count(cohort["found"]),
            count(left_out(cohort)),
            *(_part(site, key) for key, _ in _PARTS),
            pictures,
        )
        rows.append(Row((site_name(name), *cells, *shares)))
    return table("flow", "From each site's records to the patients of the study.", of, rows)


def _part(site: Json, key: str) -> Cell:
    patients, events = site["n"][key], site["events"][key]
    if events is None:
        return Cell(f"{patients:,}", "events held back", {"": patients})
    share = f", {percent(events / patients)}" if patients else ""
    return Cell(f"{patients:,}", f"{events:,} events{share}", {"": patients, "_events": events})


def _exclusions(described: dict[str, Json]) -> Table | None:
    of = (Column("site", "Site", left=True), Column("reason", "Why left out", left=True), Column("patients", "Patients"))
    rows = [
        Row((site_name(name, shown=place == 0), words(reason), count(patients)))
        for name, site in described.items()
        for place, (reason, patients) in enumerate(site["cohort"]["excluded"].items())
    ]
    return table("exclusions", "Why patients were left out.", of, rows)


def _characteristics(described: dict[str, Json]) -> Table | None:
    of = [Column("variable", "Variable", left=True), Column("detail", "", left=True)]
    of += [Column(name, f"{name} (n = {site['n'][_described(site)]:,})") for name, site in described.items()]
    rows: list[Row] = []
    for name, variable in next(iter(described.values()))["cohort"]["variables"].items():
        cohorts = [site["cohort"] for site in described.values()]
        missing = [cohort["missing"][name] for cohort in cohorts]
        if variable["kind"] == "numeric":
            kind = "geometric mean ×/÷ SD" if variable["geometric"] else "mean ± SD"
            detail = f"{kind}{', ' + variable['unit'] if variable['unit'] else ''}"
            cells = [
                _with_missing(_spread(cohort["variables"][name]), share) for cohort, share in zip(cohorts, missing, strict=True)
            ]
            rows.append(Row((words(name.replace("_", " ")), words(detail), *cells)))
            continue
        for place, category in enumerate(variable["shares"]):
            shares = [cohort["variables"][name]["shares"][category] for cohort in cohorts]
            cells = [Cell(percent(share), "", {"": share}) for share in shares]
            if place == 0:
                cells = [_with_missing(cell, share) for cell, share in zip(cells, missing, strict=True)]
            heading = Cell("" if place else name.replace("_", " "), "", {"": name})
            rows.append(Row((heading, words(category.replace("_", " ")), *cells)))
    parts = {_described(site) for site in described.values()}
    whose = "training" if parts == {"train"} else "tuning" if parts == {"tune"} else "training or tuning"
    caption = f"Characteristics of {whose} patients. “Missing” is the share of all the site's patients without a value."
    return table("characteristics", caption, of, rows, wide=True)


def _described(site: Json) -> str:
    """The part whose patients a site describes: under differential privacy not those it trains on."""
    return "tune" if site["privacy"] else "train"


def _with_missing(cell: Cell, share: float | None) -> Cell:
    if not share:
        return cell
    return Cell(cell.text, f"missing {percent(share)}", {**cell.values, "_note": f"missing {share:.4f}"}, warn=share >= MUCH)


def _spread(cell: Json) -> Cell:
    if cell["spread"] is None:
        return Cell("–")
    digits, sign = 1 if cell["mean"] >= 10 else 2, "×/÷" if cell["geometric"] else "±"
    text = f"{decimal(cell['mean'], digits)} {sign} {decimal(cell['spread'], digits)}"
    return Cell(text, "", {"": text})

"""How the model does: at each site, at thresholds, its calibration, and what local correction changes."""

from collections.abc import Iterator
from typing import Any

from server.report.tables.model import (
    Cell,
    Column,
    Row,
    Table,
    absent,
    count,
    estimate,
    metric,
    number,
    site_name,
    table,
    words,
)
from server.report.wording import capital, decimal, percent, why_not

Json = dict[str, Any]

PRESET, OWN = "preset", "the site's own tuning patients"
_RATES = (
    ("sensitivity", "Sensitivity"),
    ("specificity", "Specificity"),
    ("ppv", "Pos. predictive value"),
    ("npv", "Neg. predictive value"),
)


def build(document: Json) -> Iterator[Table | None]:
    """The federated model at each site, at thresholds, its calibration, and what local correction changes."""
    yield _sites(document)
    yield _thresholds(document)
    yield _thresholds_by_site(document)
    yield _own_thresholds(document)
    yield _prevalences(document)
    yield _measures(document, "overall", "Overall performance on test patients, 95% intervals below the values.", _OVERALL)
    yield _measures(document, "calibration", "Calibration on test patients, 95% intervals below the values.", _CALIBRATION)
    yield _recalibration(document)


def _blocks(document: Json) -> Iterator[tuple[str, Json, bool]]:
    """Name, scored block, and whether it is all sites together; nobody's is left out of the last."""
    for name, site in document["sites"].items():
        yield name, site, False
    if document["pooled"]["patients"]:
        yield "All sites together", document["pooled"], True


def nothing_at(block: Json) -> str:
    """Why nothing at all is known of a block, if it is so."""
    return "" if block["metrics"]["brier"] is not None else f"not estimable: {why_not(block, 'brier')}"


def _patients(block: Json) -> tuple[Cell, Cell]:
    size = block["sample_size"]
    patients = size["events"] + size["nonevents"]
    return count(patients), count(size["events"], of=patients)


def _sites(document: Json) -> Table | None:
    chosen = next((row["threshold"] for row in document["pooled"]["thresholds"] if row["rule"] == PRESET), None)
    of = [
        Column("site", "Site", left=True),
        Column("patients", "Test patients"),
        Column("events", "Events"),
        Column("auc", "AUC"),
        *((Column("sensitivity", "Sensitivity"), Column("specificity", "Specificity")) if chosen is not None else ()),
        Column("brier", "Brier score"),
        Column("oe_ratio", "Observed / expected"),
        Column("calibration_slope", "Calibration slope"),
    ]
    rows = []
    for name, block, total in _blocks(document):
        if why := nothing_at(block):
            rows.append(Row((site_name(name),), total, instead=why))
            continue
        at = [
            _rate(block, row, key)
            for row in block["thresholds"][:1]
            for key in ("sensitivity", "specificity")
            if chosen is not None
        ]
        cells = (*_patients(block), metric(block, "auc"), *at)
        after = (metric(block, "brier", 3), metric(block, "oe_ratio"), metric(block, "calibration_slope"))
        rows.append(Row((site_name(name), *cells, *after), total))
    at_threshold = f"; positive from a predicted probability of {chosen:g}" if chosen is not None else ""
    return table("sites", f"Test patients of each site, 95% intervals below the values{at_threshold}.", of, rows)


def _rate(block: Json, row: Json, name: str) -> Cell:
    place = f" at {row['threshold']:g}" if row["rule"] == PRESET else f" at {row['rule']} ({row['chosen_on']})"
    return estimate(row[name], percent=True, why=why_not(block, name + place))


def _rule(row: Json) -> str:
    if row["rule"] == PRESET:
        return "fixed in the protocol"
    if row["rule"] == "youden":
        return "best of Youden's index"
    return f"to find {100 * float(row['rule'].split()[1]):.0f}%"


_THRESHOLD_COLUMNS = (
    Column("rule", "Chosen", left=True),
    *(Column(key, label) for key, label in _RATES),
    Column("net_benefit", "Net benefit"),
    Column("treat_all", "… treating all"),
    Column("avoided", "Avoided per 100"),
)


def _threshold_cells(block: Json, row: Json) -> tuple[Cell, ...]:
    chosen_on = "" if row["rule"] == PRESET else f"on {row['chosen_on']}"
    return (
        words(_rule(row), chosen_on),
        *(_rate(block, row, key) for key, _ in _RATES),
        number(row["net_benefit"], 3, why="no patients"),
        number(row["treat_all"], 3, why="no patients"),
        number(row["interventions_avoided_per_100"], 1, why="not estimable"),
    )


def _thresholds(document: Json) -> Table | None:
    pooled = document["pooled"]
    rows = [
        Row((Cell(f"{row['threshold']:.3g}", "", {"": row["threshold"]}), *_threshold_cells(pooled, row)))
        for row in pooled["thresholds"]
        if pooled["patients"]
    ]
    of = (Column("threshold", "Positive from", left=True), *_THRESHOLD_COLUMNS)
    return table("thresholds", "At each threshold, test patients of all sites together.", of, rows)


def _thresholds_by_site(document: Json) -> Table | None:
    rows = [
        Row((site_name(name), Cell(f"{row['threshold']:.3g}", "", {"": row["threshold"]}), *_threshold_cells(site, row)))
        for name, site in document["sites"].items()
        if not nothing_at(site)
        for row in site["thresholds"]
    ]
    of = (Column("site", "Site", left=True), Column("threshold", "Positive from"), *_THRESHOLD_COLUMNS)
    return table("thresholds_by_site", "At each threshold, each site.", of, rows, wide=True)


def _own_thresholds(document: Json) -> Table | None:
    """What each site would choose itself, from its own tuning patients, and what that does on its test patients."""
    rules = list(
        dict.fromkeys(
            row["rule"] for site in document["sites"].values() for row in site["thresholds"] if row["chosen_on"] == OWN
        )
    )
    rows = []
    for name, site in document["sites"].items():
        own = {row["rule"]: row for row in site["thresholds"] if row["chosen_on"] == OWN}
        if own and not nothing_at(site):
            rows.append(Row((site_name(name), *(_own(own.get(rule)) for rule in rules))))
    of = [
        Column("site", "Site", left=True),
        *(Column(rule.replace(" ", "_"), capital(_rule({"rule": rule}))) for rule in rules),
    ]
    return table("own_thresholds", "Thresholds that each site would choose on its own tuning patients.", of, rows)


def _own(row: Json | None) -> Cell:
    if row is None:
        return absent("no tuning patients of a class")
    rates = [
        f"{label} {percent(row[key]['value'])}"
        for key, label in (("sensitivity", "sens."), ("specificity", "spec."))
        if row[key]
    ]
    return Cell(f"{row['threshold']:.3g}", ", ".join(rates), {"": row["threshold"], "_note": ", ".join(rates)})


def _prevalences(document: Json) -> Table | None:
    pooled, prevalences = document["pooled"], document["study"]["prevalences"]
    rows = [
        Row(
            (
                Cell(f"{row['threshold']:.3g}", "", {"": row["threshold"]}),
                words(_rule(row)),
                *(
                    estimate(restated if restated["value"] is not None else None, percent=True, why="not estimable")
                    for pair in zip(row["ppv_at"], row["npv_at"], strict=True)
                    for restated in pair
                ),
            )
        )
        for row in pooled["thresholds"]
        if pooled["patients"] and prevalences
    ]
    of = [
        Column("threshold", "Positive from", left=True),
        Column("rule", "Chosen", left=True),
        *(
            Column(f"{key}_at_{prevalence:g}", f"{label} at {percent(prevalence)}")
            for prevalence in prevalences
            for key, label in (("ppv", "PPV"), ("npv", "NPV"))
        ),
    ]
    return table("prevalences", "Predictive values where the outcome is as frequent as stated.", of, rows)


_CALIBRATION = (
    ("oe_ratio", "Observed / expected", 2),
    ("calibration_intercept", "Intercept", 2),
    ("calibration_slope", "Slope", 2),
    ("ici", "ICI", 3),
    ("e50", "E50", 3),
    ("e90", "E90", 3),
)
_OVERALL = (
    ("average_precision", "Average precision", 2),
    ("brier", "Brier score", 3),
    ("scaled_brier", "Scaled Brier score", 2),
    ("log_loss", "Log loss", 3),
)


def _measures(document: Json, name: str, caption: str, measures: tuple[tuple[str, str, int], ...]) -> Table | None:
    of = [Column("site", "Site", left=True), *(Column(key, label) for key, label, _ in measures)]
    rows = [
        Row((site_name(site), *(metric(block, key, digits) for key, _, digits in measures)), total)
        for site, block, total in _blocks(document)
        if not nothing_at(block)
    ]
    return table(name, caption, of, rows)


def _recalibration(document: Json) -> Table | None:
    of = (
        Column("site", "Site", left=True),
        Column("kind", "Correction", left=True),
        Column("formula", "New log odds", left=True),
        Column("patients", "Fitted on"),
        Column("oe_ratio", "Observed / expected"),
        Column("calibration_slope", "Slope"),
        Column("ici", "ICI"),
        Column("brier", "Brier score"),
    )
    rows: list[Row] = []
    for name, site in document["sites"].items():
        if nothing_at(site):
            continue
        found = site["recalibrated"]
        if not (found["intercept"] or found["logistic"]):
            rows.append(Row((site_name(name),), instead=f"none: {found['why_not']}"))
            continue
        before = (words("none"), words("as predicted"), words(""), *_corrected(site))
        rows.append(Row((site_name(name), *before)))
        for kind in ("intercept", "logistic"):
            fitted = found[kind]
            if fitted:
                formula = f"{decimal(fitted['intercept'])} + {decimal(fitted['slope'])} × old"
                size = Cell(f"{fitted['patients']:,}", f"{fitted['events']:,} events", {"": fitted["patients"]})
                label = {"intercept": "intercept only", "logistic": "intercept and slope"}[kind]
                rows.append(
                    Row((site_name(name, shown=False), words(label), words(formula), size, *_corrected({**site, **fitted})))
                )
    return table("recalibration", "Test patients before and after a correction fitted on the site's tuning patients.", of, rows)


def _corrected(block: Json) -> tuple[Cell, ...]:
    return tuple(
        metric(block, key, digits) for key, digits in (("oe_ratio", 2), ("calibration_slope", 2), ("ici", 3), ("brier", 3))
    )

"""How sites differ from one another."""

from collections.abc import Iterator
from typing import Any

from server.report.tables.model import Cell, Column, Row, Table, count, estimate, number, site_name, table, words
from server.report.wording import decimal, percent

Json = dict[str, Any]

_LABELS = {
    "auc": "AUC",
    "oe_ratio": "Observed / expected",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
}
_PAIRS_SHOWN = 15


def build(document: Json) -> Iterator[Table | None]:
    """``heterogeneity``, ``site_pairs``, ``ranking``."""
    yield _heterogeneity(document)
    yield _pairs(document)
    yield _ranking(document)


def _heterogeneity(document: Json) -> Table | None:
    of = (
        Column("measure", "Measure", left=True),
        Column("sites", "Sites"),
        Column("mean", "Mean over sites"),
        Column("prediction", "A new site (95%)"),
        Column("tau2", "τ²"),
        Column("i2", "I²"),
    )
    rows = []
    for name, found in document["heterogeneity"].items():
        if found is None:
            continue
        mean = {"value": found["mean"], "low": found["low"], "high": found["high"]}
        cells = (
            words(_LABELS.get(name, name)),
            count(found["k"]),
            estimate(mean),
            _prediction(found),
            number(found["tau2"], 3),
        )
        rows.append(Row((*cells, Cell(percent(found["i2"]), "", {"": found["i2"]}))))
        if found["prior"]:
            rows.append(_with_prior(found))
    return table("heterogeneity", "Random-effects meta-analysis of the sites' own estimates.", of, rows)


def _prediction(found: Json) -> Cell:
    low, high = found["prediction_low"], found["prediction_high"]
    if low is None or high is None:
        return Cell("–", "too few sites", {"": None, "_note": "too few sites"}, absent=True)
    return Cell(f"{decimal(low)} to {decimal(high)}", "", {"_low": low, "_high": high})


def _with_prior(found: Json) -> Row:
    prior, k = found["prior"], found["k"]
    tau = Cell(decimal(prior["tau"] ** 2, 3), "", {"": prior["tau"] ** 2})
    label = words("AUC, with what other models' spread between sites tells", prior["source"])
    return Row((label, count(k), estimate({**prior, "value": prior["mean"]}), _prediction(prior), tau, Cell("", "", {})))


def _pairs(document: Json) -> Table | None:
    of = (
        Column("first", "First site", left=True),
        Column("second", "Second site", left=True),
        Column("difference", "Difference in AUC"),
        Column("p_value", "P"),
        Column("p_holm", "P, adjusted for all pairs"),
    )
    pairs = sorted(document["site_pairs"], key=lambda pair: float(pair["p_value"]))
    rows = [
        Row(
            (
                site_name(pair["first"]),
                words(pair["second"]),
                estimate({**pair, "value": pair["difference"]}),
                p_value(pair["p_value"]),
                p_value(pair["p_holm"]),
            )
        )
        for pair in pairs
    ]
    note = f"The {_PAIRS_SHOWN} pairs of smallest P; the file has all {len(rows)}." if len(rows) > _PAIRS_SHOWN else ""
    return table("site_pairs", "Sites in pairs: first less second.", of, rows, shown=_PAIRS_SHOWN, note=note)


def p_value(value: float) -> Cell:
    """A P value as papers print it."""
    return Cell("< 0.001" if value < 0.001 else decimal(value, 3 if value < 0.1 else 2), "", {"": value})


def _ranking(document: Json) -> Table | None:
    of = (
        Column("site", "Site", left=True),
        Column("rank", "Expected rank by AUC"),
        Column("best", "Probability of being best"),
    )
    ranked = sorted(document["ranking"], key=lambda row: float(row["expected_rank"]))
    rows = [
        Row(
            (
                site_name(row["site"]),
                Cell(
                    decimal(row["expected_rank"], 1),
                    f"{row['low']} to {row['high']}",
                    {"": row["expected_rank"], "_low": row["low"], "_high": row["high"]},
                ),
                Cell(percent(row["probability_best"]), "", {"": row["probability_best"]}),
            )
        )
        for row in ranked
    ]
    return table("ranking", "Ranks of the sites, with the uncertainty that their AUCs leave.", of, rows)

"""What differential privacy has cost at each site."""

from collections.abc import Iterator
from typing import Any

from server.report.tables.model import Cell, Column, Row, Table, number, site_name, table, words

Json = dict[str, Any]

_CAPTION = (
    "Differential privacy at each site. The unit is the training patient with all pictures and values; patients are drawn for "
    "each step by Poisson sampling. Epsilon of this run and of all runs on these patients, the limit that the site has set, "
    "and what it did to keep it."
)
_COLUMNS = (
    Column("site", "Site", left=True),
    Column("epsilon", "Epsilon, this run"),
    Column("epsilon_total", "All runs"),
    Column("limit", "Limit"),
    Column("delta", "Delta"),
    Column("noise_multiplier", "Noise multiplier"),
    Column("sampling_rate", "Sampling rate"),
    Column("steps", "Steps"),
    Column("accountant", "Accountant", left=True),
    Column("refused", "Rounds refused", left=True),
)


def build(document: Json) -> Iterator[Table | None]:
    """``privacy``: a row for each site that trained with differential privacy."""
    stated = {name: site["privacy"] for name, site in document["sites"].items() if site["privacy"]}
    yield table("privacy", _CAPTION, _COLUMNS, [_row(name, spent) for name, spent in stated.items()])


def _row(name: str, spent: Json) -> Row:
    refused = ", ".join(str(round_) for round_ in spent["refused_rounds"])
    if spent["epsilon"] is None:
        why = f"refused rounds {refused}" if refused else "no round of this site counted"
        return Row((site_name(name),), instead=f"{why}, so it has stated nothing")
    return Row(
        (
            site_name(name),
            number(spent["epsilon"]),
            number(spent["epsilon_total"]),
            _short(spent["limit"]),
            _short(spent["delta"]),
            _short(spent["noise_multiplier"]),
            _short(spent["sampling_rate"]),
            _short(spent["steps"]),
            words(spent["accountant"].upper()),
            words(refused or "–"),
        )
    )


def _short(value: float) -> Cell:
    return Cell(f"{value:.4g}", "", {"": value})

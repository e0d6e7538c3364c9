"""The course of the training: rounds, who took part, what did not count."""

from collections.abc import Iterator
from typing import Any

from server.report.tables.model import Cell, Column, Row, Table, count, number, site_name, table, words
from server.report.wording import ranges

Json = dict[str, Any]


def build(document: Json) -> Iterator[Table | None]:
    """``participation``, ``failures``, ``rounds``."""
    yield _participation(document)
    yield _failures(document)
    yield _rounds(document)


def _participation(document: Json) -> Table | None:
    of = (
        Column("site", "Site", left=True),
        Column("counted", "Rounds counted"),
        Column("rounds", "Which", left=True),
        Column("failures", "Replies that did not count"),
        Column("tested", "Test patients judged"),
    )
    planned = len(document["rounds"])
    rows = [
        Row(
            (
                site_name(name),
                count(len(site["participated"]), of=planned or None),
                words(ranges(site["participated"]) or "none"),
                count(len(site["failures"])),
                count(site["sample_size"]["events"] + site["sample_size"]["nonevents"]),
            )
        )
        for name, site in document["sites"].items()
    ]
    return table("participation", "Who took part.", of, rows)


def _failures(document: Json) -> Table | None:
    """Failures of one kind at one site in one row, with the rounds in which they came."""
    found: dict[tuple[str, ...], list[int]] = {}
    for name, site in document["sites"].items():
        for failure in site["failures"]:
            found.setdefault((name, failure["phase"], failure["code"], failure["reason"]), []).append(failure["round"])
    of = (
        Column("site", "Site", left=True),
        Column("phase", "Phase", left=True),
        Column("rounds", "Rounds", left=True),
        Column("reason", "Reason", left=True),
    )
    rows = [
        Row(
            (
                site_name(name),
                words(phase),
                words(ranges(rounds) if phase == "train" else "–"),
                words(f"{code.replace('_', ' ')}: {reason}"),
            )
        )
        for (name, phase, code, reason), rounds in found.items()
    ]
    return table("failures", "What did not count, and why.", of, rows)


def _rounds(document: Json) -> Table | None:
    sites = list(document["sites"])
    of = [
        Column("round", "Round", left=True),
        Column("selection", "Selection"),
        Column("loss", "Loss"),
        Column("seconds", "Seconds"),
    ]
    of += [Column(f"loss_{name}", f"Loss, {name}") for name in sites]
    rows = [
        Row(
            (
                Cell(str(row["round"]), "", {"": row["round"]}),
                number(row["selection"], 3),
                number(row["loss"], 3),
                number(row["wall_s"], 1),
                *(number(row["sites"][name]["loss"] if name in row["sites"] else None, 3) for name in sites),
            )
        )
        for row in document["rounds"]
    ]
    return table("rounds", "Every round.", of, rows, wide=True)

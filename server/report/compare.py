"""Runs side by side: what differs between their protocols, and how each does at every site."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from server.report.figures.compare import draw
from server.report.page import environment
from server.report.svg import for_page
from server.report.tables import explained_runs
from server.report.tables.model import Cell, Column, Row, Table, absent, metric, site_name, table, words
from server.report.wording import count, decimal, listing
from shared_model.durable import write_durably
from shared_model.errors import ConfigurationError, Fault

Json = dict[str, Any]

MEASURES = (
    ("auc", "AUC", 2),
    ("brier", "Brier score", 3),
    ("oe_ratio", "Observed / expected", 2),
    ("calibration_slope", "Calibration slope", 2),
)


@dataclass(frozen=True)
class Run:
    """A run to compare: ``label`` tells it from the others, ``document`` is its results document."""

    label: str
    document: Json


def read_runs(directories: Sequence[Path]) -> list[Run]:
    """The results of ``directories``, if they may be compared.

    Raises:
        ConfigurationError: fewer than two, one without results, or runs of different outcomes; all faults at once.
    """
    faults: list[Fault] = []
    if len(directories) < 2:
        faults.append(Fault("compare", "RUNS", count(len(directories), "run"), "two or more", "name two run directories"))
    documents: list[Json] = []
    for directory in directories:
        try:
            documents.append(read_results(directory))
        except ConfigurationError as error:
            faults += error.faults
    if not faults:
        faults += _different_outcomes(directories, documents)
    if faults:
        raise ConfigurationError(faults)
    labels = _labels(directories)
    return [Run(label, document) for label, document in zip(labels, documents, strict=True)]


def read_results(directory: Path) -> Json:
    """``results.json`` of a run directory.

    Raises:
        ConfigurationError: it is not there, or is none of this version.
    """
    from server.results.document import SCHEMA_VERSION

    file, remedy = directory / "results.json", f"give: consilium-center report {directory}"
    try:
        document: Json = json.loads(file.read_text(encoding="utf-8"))
        version = document["schema_version"]
        if version == SCHEMA_VERSION and "protocol" in document:
            return document
        found = (
            f"results of schema version {version}, without a protocol" if version == SCHEMA_VERSION else f"version {version}"
        )
        fault = Fault(str(file), "schema_version", found, f"version {SCHEMA_VERSION}, with the protocol", remedy)
    except FileNotFoundError:
        fault = Fault(str(file), "", "no such file", "the results of a run", remedy)
    except (OSError, ValueError, KeyError, TypeError):
        fault = Fault(str(file), "", "not readable as results", "the results of a run", remedy)
    raise ConfigurationError([fault])


def _labels(directories: Sequence[Path]) -> list[str]:
    """Names of the folders; where two are alike, with as much of the path before as tells them apart."""
    parts = [directory.resolve().parts for directory in directories]
    depth = 1
    while len({p[-depth:] for p in parts}) < len({*parts}) and depth < max(map(len, parts)):
        depth += 1
    labels = ["/".join(p[-depth:]) for p in parts]
    return [label if labels.index(label) == i else f"{label} ({i + 1})" for i, label in enumerate(labels)]


def _different_outcomes(directories: Sequence[Path], documents: Sequence[Json]) -> list[Fault]:
    first = documents[0]["study"]["outcome"]
    return [
        Fault(
            str(directory),
            "study.outcome",
            f"“{document['study']['outcome']}”",
            f"“{first}”, as in {directories[0]}",
            "compare runs that predict the same outcome; numbers of different outcomes do not compare",
        )
        for directory, document in zip(directories[1:], documents[1:], strict=True)
        if document["study"]["outcome"] != first
    ]


def write(out: Path, runs: Sequence[Run]) -> Path:
    """Write ``compare.html`` and ``compare.csv`` into ``out``; return the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    write_durably(out / "compare.csv", _as_csv(runs).encode())
    write_durably(out / "compare.html", render(runs).encode())
    return out / "compare.html"


def render(runs: Sequence[Run]) -> str:
    """The comparison as one HTML page that needs no network and no script."""
    tables = {found.name: found for found in _tables(runs) if found is not None}
    figures = {drawing.name: Markup(for_page(drawing.svg)) for drawing in draw(runs)}
    return environment().get_template("compare.html").render(runs=runs, tables=tables, figures=figures, pairing=pairing(runs))


def pairing(runs: Sequence[Run]) -> list[str]:
    """Whether each run tested the patients of the first, as far as counts tell."""
    first = runs[0]
    return [_pairing(first, other) for other in runs[1:]]


def _pairing(first: Run, other: Run) -> str:
    common = [name for name in first.document["sites"] if name in other.document["sites"]]
    alike = [name for name in common if _tested(first, name) == _tested(other, name) and _tested(first, name)[0]]
    unlike = [name for name in common if _tested(first, name) != _tested(other, name)]
    parts = [f"{other.label} and {first.label}:"]
    if alike:
        parts.append(
            f"as many test patients and events at {listing(alike)}, so these may be the same patients (a site's split "
            "follows from "
            "its own seed), and differences there are of models, not of patients;"
        )
    if unlike:
        parts.append(f"other test patients at {listing(unlike)}, where differences also are of patients;")
    if not common:
        parts.append("no site in common;")
    parts.append("their results hold no patient's scores, so that intervals of the differences cannot be paired.")
    return " ".join(parts)


def _tested(run: Run, site: str) -> tuple[int, int]:
    size = run.document["sites"][site]["sample_size"]
    return int(size["events"] + size["nonevents"]), int(size["events"])


def _tables(runs: Sequence[Run]) -> Iterator[Table | None]:
    yield _protocols(runs)
    for key, label, digits in MEASURES:
        yield _measure(runs, key, label, digits)
    yield _net_benefit(runs)
    yield from explained_runs.build({run.label: run.document.get("explanation") for run in runs})


def _protocols(runs: Sequence[Run]) -> Table | None:
    """Keys in which the protocols, engines or seeds differ."""
    flat = [dict(_flat({**run.document["protocol"], "run": _of_run(run.document)})) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    differing = [key for key in keys if len({one.get(key) for one in flat}) > 1]
    of = (Column("key", "Differs in", left=True), *(Column(f"run{i}", run.label, left=True) for i, run in enumerate(runs)))
    rows = [Row((words(key), *(words(_setting(one, key)) for one in flat))) for key in differing]
    return table("protocols", "What differs between the runs.", of, rows)


def _setting(flat: dict[str, str], key: str) -> str:
    """A section that another run does without has its keys in rows of their own."""
    below = any(name.startswith(f"{key}.") for name in flat)
    return flat.get(key, "as below" if below else "–")


def _of_run(document: Json) -> Json:
    run = document["run"]
    return {"seed": run["seed"], "engine": run["engine"], "rounds done": run["rounds"], "best round": run["best_round"]}


def _flat(section: Json, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "none" if value is None else str(value)


def _measure(runs: Sequence[Run], key: str, label: str, digits: int) -> Table | None:
    of = [Column("site", "Site", left=True), *(Column(f"run{i}", run.label) for i, run in enumerate(runs))]
    of += [Column(f"difference{i}", f"{run.label} less {runs[0].label}") for i, run in enumerate(runs) if i]
    rows = []
    for name in dict.fromkeys(site for run in runs for site in run.document["sites"]):
        blocks = [run.document["sites"].get(name) for run in runs]
        if any(block and block["metrics"][key] for block in blocks):
            rows.append(Row((site_name(name), *_cells(blocks, key, digits))))
    pooled = [run.document["pooled"] for run in runs]
    if any(block["metrics"][key] for block in pooled):
        rows.append(Row((site_name("All sites together"), *_cells(pooled, key, digits)), total=True))
    return table(key, f"{label} on test patients.", of, rows)


def _cells(blocks: Sequence[Json | None], key: str, digits: int) -> tuple[Cell, ...]:
    values = [block["metrics"][key]["value"] if block and block["metrics"][key] else None for block in blocks]
    numbers = [metric(block, key, digits) if block else absent("not in this run") for block in blocks]
    return (*numbers, *(_difference(value, values[0], digits) for value in values[1:]))


def _difference(value: float | None, first: float | None, digits: int) -> Cell:
    if value is None or first is None:
        return absent("")
    sign = "+" if round(value - first, digits) > 0 else ""
    return Cell(f"{sign}{decimal(value - first, digits)}", "", {"": value - first})


def _net_benefit(runs: Sequence[Run]) -> Table | None:
    """Net benefit over all sites at the thresholds that all runs have fixed."""
    preset = [
        {row["threshold"]: row["net_benefit"] for row in run.document["pooled"]["thresholds"] if row["rule"] == "preset"}
        for run in runs
    ]
    common = [threshold for threshold in preset[0] if all(threshold in one for one in preset)]
    of = [Column("threshold", "Positive from", left=True), *(Column(f"run{i}", run.label) for i, run in enumerate(runs))]
    of += [Column(f"difference{i}", f"{run.label} less {runs[0].label}") for i, run in enumerate(runs) if i]
    rows = []
    for threshold in common:
        values = [one[threshold] for one in preset]
        cells = [absent("not estimable") if value is None else Cell(decimal(value, 3), "", {"": value}) for value in values]
        differences = [_difference(value, values[0], 3) for value in values[1:]]
        rows.append(Row((Cell(f"{threshold:g}", "", {"": threshold}), *cells, *differences)))
    return table("net_benefit", "Net benefit over all sites, at thresholds that all runs have fixed.", of, rows)


def _as_csv(runs: Sequence[Run]) -> str:
    """One row a run, site and measure."""
    of = (
        Column("run", "Run", left=True),
        Column("site", "Site", left=True),
        Column("measure", "Measure", left=True),
        Column("patients", "Test patients"),
        Column("events", "Events"),
        Column("value", "Value"),
    )
    rows = [
        Row(
            (
                words(run.label),
                words(name),
                words(key),
                Cell("", "", {"": block["sample_size"]["events"] + block["sample_size"]["nonevents"]}),
                Cell("", "", {"": block["sample_size"]["events"]}),
                metric(block, key, digits),
            )
        )
        for run in runs
        for name, block in {**run.document["sites"], "all sites": run.document["pooled"]}.items()
        for key, _, digits in MEASURES
    ]
    return Table("compare", "", of, tuple(rows)).csv

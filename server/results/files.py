"""What a run directory shows: each file is whole or absent, for it is written beside its place and renamed into it."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server.records import NO_DESIGN, Arm, Design, RunRecord
from server.results.document import assemble
from shared_model.durable import write_durably

Json = dict[str, Any]

_PRESET = "preset"
_RATES = ("sensitivity", "specificity", "ppv", "npv", "accuracy")
_ARMS = ("local_only", "central", "logistic")


def write_results(run_directory: Path, record: RunRecord, arms: Sequence[Arm] = (), design: Design = NO_DESIGN) -> Path:
    """Write ``results.json``, ``per_site.csv`` and the report with its figures; return the report's path."""
    from server import report  # draws with matplotlib, which commands that only read need not load

    document = assemble(record, arms, design)
    run_directory.mkdir(parents=True, exist_ok=True)
    write_atomically(run_directory / "results.json", json.dumps(document, indent=2, allow_nan=False) + "\n")
    write_atomically(run_directory / "per_site.csv", per_site_csv(document))
    return report.write(run_directory, document)


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``; a crash leaves the old file or the new one, never a part."""
    write_durably(path, text.encode("utf-8"))


def per_site_csv(document: Json) -> str:
    """One row a site and a pooled one; a cell is empty where there is no number, and ``not_estimable`` says why."""
    rows = [_site_row(name, site) for name, site in document["sites"].items()]
    rows.append(_pooled_row(document))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: "" if value is None else value for column, value in row.items()} for row in rows)
    return text.getvalue()


def _site_row(name: str, site: Json) -> Json:
    parts = ("train", "tune", "test")
    return {
        "row": "site",
        "name": name,
        **{f"patients_{part}": site["n"] and site["n"][part] for part in parts},
        **{f"events_{part}": site["events"] and site["events"][part] for part in parts},
        "rounds": len(site["participated"]),
        "failures": len(site["failures"]),
        **_metric_cells(site),
        **{f"{arm}_auc": _value(site[arm]["metrics"]["auc"]) for arm in _ARMS if arm in site},
        "not_estimable": "; ".join(f"{item['metric']}: {item['why']}" for item in site["not_estimable"]),
    }


def _pooled_row(document: Json) -> Json:
    pooled = document["pooled"]
    return {
        "row": "pooled",
        "name": "all sites",
        "patients_test": pooled["patients"],
        "events_test": pooled["events"],
        "rounds": document["run"]["rounds"],
        **_metric_cells(pooled),
        "auc_error_bound": pooled["metrics"]["auc"] and pooled["metrics"]["auc"]["error_bound"],
        **{f"{arm}_auc": _value(document[arm]["metrics"]["auc"]) for arm in ("central", "logistic") if arm in document},
        "not_estimable": "; ".join(f"{item['metric']}: {item['why']}" for item in pooled["not_estimable"]),
    }


def _metric_cells(block: Json) -> Json:
    cells: Json = {}
    for name, number in block["metrics"].items():
        cells |= _with_interval(name, number)
    for row in block["thresholds"]:
        if row["rule"] != _PRESET:
            continue
        place = f"at_{row['threshold']:g}"
        for name in _RATES:
            cells |= _with_interval(f"{name}_{place}", row[name])
        cells[f"net_benefit_{place}"] = row["net_benefit"]
    return cells


def _with_interval(name: str, number: Json | None) -> Json:
    known = number or {"value": None, "low": None, "high": None}
    return {name: known["value"], f"{name}_low": known["low"], f"{name}_high": known["high"]}


def _value(number: Json | None) -> float | None:
    return None if number is None else number["value"]

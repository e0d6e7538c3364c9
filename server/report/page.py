"""The page: what the template shows, taken from the results document and nothing else."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from server.report import wording
from server.report.figures import draw_figures
from server.report.svg import for_page

Json = dict[str, Any]


def render(document: Json) -> str:
    """The whole report as one HTML page that needs no network and no script."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "breakable": _breakable,
        "decimal": wording.decimal,
        "duration": wording.duration,
        "interval": wording.interval,
        "percent": wording.percent,
        "percent_interval": wording.percent_interval,
        "size": wording.size,
    }
    drawn = {name: Markup(for_page(svg)) for name, svg in draw_figures(document).items()}
    return environment.get_template("template.html").render(
        document=document,
        study=document["study"],
        run=document["run"],
        sites=document["sites"],
        pooled=document["pooled"],
        summary=wording.summary(document),
        best_local=wording.best_local(document),
        why_not=wording.why_not,
        figures=drawn,
        curves=[drawn[name] for name in ("roc_all_sites", *(f"roc_{site}" for site in document["sites"])) if name in drawn],
        without_curve=[name for name in document["sites"] if f"roc_{name}" not in drawn],
        failures=_failures(document),
        variables=_variables(document),
        judged=any(row["selection"] is not None for row in document["rounds"]),
        with_images=any(site["cohort"] and site["cohort"]["images_found"] for site in document["sites"].values()),
        has_baselines=any("local_only" in site for site in document["sites"].values()),
    )


def _breakable(name: str) -> Markup:
    """A long name that may wrap after its underscores and hyphens."""
    return Markup("<wbr>").join(escape(part) for part in name.replace("_", "_\n").replace("-", "-\n").split("\n"))


def _failures(document: Json) -> list[Json]:
    """Failures of one kind at one site in one row, with the rounds in which they came."""
    rows: dict[tuple[str, ...], list[int]] = {}
    for name, site in document["sites"].items():
        for failure in site["failures"]:
            rows.setdefault((name, failure["phase"], failure["code"], failure["reason"]), []).append(failure["round"])
    return [
        {
            "site": name,
            "phase": phase,
            "code": code.replace("_", " "),
            "reason": reason,
            "rounds": wording.ranges(rounds) if phase == "train" else "–",
        }
        for (name, phase, code, reason), rounds in rows.items()
    ]


def _variables(document: Json) -> list[Json]:
    """Table 1: a row for each variable, or category of one; a cell for each site that described its patients."""
    described = [site["cohort"] for site in document["sites"].values() if site["cohort"]]
    if not described:
        return []
    rows: list[Json] = []
    for name, variable in described[0]["variables"].items():
        shown = [cohort["variables"][name] for cohort in described]
        missing = [cohort["missing"][name] for cohort in described]
        if variable["kind"] == "numeric":
            unit = f", {variable['unit']}" if variable["unit"] else ""
            kind = "geometric mean ×/÷ SD" if variable["geometric"] else "mean ± SD"
            cells = [_spread(cell) for cell in shown]
            rows.append({"name": name, "detail": f"{kind}{unit}", "cells": cells, "missing": missing})
        else:
            for number, category in enumerate(variable["shares"]):
                cells = [wording.percent(cell["shares"][category]) for cell in shown]
                rows.append(
                    {"name": "" if number else name, "detail": category, "cells": cells, "missing": [] if number else missing}
                )
    return rows


def _spread(cell: Json) -> str:
    if cell["spread"] is None:
        return "–"
    digits, sign = 1 if cell["mean"] >= 10 else 2, "×/÷" if cell["geometric"] else "±"
    return f"{wording.decimal(cell['mean'], digits)} {sign} {wording.decimal(cell['spread'], digits)}"

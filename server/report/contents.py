"""The report's table of contents: which sections it has, in which order, and what each is given.

A section is a partial template, ``sections/<anchor>.html``. It sees ``document``, its parts ``study``, ``run``, ``sites``,
``pooled``, the drawn ``figures`` by name, and whatever its own ``context`` adds. A section that has nothing to say renders to
nothing, and is then left out with its heading and its line in the contents.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from server.report import wording
from server.report.prose.checklists import checklists
from server.report.prose.limits import limits
from server.report.prose.methods import methods
from server.report.prose.model_card import model_card

Json = dict[str, Any]


def _nothing(_: Json) -> Json:
    return {}


@dataclass(frozen=True)
class Section:
    """One part of the page. ``context`` draws from the document what the template alone could not."""

    anchor: str
    title: str
    context: Callable[[Json], Json] = _nothing
    last: bool = False  # rendered after the others, and told which there are: ``anchors``, with their titles


def _minute(document: Json) -> Json:
    return {"summary": wording.summary(document)}


def _roc(document: Json) -> Json:
    without = [name for name, site in document["sites"].items() if site["roc"] is None or site["metrics"]["auc"] is None]
    return {"curves": ["roc_all_sites", *(f"roc_{site}" for site in document["sites"])], "without_curve": without}


def _comparison(document: Json) -> Json:
    has_baselines = any("local_only" in site for site in document["sites"].values())
    return {"best_local": wording.best_local(document), "has_baselines": has_baselines}


def _course(document: Json) -> Json:
    judged = any(row["selection"] is not None for row in document["rounds"])
    return {"failures": _failures(document), "judged": judged}


def _cohorts(document: Json) -> Json:
    with_images = any(site["cohort"] and site["cohort"]["images_found"] for site in document["sites"].values())
    protected = any(site["privacy"] for site in document["sites"].values())
    return {"variables": _variables(document), "with_images": with_images, "protected": protected}


def _privacy(document: Json) -> Json:
    return {"stated": {name: site["privacy"] for name, site in document["sites"].items() if site["privacy"]}}


SECTIONS = (
    Section("minute", "In one minute", _minute),
    Section("sites", "The federated model at each site"),
    Section("roc", "ROC curves", _roc),
    Section("comparison", "Does joining help?", _comparison),
    Section("thresholds", "At each threshold, all sites together"),
    Section("course", "How the training went", _course),
    Section("privacy", "What the study has cost the patients' privacy", _privacy),
    Section("cohorts", "The cohorts", _cohorts),
    Section("methods", "Methods", lambda document: {"methods": methods(document)}),
    Section("limits", "Limits", lambda document: {"limits": limits(document)}),
    Section("checklists", "Reporting checklists", lambda document: {"checklists": checklists(document)}, last=True),
    Section("card", "Model card", lambda document: {"card": model_card(document)}),
    Section("cost", "Time and traffic"),
    Section("provenance", "Provenance"),
)


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

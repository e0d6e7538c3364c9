"""The report's table of contents: which sections it has, in which order, and what each is given.

A section is a partial template, ``sections/<anchor>.html``. It sees ``document``, its parts ``study``, ``run``, ``sites``,
``pooled``, the drawn ``figures`` and built ``tables`` by name, and whatever its own ``context`` adds; ``macros.html`` sets
figures and tables with their captions and files. A section that has nothing to say renders to nothing, and is then left out
with its heading and its line in the contents.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from server.report import wording
from server.report.figures.convergence import losses_told
from server.report.figures.forest import MEASURES
from server.report.prose import explanation, privacy
from server.report.prose.answers import answers
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


def _sites(document: Json) -> Json:
    auc = document["pooled"]["metrics"]["auc"]
    bound = (
        f", which can put the AUC of all sites together off by {wording.decimal(auc['error_bound'], 4)} at most" if auc else ""
    )
    return {"roc_caption": f"Drawn from score histograms of {document['study']['histogram_bins']} bins{bound}."}


def _between(document: Json) -> Json:
    found = {name: block for name, block in document["heterogeneity"].items() if block}
    cautions = [f"{wording.capital(block['caution'])}." for block in found.values() if block["caution"]][:1]
    left_out: dict[str, list[str]] = {}
    for name, block in found.items():
        for site in block["excluded"]:
            left_out.setdefault(f"{site['site']} ({site['why']})", []).append(MEASURES[name][0])
    named: dict[str, list[str]] = {}
    for site, measures in left_out.items():
        named.setdefault(wording.listing(measures), []).append(site)
    excluded = [f"Not in the meta-analysis of {measures}: {wording.listing(sites)}." for measures, sites in named.items()]
    return {"cautions": cautions, "excluded": excluded}


def _course(document: Json) -> Json:
    judged = any(row["selection"] is not None for row in document["rounds"])
    if not losses_told(document):
        words = (
            "The model after so many rounds, judged on tuning patients. No training loss is told under differential privacy."
        )
    elif judged:
        words = (
            "Above: the model after so many rounds, judged on tuning patients. Below: its loss while training, at each site "
            "and over all patients."
        )
    else:
        words = "Loss while training, at each site and over all patients."
    return {"course_caption": words}


def _privacy(document: Json) -> Json:
    stated = {name: site["privacy"] for name, site in document["sites"].items() if site["privacy"]}
    return {"stated": stated, "protection": privacy.sentences(document)}


def _limits(document: Json) -> Json:
    suppressed: dict[str, dict[str, list[str]]] = {}
    for name, site in document["sites"].items():
        for item in site["suppressed"]:
            suppressed.setdefault(name, {}).setdefault(item["why"], []).append(item["what"])
    return {"limits": limits(document), "suppressed": suppressed}


def _case_mix(document: Json) -> Json:
    return {"furthest": document["case_mix"]["pairs"][:3]}


SECTIONS = (
    Section("minute", "In one minute", _minute),
    Section("answers", "Ten questions", lambda document: {"answers": answers(document)}, last=True),
    Section("cohorts", "The patients"),
    Section("sites", "The federated model at each site", _sites),
    Section("calibration", "Calibration"),
    Section("utility", "Usefulness and thresholds"),
    Section("between", "Between sites", _between),
    Section("subgroups", "Groups of patients"),
    Section("comparison", "Does joining help?"),
    Section("leftout", "Where the model has never been"),
    Section("folds", "Cross-validation: every patient tested once"),
    Section("readings", "Beside clinicians' own assessment"),
    Section("strata", "Low, intermediate and high risk"),
    Section("casemix", "How the sites' patients differ", _case_mix),
    Section("explanation", "Why the model says what it says", explanation.context),
    Section("course", "How the training went", _course),
    Section("participation", "Who took part"),
    Section("privacy", "Privacy, and what the study has cost of it", _privacy),
    Section("methods", "Methods", lambda document: {"methods": methods(document)}),
    Section("limits", "Limits, and what is not told", _limits),
    Section("checklists", "Reporting checklists", lambda document: {"checklists": checklists(document)}, last=True),
    Section("card", "Model card", lambda document: {"card": model_card(document)}),
    Section("provenance", "Provenance and files"),
)

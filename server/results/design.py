"""Studies without one site, cross-validation and external sites, as the results document states them."""

from typing import Any

from server.records import Design, RunRecord
from server.results import heterogeneity
from server.results.paired import FEDERATED, arms, comparisons
from server.results.readings import comparators
from server.results.scored import TUNING_OF_ALL
from server.results.scorer import Scorer

Json = dict[str, Any]
RULE = "sensitivity 0.90"  # a threshold chosen so on tuning patients is tried where the model has never been


def design_of(record: RunRecord, design: Design) -> Json:
    """``design`` of the document."""
    external = record.protocol.evaluation.external
    kinds = [
        *(["leave-one-site-out"] if design.left_out else []),
        *([f"{len(design.folds)}-fold cross-validation"] if design.folds else []),
        *(["external sites"] if external else []),
    ]
    return {
        "kind": ", ".join(kinds) or "split at each site",
        "external": list(external),
        "left_out": _left_out(design) if design.left_out else None,
        "folds": _folds(record, design) if design.folds else None,
    }


def _left_out(design: Design) -> Json:
    sites = {site: _without(site, study, design.halted.get(site)) for site, study in design.left_out.items()}
    results = {site: row["result"] for site, row in sites.items() if row["result"]}
    return {"sites": sites, "heterogeneity": heterogeneity.heterogeneity(results)}


def _without(site: str, study: RunRecord, halted: str | None) -> Json:
    """How the model of the other sites does on all labelled patients of ``site``."""
    reply = study.evaluations.get(site) if study.finished else None
    performance = reply.parts.get("test") if reply else None
    row: Json = {
        "trained_on": sorted({name for entry in study.rounds for name in entry.sites}),
        "rounds": len(study.rounds),
        "best_round": study.best_round,
        "result": None,
        "chosen_threshold": None,
        "why_not": None,
    }
    if performance is None:
        return {**row, "why_not": halted or _why_not(site, study)}
    result = Scorer.of(study).at_site(performance)
    return {**row, "result": result, "chosen_threshold": _chosen(result)}


def _why_not(site: str, study: RunRecord) -> str:
    if not study.finished:
        return "not finished"
    failed = [failure for failure in study.failures if failure.site == site]
    if site in study.evaluations:
        suppressed = [item.why.value for item in study.evaluations[site].suppressed]
        return suppressed[0] if suppressed else "no labelled patients"
    return f"no answer that counts: {failed[-1].code.value.replace('_', ' ')}" if failed else "the model was not evaluated here"


def _chosen(result: Json) -> Json | None:
    """The threshold chosen on the tuning patients of the sites that trained, and what it does at the one that did not."""
    rows = result["thresholds"]
    row = next((row for row in rows if row["rule"] == RULE and row["chosen_on"] == TUNING_OF_ALL), None)
    return row and {key: row[key] for key in ("threshold", "rule", "sensitivity", "specificity", "net_benefit", "undecided")}


def _folds(record: RunRecord, design: Design) -> Json:
    # Each fold chose thresholds of its own: none is common to all of them.
    scorer = Scorer(record.protocol.evaluation, {})
    finished = sum(fold.finished is not None for fold in design.folds)
    of = design.folds[0].protocol.evaluation.fold
    performances = {
        site: reply.performances[FEDERATED] for site, reply in design.compared.items() if FEDERATED in reply.performances
    }
    return {
        "of": of.of if of else len(design.folds),
        "finished": finished,
        "best_rounds": [fold.best_round for fold in design.folds],
        "sites": {site: scorer.at_site(performance) for site, performance in performances.items()},
        "pooled": scorer.over_sites(list(performances.values())) if performances else None,
        "suppressed": [
            {"site": site, "what": item.what, "why": item.why.value}
            for site, reply in design.compared.items()
            for item in reply.suppressed
        ],
        "arms": arms(design.compared),
        "comparisons": comparisons(design.compared),
        "comparators": comparators(design.compared, record.protocol),
    }

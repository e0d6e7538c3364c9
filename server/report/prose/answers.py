"""Ten questions that an investigator asks first, each answered in a sentence or two with the section that shows it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from server.report.prose.limits import FEW
from server.report.prose.privacy import kept
from server.report.tables.cohort import MUCH
from server.report.wording import ADVISED_PER_CLASS, capital, count, decimal, interval, listing, percent, ranges

Json = dict[str, Any]
WIDE = 0.2  # of an AUC's interval: beyond it the number tells little by itself


@dataclass(frozen=True)
class Answer:
    """``anchors`` are the sections that show more, those that the page has."""

    question: str
    said: str
    anchors: tuple[str, ...]


def answers(document: Json) -> list[Answer]:
    """The ten, in order."""
    return [
        Answer("Which site does worst, and why?", _worst(document), ("sites", "between")),
        Answer("Is the model calibrated at my site?", _calibrated(document), ("calibration",)),
        Answer("Would correcting it locally help?", _recalibration(document), ("calibration",)),
        Answer("Does joining help the smallest site?", _smallest(document), ("comparison",)),
        Answer("Which threshold?", _threshold(document), ("utility",)),
        Answer("How sure are these numbers?", _sure(document), ("sites", "between", "limits")),
        Answer("Who dropped out?", _dropped(document), ("participation", "course")),
        Answer("Was privacy kept?", kept(document), ("privacy", "limits")),
        Answer("What drives the predictions?", _drives(document), ("explanation",)),
        Answer("Can I trust the number of a single site?", _trust(document), ("sites", "limits")),
    ]


def _estimable(document: Json, metric: str) -> dict[str, Json]:
    known = {name: site["metrics"][metric] for name, site in document["sites"].items()}
    return {name: number for name, number in known.items() if number}


def _worst(document: Json) -> str:
    aucs = _estimable(document, "auc")
    if len(aucs) < 2:
        return "Fewer than two sites have an AUC, so there is no worst one."
    name = min(aucs, key=lambda site: float(aucs[site]["value"]))
    rank = next((row for row in document["ranking"] if row["site"] == name), None)
    sure = ""
    if rank:
        ranks = f"{rank['low']} to {rank['high']} of {len(document['ranking'])}"
        sure = f" Its rank could be {ranks}: a ranking this uncertain is no verdict."
        if rank["low"] == rank["high"]:
            sure = " Its rank is beyond the uncertainty of the AUCs."
    reasons = list(_peculiar(document, name))
    why = f" What stands out there: {listing(reasons)}." if reasons else " Nothing in its cohort stands out."
    return f"By AUC {name}, with {interval(aucs[name])}.{sure}{why}"


def _peculiar(document: Json, name: str) -> Iterator[str]:
    """What may explain that a site does otherwise than the others."""
    site = document["sites"][name]
    size = site["sample_size"]
    if min(size["events"], size["nonevents"]) < FEW:
        yield f"only {count(size['events'], 'event')} among {size['events'] + size['nonevents']} test patients"
    prevalence, overall = _prevalence(size), _prevalence(document["pooled"]["sample_size"])
    if prevalence is not None and overall is not None and abs(prevalence - overall) > 0.1:
        yield f"{percent(prevalence)} with the outcome, against {percent(overall)} over all sites"
    cohort = site["cohort"]
    if cohort:
        absent = [variable.replace("_", " ") for variable, share in cohort["missing"].items() if (share or 0) >= MUCH]
        if absent:
            yield f"{listing(absent)} mostly not recorded"
        without = [modality for modality, share in cohort["modalities"].items() if not share]
        if without:
            yield f"no {listing(without)} data"
    missed = len(document["rounds"]) - len(site["participated"])
    if missed:
        yield f"no part in {missed} of {len(document['rounds'])} rounds"


def _prevalence(size: Json) -> float | None:
    patients = size["events"] + size["nonevents"]
    return size["events"] / patients if patients else None


def verdict(site: Json) -> str:
    """Whether a site's intervals of O/E and slope hold 1: ``fits``, or what is wrong, or ``unknown``."""
    ratio, slope = site["metrics"]["oe_ratio"], site["metrics"]["calibration_slope"]
    if not ratio or not slope or not site["sample_size"]["events"]:
        return "unknown"
    faults = []
    if not ratio["low"] <= 1.0 <= ratio["high"]:
        faults.append("too few events predicted" if ratio["value"] > 1.0 else "too many events predicted")
    if not slope["low"] <= 1.0 <= slope["high"]:
        faults.append("predictions too extreme" if slope["value"] < 1.0 else "predictions too cautious")
    return " and ".join(faults) or "fits"


def _calibrated(document: Json) -> str:
    verdicts = {name: verdict(site) for name, site in document["sites"].items()}
    wrong = [f"{name} ({words})" for name, words in verdicts.items() if words not in {"fits", "unknown"}]
    right = [name for name, words in verdicts.items() if words == "fits"]
    unknown = [name for name, words in verdicts.items() if words == "unknown"]
    return _sentences(
        f"No at {listing(wrong)}" if wrong else "",
        f"No sign of miscalibration at {listing(right)}, which at a small site says little" if right else "",
        f"Not estimable at {listing(unknown)}" if unknown else "",
    )


def _recalibration(document: Json) -> str:
    better: list[str] = []
    same: list[str] = []
    impossible: list[str] = []
    for name, site in document["sites"].items():
        found = site["recalibrated"]
        after, before = found["logistic"] or found["intercept"], site["metrics"]["ici"]
        if after is None:
            impossible.append(name)
        elif before and after["metrics"]["ici"]:
            then, now = before["value"], after["metrics"]["ici"]["value"]
            (better if now < then else same).append(f"{name} (mean error {decimal(then, 3)} before, {decimal(now, 3)} after)")
    return _sentences(
        f"On test patients it brings the curve nearer at {listing(better)}" if better else "",
        f"It does not at {listing(same)}" if same else "",
        f"It could not be fitted at {listing(impossible)}" if impossible else "",
    )


def _smallest(document: Json) -> str:
    trained = {name: site for name, site in document["sites"].items() if site["n"] and site["n"]["train"]}
    if not any("local_only" in site for site in trained.values()):
        return "Not known: this run trained no model at a single site to compare with."
    compared = {
        name: site
        for name, site in trained.items()
        if site["metrics"]["auc"] and "local_only" in site and site["local_only"]["metrics"]["auc"]
    }
    if not compared:
        return "Not known: no site has an AUC of both models."
    name = min(compared, key=lambda site: int(compared[site]["n"]["train"]))
    ours, own = compared[name]["metrics"]["auc"], compared[name]["local_only"]["metrics"]["auc"]
    helped = [
        site
        for site, block in compared.items()
        if block["metrics"]["auc"]["value"] > block["local_only"]["metrics"]["auc"]["value"]
    ]
    smallest = "the smallest with an AUC" if len(compared) < len(trained) else "the smallest"
    words = (
        f"{name}, {smallest}, with {compared[name]['n']['train']} training patients: AUC {interval(ours)} federated, "
        f"{interval(own)} alone. The federated model has the larger AUC at {len(helped)} of the {len(compared)} "
        "sites compared."
    )
    paired = document["comparisons"].get("local", {}).get("sites", {}).get(name)
    return f"{words} {paired['words']}" if paired else words


def _threshold(document: Json) -> str:
    pooled = document["pooled"]
    if not pooled["patients"]:
        return "Not known: no test patients."
    preset = [row for row in pooled["thresholds"] if row["rule"] == "preset"]
    useful = [
        f"{row['threshold']:g}"
        for row in preset
        if row["net_benefit"] is not None and row["net_benefit"] > max(0.0, row["treat_all"])
    ]
    first = next((row for row in pooled["thresholds"] if row["rule"].startswith("sensitivity")), None)
    return _sentences(
        f"Of those fixed in the protocol the model is of more use than treating all or nobody at {listing(useful)}"
        if useful
        else "At none of those fixed in the protocol is the model of more use than treating all or nobody"
        if preset
        else "",
        _to_find(first) if first and first["sensitivity"] and first["specificity"] else "",
    )


def _to_find(row: Json) -> str:
    return (
        f"To find {100 * float(row['rule'].split()[1]):.0f}% of events the tuning patients ask for {row['threshold']:.3g}, "
        "which on "
        f"test patients finds {percent(row['sensitivity']['value'])} and clears {percent(row['specificity']['value'])} of "
        "the others"
    )


def _sure(document: Json) -> str:
    auc, size = document["pooled"]["metrics"]["auc"], document["pooled"]["sample_size"]
    between = document["heterogeneity"]["auc"]
    enough = "enough" if size["adequate"] else f"fewer than the {ADVISED_PER_CLASS} of each that are advised"
    return _sentences(
        f"Over all sites the AUC lies between {decimal(auc['low'])} and {decimal(auc['high'])} (95%)"
        if auc
        else "No AUC over all sites",
        f"it rests on {size['events']:,} events and {size['nonevents']:,} patients without: {enough}",
        f"a further site's AUC would lie between {decimal(between['prediction_low'])} and {decimal(between['prediction_high'])}"
        if between and between["prediction_low"] is not None
        else "",
        between["caution"] if between and between["caution"] else "",
    )


def _dropped(document: Json) -> str:
    rounds = [row["round"] for row in document["rounds"]]
    if not rounds:
        return "No round is over yet."
    missed = {name: sorted(set(rounds) - set(site["participated"])) for name, site in document["sites"].items()}
    words = [_gap(name, gap, rounds) + _reason(document["sites"][name]) for name, gap in missed.items() if gap]
    return _sentences(*words) if words else f"Nobody: every site took part in each of {count(len(rounds), 'round')}."


def _gap(name: str, gap: list[int], rounds: list[int]) -> str:
    if len(gap) == len(rounds):
        return f"{name} took part in no round"
    return f"{name} missed {'rounds' if len(gap) > 1 else 'round'} {ranges(gap)}"


def _reason(site: Json) -> str:
    codes = list(dict.fromkeys(failure["code"].replace("_", " ") for failure in site["failures"]))
    return f" ({listing(codes)})" if codes else ""


def _drives(document: Json) -> str:
    explanation = document.get("explanation")
    if not explanation:
        return "This run holds no explanation."
    shares = explanation.get("modality_share") or {}
    ranked = sorted(((value_of(share), name) for name, share in shares.items() if value_of(share) is not None), reverse=True)
    words = [f"{name} ({percent(share)})" for share, name in ranked]
    tests = explanation.get("tests") or []
    return _sentences(
        f"By share of what moves the model: {listing(words)}" if words else "See the section on explanations",
        f"{sum(bool(test['passed']) for test in tests)} of {len(tests)} tests of these explanations were passed"
        if tests
        else "",
    )


def value_of(number: Any) -> float | None:
    """A number of the document, plain or with its interval."""
    value = number.get("value") if isinstance(number, dict) else number
    return float(value) if isinstance(value, int | float) else None


def _trust(document: Json) -> str:
    few: list[str] = []
    fair: list[str] = []
    wide: list[str] = []
    without: list[str] = []
    for name, site in document["sites"].items():
        size = site["sample_size"]
        if site["metrics"]["auc"] is None:
            without.append(name)
        elif min(size["events"], size["nonevents"]) < FEW:
            few.append(f"{name} ({size['events']} of {size['events'] + size['nonevents']})")
        else:
            width = site["metrics"]["auc"]["high"] - site["metrics"]["auc"]["low"]
            (wide if width > WIDE else fair).append(f"{name} (interval {decimal(width)} wide)")
    return _sentences(
        f"With its interval, yes at {listing(fair)}" if fair else "",
        f"Only as a range at {listing(wide)}" if wide else "",
        f"Hardly at {listing(few)}: fewer than {FEW} test patients of a class" if few else "",
        f"There is none at {listing(without)}" if without else "",
    )


def _sentences(*parts: str) -> str:
    return " ".join(f"{capital(part)}." for part in parts if part)

"""The words of the section on explanations."""

from collections import Counter
from typing import Any

from server.report.wording import count, decimal, listing, percent, percent_interval
from shared_model.messages import PARTS_IN_WORDS

Json = dict[str, Any]
_ARMS = {"central": "the model trained on all data in one place", "logistic": "logistic regression on the same variables"}


def context(document: Json) -> Json:
    """What the section is given."""
    explained = document.get("explanation")
    if explained is None:
        return {"explained": None}
    return {
        "explained": explained,
        "lead": _lead(explained),
        "tested": _tested(explained),
        "risk_words": _risk(explained["risk"]) if explained["risk"] else "",
        "agreement": _agreement(explained),
        "kept_back": _kept_back(explained["suppressed"]),
    }


def _lead(explained: Json) -> str:
    shares = sorted(explained["modality_share"].items(), key=lambda item: -item[1]["value"])
    patients = count(round(explained["patients"]), "patient")
    parts = listing([PARTS_IN_WORDS[part] for part in explained["parts"]])
    words = f"From {patients} ({parts} patients of {count(len(explained['sites']), 'site')}), as sums; no map left a site."
    if len(shares) > 1:
        name, share = shares[0]
        words = f"{name} moves the model most ({percent(share['value'])} of its log odds). {words}"
    if explained["noise"]:
        noise = explained["noise"]
        words += f" With noise: each site's sums are ({noise['epsilon']:g}, {noise['delta']:g})-differentially private."
    if explained["training_epsilon"] is not None:
        words += f" The model was trained with differential privacy (epsilon {explained['training_epsilon']:g})."
    return words


def _tested(explained: Json) -> str:
    tests = explained["tests"]
    if not tests:
        return "No: there were too few patients, or noise was asked for, under which tests are not told."
    methods = list(dict.fromkeys(row["method"] for row in tests))
    failed = [m for m in methods if not all(row["passed"] for row in tests if row["method"] == m)]
    clean = [m for m in methods if m not in failed]
    passed = sum(row["passed"] for row in tests)
    words = f"{passed} of {len(tests)} tests were passed."
    if clean:
        words += f" Passed all of theirs: {listing([m.replace('_', ' ') for m in clean])}."
    if failed:
        words += f" Failed at least one: {listing([m.replace('_', ' ') for m in failed])}."
    return words


def _risk(risk: Json) -> str:
    near = risk["by_distance"][0]
    words = "Dots: share of patients with the outcome, with 95% interval; diamonds: mean predicted risk. "
    if near["observed"]:
        words += f"{risk['distance'].replace('_', ' ')} {near['label']}: {percent_interval(near['observed'])} had the outcome. "
    return words + "Shen et al. (2025) report more than 72% within 2.5 mm, among patients of whom 52% had the outcome."


def _kept_back(suppressed: list[Json]) -> str:
    sites = Counter(item["site"] for item in suppressed)
    return listing([f"{count(number, 'group')} of cells at {site}" for site, number in sites.items()]) if sites else ""


def _agreement(explained: Json) -> list[str]:
    agreement, said = explained["agreement_between_sites"], []
    if agreement["rank_correlation"] is not None:
        said.append(
            "Between sites, the order of the variables agrees with a rank correlation of "
            f"{decimal(agreement['rank_correlation'])} on average over {count(agreement['pairs'], 'pair')}, "
            f"{decimal(agreement['lowest'])} at the lowest."
        )
    differing = {name: value for name, value in agreement["heterogeneity"].items() if value is not None}
    if differing:
        shown = listing([f"{name} {percent(value)}" for name, value in differing.items()])
        said.append(f"Share of the differences in modality shares between sites that chance does not explain (I²): {shown}.")
    drift = [step for step in explained["drift"] if step["rank_correlation"] is not None]
    said += [_drift(drift)] if drift else []
    for other in explained["compared"]:
        name = f"the model of {other['site']} alone" if other["kind"] == "local" else _ARMS[other["kind"]]
        ranks, differ = other["rank_correlation"], other["largest_difference_of_share"]
        alike = [f"rank correlation {decimal(ranks)} of the variables"] if ranks is not None else []
        alike += (
            [f"modality shares within {percent(differ)}"] if differ is not None and len(explained["modality_share"]) > 1 else []
        )
        said += [f"Against {name}: {', '.join(alike)}."] if alike else []
    return said


def _drift(drift: list[Json]) -> str:
    steps = [f"{decimal(step['rank_correlation'])} after round {step['round']}" for step in drift]
    return f"Over rounds, the order of the variables agrees with that of the final model: {listing(steps)}."

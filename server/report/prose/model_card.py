"""The model card: what somebody needs to know who is handed the model without the report."""

from typing import Any

from server.report.prose.limits import limits
from server.report.prose.part import Part, part
from server.report.wording import count, decimal, interval, listing

Json = dict[str, Any]


def model_card(document: Json) -> list[Part]:
    """The card's parts, in the order of Mitchell et al. 2019."""
    parts = (
        _model(document),
        _use(document),
        _factors(document),
        _metrics(document),
        _data(document),
        _caveats(document),
        _files(document),
    )
    return [one for one in parts if one.sentences]


def _model(document: Json) -> Part:
    study, run = document["study"], document["run"]
    return part(
        "Model",
        f"{study['title']}: a network of kind “{study['network']}” over {listing(study['modalities'])}, trained by "
        f"{count(len(document['sites']), 'site')} in {count(run['rounds'], 'round')}; this is the model after round "
        f"{run['best_round']}.",
        f"Run {run['id']}, {(run['finished'] or run['started'])[:10]}, protocol {study['protocol_sha256']}.",
        "Input: " + _inputs(document["protocol"]) + ". Output: the probability of " + study["outcome"] + ".",
    )


def _inputs(protocol: Json) -> str:
    seen = () if protocol["network"]["kind"] == "image_only" else protocol["variables"]
    variables = [name.replace("_", " ") for name in seen]
    views = [f"{name.replace('_', ' ')} picture" for name in (protocol["images"] or {"views": {}})["views"]]
    return listing(variables + views) + "; any of them may be missing"


def _use(document: Json) -> Part:
    thresholds = [f"{threshold:g}" for threshold in document["study"]["thresholds"]]
    return part(
        "Intended use",
        "Research on the question of the study, at sites like those that took part.",
        "Not a medical device, and not for decisions about a patient's care.",
        f"Thresholds fixed in the protocol: {listing(thresholds)}; a site should check calibration on its own patients first."
        if thresholds
        else None,
        "The patients were made by software: the model knows nothing of medicine." if document["study"]["synthetic"] else None,
    )


def _factors(document: Json) -> Part:
    sites = {name: site["metrics"].get("auc") for name, site in document["sites"].items()}
    known = [f"{name} {interval(auc)}" for name, auc in sites.items() if auc]
    without = [name for name, auc in sites.items() if not auc]
    return part(
        "By site",
        f"AUC on each site's test patients, with 95% interval: {'; '.join(known)}." if known else None,
        f"Not estimable at {listing(without)}." if without else None,
    )


def _metrics(document: Json) -> Part:
    pooled = document["pooled"]
    numbers = pooled["metrics"]
    auc, ratio = numbers.get("auc"), numbers.get("oe_ratio")
    return part(
        "Performance over all sites",
        f"{pooled['patients']:,} test patients, {pooled['events']:,} with the outcome." if pooled["patients"] else None,
        f"AUC {interval(auc)}." if auc else None,
        f"Observed / expected events {interval(ratio)}." if ratio else None,
        _brier(numbers.get("brier")),
    )


def _brier(known: Any) -> str | None:
    value = known.get("value") if isinstance(known, dict) else known
    return None if value is None else f"Brier score {decimal(value, 3)}."


def _data(document: Json) -> Part:
    parts = [site["n"] for site in document["sites"].values() if site["n"]]
    if not parts:
        return part("Data")
    return part(
        "Data",
        f"Trained on {sum(n['train'] for n in parts):,} patients, tuned on {sum(n['tune'] for n in parts):,}, tested on "
        f"{sum(n['test'] for n in parts):,}; they stay at the sites.",
    )


def _caveats(document: Json) -> Part:
    return part("Caveats", *limits(document))


def _files(document: Json) -> Part:
    return part(
        "Files",
        "models/best.safetensors holds the named parameters, and in its metadata the protocol and the scaling of the "
        "variables; "
        "protocol.json, results.json and report.html belong to it.",
        "It was made with " + ", ".join(f"{name} {version}" for name, version in document["run"]["versions"].items()) + ".",
    )

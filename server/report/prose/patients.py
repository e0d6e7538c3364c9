"""Methods: who was studied, what was predicted, from what."""

from collections.abc import Iterator
from typing import Any

from server.report.prose.part import Part, part
from server.report.wording import capital, count, listing, percent
from shared_model.explanation_layout import network_modalities, network_variables
from shared_model.messages import PARTS_IN_WORDS
from shared_model.protocol import Images, StudyProtocol
from shared_model.variables import Variable

Json = dict[str, Any]

_CROPS = {"whole": "shown whole", "lesion": "cropped to the lesion"}
_INTENSITY = {
    "range": "grey levels of B-mode pictures were stretched between their 1st and 99th percentiles",
    "gamma": "grey levels of B-mode pictures were stretched between their 1st and 99th percentiles and their median moved to a "
    "fixed grey",
    "depth": "grey levels of B-mode pictures were stretched between their 1st and 99th percentiles, their median moved to a "
    "fixed grey, and their brightness evened out over depth",
}

_MASKED = (
    "No value was imputed: what a patient lacks was masked, and the network has learned tokens that stand for its absence."
)
_IMPUTED = (
    "A missing numeric value was replaced by the mean of the training patients and a missing category by its shares among them."
)
_MISSING_PICTURES = (
    "Pictures that a patient lacks were masked, and the network has learned tokens that stand for their absence."
)


def participants(protocol: StudyProtocol, document: Json) -> Part:
    """Who was found, left out, and in which part."""
    described = {name: site for name, site in document["sites"].items() if site["cohort"]}
    counts = [site["cohort"]["found"] for site in described.values()]
    found = 0 if None in counts else sum(counts)  # under differential privacy a site does not tell
    left_out = sum(sum(site["cohort"]["excluded"].values()) for site in described.values())
    return part(
        "Participants",
        "The patients of this study were made by software." if protocol.study.synthetic else None,
        f"{count(len(document['sites']), 'site').capitalize()} enrolled: {listing(list(document['sites']))}.",
        f"Patients were taken from each site's own records as its configuration selects them; {found:,} were found and "
        f"{left_out:,} left out, for reasons given by site in the flow diagram."
        if found
        else None,
        _parts(described),
    )


def _parts(described: dict[str, Json]) -> str | None:
    known = [(label, sum(site["n"][key] for site in described.values())) for key, label in PARTS_IN_WORDS.items()]
    if not sum(number for _, number in known):
        return None
    shares = listing([f"{number:,} {label} patients" for label, number in known])
    return (
        f"Each site assigned its patients, by patient and before any training, to one of three parts that share no patient: "
        f"{shares} over all sites."
    )


def outcome(protocol: StudyProtocol, document: Json) -> Part:
    """What a positive label means and how often it is."""
    sites = [site for site in document["sites"].values() if site["events"] and None not in site["events"].values()]
    patients = sum(sum(site["n"].values()) for site in sites)
    events = sum(sum(site["events"].values()) for site in sites)
    how_many = f"It was present in {events:,} of {patients:,} patients ({percent(events / patients)})." if patients else None
    return part("Outcome", f"The outcome was {protocol.study.outcome}.", how_many)


def predictors(protocol: StudyProtocol, document: Json) -> Part:
    """Variables and pictures that enter the network, and their preparation."""
    return part(
        "Predictors", _variables(protocol), *_scaling(protocol), *(_pictures(protocol.images) if protocol.images else ())
    )


def _variables(protocol: StudyProtocol) -> str | None:
    if not network_variables(protocol):
        return None
    groups = [
        f"{group}: " + ", ".join(_named(name, v) for name, v in protocol.variables.items() if v.group == group)
        for group in protocol.groups
    ]
    return f"{count(len(protocol.variables), 'variable').capitalize()} entered the model ({'; '.join(groups)})."


def _named(name: str, variable: Variable) -> str:
    words = name.replace("_", " ")
    details = [variable.description] if variable.description else []
    details += [variable.unit] if variable.unit else []
    details += ["logarithm"] if variable.log else []
    details += ["/".join(variable.categories).replace("_", " ")] if variable.categories else []
    return f"{words} ({'; '.join(details)})" if details else words


def _scaling(protocol: StudyProtocol) -> Iterator[str]:
    if not network_variables(protocol):
        return
    ranged = [name for name, variable in protocol.variables.items() if variable.range]
    if ranged:
        yield "Values outside a plausible range fixed in the protocol counted as missing."
    whose = "each site's own" if protocol.federation.normalization == "site" else "all sites' pooled"
    yield f"Numeric variables were standardised with mean and standard deviation of {whose} training patients."


def _pictures(images: Images) -> Iterator[str]:
    views = [f"{name.replace('_', ' ')} ({view.modality})" for name, view in images.views.items()]
    yield (
        f"Up to {count(images.per_patient, 'ultrasound picture')} of a patient entered ({listing(views)}), "
        f"{_CROPS[images.crop]} and scaled to {images.size} × {images.size} pixels"
        + (", with the lesion's outline as a second channel." if images.lesion_mask else ".")
    )
    if images.mm_per_pixel:
        yield f"Pictures of known physical scale were brought to {images.mm_per_pixel:g} mm a pixel."
    if images.intensity != "none":
        yield f"{capital(_INTENSITY[images.intensity])}."


def missing(protocol: StudyProtocol, document: Json) -> Part:
    """How missing values are handled, and how many there are."""
    kind = protocol.network.kind
    dropout = protocol.network.modality_dropout
    return part(
        "Missing data",
        _MISSING_PICTURES if kind == "late_fusion" else None,
        _IMPUTED if kind in {"logistic", "late_fusion"} else _MASKED,
        f"In training a patient's modality was hidden at random with probability {dropout:g}."
        if kind != "logistic" and dropout and len(network_modalities(protocol)) > 1
        else None,
        _most_missing(document) if network_variables(protocol) else None,
    )


def _most_missing(document: Json) -> str | None:
    worst: dict[str, float] = {}
    for site in document["sites"].values():
        for name, share in (site["cohort"]["missing"] if site["cohort"] else {}).items():
            worst[name] = max(worst.get(name, 0.0), share or 0.0)
    never = [name.replace("_", " ") for name, share in worst.items() if share >= 0.995]
    if not worst:
        return None
    if not any(worst.values()):
        return "No value was missing at any site."
    at_some = (
        f"; {listing(never)} {'was' if len(never) == 1 else 'were'} not recorded at all at one site or more" if never else ""
    )
    return f"Missingness by variable and site is given in the table of characteristics{at_some}."

"""What left a hospital, how it was protected, and what each site has spent of its privacy budget."""

from typing import Any

from server.report.prose.part import Part, part
from server.report.wording import count, decimal, listing
from shared_model.protocol import StudyProtocol

Json = dict[str, Any]

_LEFT = (
    "No patient's values, pictures or identifiers left a hospital; what left was the change of the model's parameters once a "
    "round, counts, sums, histograms of scores, and each site's own estimates."
)


def privacy(protocol: StudyProtocol, document: Json) -> Part:
    """The methods' paragraph on privacy."""
    return part("Privacy", _LEFT, *sentences(document))


def sentences(document: Json) -> list[str]:
    """How the study protects patients, beyond their staying where they are."""
    dp = document["protocol"]["privacy"]["dp"]
    if dp is None:
        return ["No noise was added: the study was run without differential privacy."]
    spent = _spent(document)
    return [
        "Each site trained with differential privacy (DP-SGD) of its training patients, each patient being one unit: "
        "gradients "
        f"clipped by {dp['clipping'].replace('_', ' ')} clipping and noised at the site, at most ε = {dp['epsilon']:g} for "
        "this "
        f"study, accounted with {dp['accountant'].upper()}.",
        *([f"Spent: {listing(spent)}."] if spent else []),
    ]


def _spent(document: Json) -> list[str]:
    known = {name: site.get("privacy") for name, site in document["sites"].items()}
    return [
        f"{name} ε = {decimal(found['epsilon'])} at δ = {found['delta']:g}"
        for name, found in known.items()
        if found and found.get("epsilon")
    ]


def kept(document: Json) -> str:
    """The answer to whether privacy was kept."""
    withheld = sum(len(site["suppressed"]) for site in document["sites"].values())
    dp = document["protocol"]["privacy"]["dp"]
    spent = _spent(document)
    noise = (
        "without differential privacy, so the model itself may still tell of its patients"
        if dp is None
        else (
            f"with differential privacy, at most ε = {dp['epsilon']:g} a patient"
            + (f" (spent: {listing(spent)})" if spent else "")
        )
    )
    held = f" Sites held back {count(withheld, 'number')} that few patients stand behind." if withheld else ""
    return f"No patient's record left a site, by construction; the model was trained {noise}.{held}"

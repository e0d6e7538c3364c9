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
    found = [_secure_sum(document), *_noise(document)]
    return [sentence for sentence in found if sentence]


def _secure_sum(document: Json) -> str | None:
    """Which of that the center saw of the sites together only."""
    summed = (document.get("privacy") or {}).get("secure_sum")
    if summed is None:
        return None
    fewest, most = summed["sites_summed"]
    sites = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    known = {
        "roster": "the sites knew one another's keys from a roster that each had approved",
        "first use": "at least one site took the others' keys as it first saw them",
    }[summed["identities"]]
    return (
        "Updates, losses and histograms were added up under masks (secure aggregation after Bonawitz et al. 2017) over "
        f"{sites} sites in each round, so that the center saw those of no single site; {known}."
    )


def _noise(document: Json) -> list[str]:
    dp = document["protocol"]["privacy"]["dp"]
    if dp is None:
        return ["No noise was added: the study was run without differential privacy."]
    spent = _spent(document)
    return [
        "Each site trained with differential privacy (DP-SGD), with the training patient as its unit: gradients clipped "
        f"({dp['clipping'].replace('_', ' ')}) and noised at the site, at most ε = {dp['epsilon']:g} for this study, accounted "
        f"with {dp['accountant'].upper()}.",
        *([f"Spent: {listing(spent)}."] if spent else []),
    ]


def _spent(document: Json) -> list[str]:
    known = {name: site.get("privacy") for name, site in document["sites"].items()}
    return [
        f"{name} ε = {decimal(found['epsilon'])} at δ = {found['delta']:g}"
        for name, found in known.items()
        if found and found.get("epsilon") is not None
    ]


def kept(document: Json) -> str:
    """The answer to whether privacy was kept."""
    withheld = sum(len(site["suppressed"]) for site in document["sites"].values())
    dp, spent = document["protocol"]["privacy"]["dp"], _spent(document)
    noise = "without differential privacy, so the model itself may still tell of its patients"
    if dp is not None:
        noise = f"with differential privacy, at most ε = {dp['epsilon']:g}" + (f" (spent: {listing(spent)})" if spent else "")
    masks = " Their updates were added up under masks." if (document.get("privacy") or {}).get("secure_sum") else ""
    held = f" Sites held back {count(withheld, 'number')} that few patients stand behind." if withheld else ""
    return f"No patient's record left a site, by construction; the model was trained {noise}.{masks}{held}"

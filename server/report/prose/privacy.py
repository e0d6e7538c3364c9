"""Methods: what left a hospital, and how it was protected."""

from typing import Any

from server.report.prose.part import Part, part
from shared_model.protocol import StudyProtocol

Json = dict[str, Any]


def privacy(protocol: StudyProtocol, document: Json) -> Part:
    """What left a site."""
    return part(
        "Privacy",
        "No patient's values, pictures or identifiers left a hospital; what left was the change of the model's parameters "
        "once a "
        "round, counts, sums, histograms of scores, and each site's own estimates.",
        _secure_sum(document),
        _differential(protocol, document),
    )


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


def _differential(protocol: StudyProtocol, document: Json) -> str | None:
    """What the sites state of their training patients' budgets."""
    dp = protocol.privacy.dp
    if dp is None:
        return None
    stated = [
        site["privacy"] for site in document["sites"].values() if site["privacy"] and site["privacy"]["epsilon"] is not None
    ]
    if not stated:
        return "Training was to be differentially private, but no site has stated what it spent."
    low, high = min(s["epsilon"] for s in stated), max(s["epsilon"] for s in stated)
    spent = f"{high:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
    deltas = " or ".join(sorted({f"{s['delta']:g}" for s in stated}))
    accountant = {"prv": "privacy loss random variables (Gopi et al. 2021)", "rdp": "Renyi differential privacy"}[dp.accountant]
    frozen = " The image encoder was not trained." if protocol.privacy.trainable == "fusion_and_head" else ""
    return (
        "Local training was differentially private by DP-SGD (Abadi et al. 2016) with the training patient as the unit, "
        f"Poisson sampling and {dp.clipping.replace('_', '-')} clipping: epsilon {spent} at delta {deltas} at the sites, for "
        f"neighbours that differ by one emptied record, composed over all steps by {accountant}. Each site set its own "
        f"noise from its own limit. Tuning and test patients are not covered.{frozen}"
    )

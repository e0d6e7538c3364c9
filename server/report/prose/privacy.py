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

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
    )

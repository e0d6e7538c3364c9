"""What protected the sites' contributions in a run, as the results document states it."""

from typing import Any

from server.records import RunRecord

Json = dict[str, Any]


def secure_sum(record: RunRecord) -> Json | None:
    """How updates and histograms were summed; None where the center saw those of each site.

    ``sites_summed`` are the fewest and most sites of a round's sum. ``identities`` says where every site knows those of the
    others from: the ``"roster"`` that it approved, or, at one site at least, ``"first use"``.
    """
    summed = [row.summed for row in record.rounds if row.summed is not None]
    if not record.protocol.privacy.secure_sum or not summed:
        return None
    counts = [len(row.trust) for row in summed]
    trust = {known for row in summed for known in row.trust.values()}
    return {
        "rounds": len(summed),
        "sites_summed": [min(counts), max(counts)],
        "identities": "roster" if trust == {"roster"} else "first use",
    }

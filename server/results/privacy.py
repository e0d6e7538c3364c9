"""What protected the sites' contributions in a run, as the results document states it."""

from dataclasses import asdict, fields
from typing import Any

from server.records import RunRecord
from shared_model.errors import FailureCode
from shared_model.privacy_spent import PrivacySpent

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


def differential(name: str, record: RunRecord) -> Json | None:
    """What the site last stated of its patients' budget, and the rounds that it refused for it; None without differential
    privacy. A site whose every round was lost has stated nothing: its numbers are null, though it may have spent something."""
    if record.protocol.privacy.dp is None:
        return None
    stated = [row.sites[name].privacy for row in record.rounds if name in row.sites]
    last = next((spent for spent in reversed(stated) if spent), None)
    refused = {f.round for f in record.failures if f.site == name and f.code is FailureCode.BUDGET_EXCEEDED}
    numbers = asdict(last) if last else {field.name: None for field in fields(PrivacySpent)}
    return {**numbers, "refused_rounds": sorted(refused)}

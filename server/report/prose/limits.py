"""What limits the numbers of a run, as far as the software can tell."""

from collections.abc import Callable
from typing import Any

from server.report.wording import ADVISED_PER_CLASS, count, listing, ranges

Json = dict[str, Any]


FEW = 10  # patients of a class, below which one patient moves an AUC by several hundredths


def limits(document: Json) -> list[str]:
    """A sentence for each limit that this run has."""
    found = (check(document) for check in _CHECKS)
    return [sentence for sentence in found if sentence]


def _unfinished(document: Json) -> str:
    return "" if document["run"]["finished"] else "The run is not finished: these are its numbers so far."


def _synthetic(document: Json) -> str:
    return (
        "The patients were made by software; nothing here is evidence about medicine." if document["study"]["synthetic"] else ""
    )


def _few_events(document: Json) -> str:
    patients, events = document["pooled"]["patients"], document["pooled"]["events"]
    fewest = min(events, patients - events)
    if not patients or fewest >= ADVISED_PER_CLASS:
        return ""
    return (
        f"{events:,} events among {patients:,} test patients: fewer than the {ADVISED_PER_CLASS} of each class advised for a "
        "validation, so intervals are wide."
    )


def _small_sites(document: Json) -> str:
    few = [
        f"{name} ({site['sample_size']['events']} of {site['patients_tested']})"
        for name, site in document["sites"].items()
        if site["patients_tested"] and min(site["sample_size"]["events"], site["sample_size"]["nonevents"]) < FEW
    ]
    return f"Fewer than ten test patients of a class, so that one patient moves the result: {listing(few)}." if few else ""


def _no_result(document: Json) -> str:
    without = [name for name, site in document["sites"].items() if site["metrics"].get("auc") is None]
    return f"No AUC at {listing(without)}; the table of sites says why." if without else ""


def _absences(document: Json) -> str:
    rounds = [row["round"] for row in document["rounds"]]
    missed = {name: sorted(set(rounds) - set(site["participated"])) for name, site in document["sites"].items()}
    words = [f"{name} (rounds {ranges(gap)})" for name, gap in missed.items() if gap]
    return f"Some sites' training did not count in every round: {listing(words)}." if words else ""


def _random_split(document: Json) -> str:
    design = document["design"]
    elsewhere = design["external"] or design["left_out"]
    if not document["pooled"]["patients"] or document["study"]["synthetic"] or elsewhere:
        return ""
    return (
        f"Test patients are of the same {count(len(document['sites']), 'site')} and records as the training patients: the "
        "numbers "
        "do not show how the model does at a hospital that took no part, or later in time."
    )


_CHECKS: tuple[Callable[[Json], str], ...] = (
    _unfinished,
    _synthetic,
    _few_events,
    _small_sites,
    _no_result,
    _absences,
    _random_split,
)

"""Which round's model is best, by a pooled metric of tuning patients. ``history[k]`` judged model k, the one that entered round
k + 1; model 0 is untrained."""

from collections.abc import Collection, Sequence

from server.records import RoundRecord
from shared_model.errors import ConfigurationError, Fault
from shared_model.messages import DescribeReply
from shared_model.metrics import pool, selection_score
from shared_model.protocol import StudyProtocol
from shared_model.summaries import Performance


def score(protocol: StudyProtocol, performances: Sequence[Performance]) -> float | None:
    """The number by which models are compared, larger is better; ``None`` where the protocol takes the last, or nobody told."""
    kind = protocol.evaluation.selection
    return None if kind == "last" or not performances else selection_score(kind, pool(performances))


def best_known(history: Sequence[RoundRecord], *, otherwise: int) -> int:
    """The trained model that did best so far, the earliest of equals; ``otherwise`` where none has been judged."""
    judged = {record.round - 1: record.selection for record in history if record.round > 1}
    known = {model: value for model, value in judged.items() if value is not None}
    return max(known, key=lambda model: (known[model], -model)) if known else otherwise


def require_selectable(protocol: StudyProtocol, descriptions: Collection[DescribeReply]) -> None:
    """Let a study start only if its sites' tuning patients can tell which model is best.

    Raises:
        ConfigurationError: they cannot, or differential privacy lacks the tuning patients that scale the variables.
    """
    tune = [described.parts["tune"] for described in descriptions]
    if any(counts.positives is None for counts in tune):
        return  # rounds of which no site tells enough are not judged, and the last is taken
    patients = sum(counts.patients for counts in tune)
    positives = sum(counts.positives or 0 for counts in tune)
    if protocol.privacy.dp and protocol.variables and not patients:
        found, expected = "privacy.dp, but no site has tuning patients", "tuning patients, whose values scale the variables"
        remedy = "give tune a share in the [split] of the sites"
        raise ConfigurationError([Fault("study protocol", "privacy.dp", found, expected, remedy)])
    kind = protocol.evaluation.selection
    if kind == "last" or (0 < positives < patients if kind == "auc" else patients > 0):
        return
    raise ConfigurationError(
        [
            Fault(
                "study protocol",
                "evaluation.selection",
                f'"{kind}", but all sites together have {patients} tuning patients, {positives} of them positive',
                "tuning patients of both outcomes" if kind == "auc" else "tuning patients",
                'set evaluation.selection = "last", or give tune a share in the [split] of the sites',
            )
        ]
    )

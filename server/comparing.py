"""Asking sites to compare models patient by patient, and what is checked of the answer."""

from collections.abc import Collection, Mapping

from server.records import RunRecord
from shared_model.errors import FailureCode, RefusedError
from shared_model.messages import CompareReply, CompareRequest, Message, Reply, ScoredModel, Task
from shared_model.paired import PairedCalls
from shared_model.protocol import StudyProtocol
from shared_model.summaries import Performance

FEDERATED = "federated"
PERSONAL = "personal"


Models = dict[str, tuple[ScoredModel, ...]]


def own_models(*, run: str, model: int, personal: bool) -> Models:
    """The models that one run evaluated: the common one and, with ``personal``, the site's own."""
    models: Models = {FEDERATED: (ScoredModel(run, model),)}
    if personal:
        models[PERSONAL] = (ScoredModel(run, model, own=True),)
    return models


def worth_comparing(protocol: StudyProtocol) -> bool:
    """Whether a run by itself has something to compare: clinicians' readings, or each site's own model."""
    return allowed(protocol) and (bool(protocol.comparators) or protocol.federation.client_rule.kind == "ditto")


def allowed(protocol: StudyProtocol) -> bool:
    """Whether sites compare models at all: under a secure sum no site says anything by itself."""
    return not protocol.privacy.secure_sum


def comparison_task(record: RunRecord, site: str, *, attempt: str) -> Task:
    """The task of a comparison after the run."""
    return Task(
        run=record.run,
        site=site,
        round=record.best_round,
        attempt=attempt,
        protocol_json=record.protocol.canonical_json,
        seed=record.seed,
    )


def admit_comparison(
    message: Message[Reply], *, request: CompareRequest, protocol: StudyProtocol, patients: int
) -> CompareReply:
    """A comparison of the models and comparators asked for, whose counts fit one another and the ``patients`` that the site
    described at most.

    Raises:
        RefusedError: with what is wrong.
    """
    record = message.record
    if not isinstance(record, CompareReply):
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"a {record.kind} where a comparison was asked for")
    _require_known(record.performances, request.models, "models")
    _require_known(record.comparisons, request.models.keys() - {request.first}, "models")
    _require_known(record.readings, protocol.comparators, "comparators")
    for performance in record.performances.values():
        _check_performance(performance, protocol=protocol, patients=patients)
    for pair in record.comparisons.values():
        _check_calls(pair.calls, protocol=protocol, patients=pair.patients, positives=pair.positives, most=patients)
    for reading in record.readings.values():
        total = reading.patients + reading.without
        _check_calls(reading.calls, protocol=protocol, patients=reading.patients, positives=reading.positives, most=patients)
        if not 0 <= reading.without <= total <= patients:
            raise RefusedError(FailureCode.WRONG_COUNT, "readings of more patients than those described")
    return record


def _require_known(found: Mapping[str, object], known: Collection[str], what: str) -> None:
    if not found.keys() <= set(known):
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"{what} that were not asked for")


def _check_performance(performance: Performance, *, protocol: StudyProtocol, patients: int) -> None:
    bins = protocol.evaluation.histogram_bins
    histogram = performance.histogram
    cells = (histogram.negatives, histogram.positives)
    if histogram.bins != bins or not histogram.well_formed or any(min(own, default=0) < 0 for own in cells):
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"a histogram that is not on the protocol's {bins} bins")
    if tuple(counts.threshold for counts in performance.thresholds) != protocol.evaluation.thresholds:
        raise RefusedError(FailureCode.MALFORMED_REPLY, "thresholds that are not the protocol's")
    count, positives = performance.sums.count, performance.sums.positives
    totals = {(sum(cells[0]), sum(cells[1]))}
    totals |= {(t.true_negative + t.false_positive, t.true_positive + t.false_negative) for t in performance.thresholds}
    if totals != {(count - positives, positives)} or not 0 <= positives <= count <= patients:
        raise RefusedError(FailureCode.WRONG_COUNT, "performance of other patients than those described")


def _check_calls(calls: tuple[PairedCalls, ...], *, protocol: StudyProtocol, patients: int, positives: int, most: int) -> None:
    if tuple(call.threshold for call in calls) != protocol.evaluation.thresholds:
        raise RefusedError(FailureCode.MALFORMED_REPLY, "thresholds that are not the protocol's")
    cells = [cell for call in calls for table in (call.positives, call.negatives) for cell in vars(table).values()]
    totals = {(call.positives.patients, call.negatives.patients) for call in calls} or {(positives, patients - positives)}
    if totals != {(positives, patients - positives)} or min(cells, default=0) < 0 or not 0 <= patients <= most:
        raise RefusedError(FailureCode.WRONG_COUNT, "paired counts that contradict one another")

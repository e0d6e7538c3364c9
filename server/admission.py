"""What is checked of a reply before it may count. A reply that fails is refused, by name and reason; the round goes on."""

from collections.abc import Collection, Iterable
from functools import reduce

import numpy as np

from server.assessment_admission import admit_assessment
from shared_model import messages
from shared_model.disclosure import Suppression, is_suppressed, performance_on
from shared_model.errors import FailureCode, MessageError, RefusedError
from shared_model.messages import DescribeReply, Envelope, EvaluateReply, Failure, Message, Part, Reply, TrainReply
from shared_model.protocol import StudyProtocol
from shared_model.summaries import PartCounts, Performance

_DECLINED = {
    FailureCode.BUDGET_EXCEEDED: "its privacy budget does not allow the round",
    FailureCode.NOT_APPROVED: "it has not approved this study: consilium-site approve",
    FailureCode.TASK_NOT_ALLOWED: "its policy does not allow this task",
    FailureCode.TOO_MANY_ROUNDS: "its policy does not allow so many rounds",
    FailureCode.TOO_FEW_PATIENTS: "it has fewer patients than its own minimum",
    FailureCode.COHORT_UNUSABLE: "its data do not fit the study: consilium-site check tells the site what to mend",
    FailureCode.OUT_OF_MEMORY: "it ran out of memory",
    FailureCode.TRAINING_DIVERGED: "its training diverged",
    FailureCode.PROTOCOL_MISMATCH: "it does not understand the request: another release, or another site's worker",
    FailureCode.UNREACHABLE: "its relay is connected, but its worker does not answer",
    FailureCode.INTERNAL: "something failed there; the site's own log tells what",
}


def admit(envelope: Envelope, *, site: str, attempt: str) -> Message[Reply]:
    """Decode the reply of ``site`` to the request marked ``attempt``.

    Raises:
        RefusedError: ``MALFORMED_REPLY``, ``STALE_REPLY``, or the code with which the site itself declined.
    """
    try:
        message = messages.decode(envelope)
    except MessageError as error:
        raise RefusedError(FailureCode.MALFORMED_REPLY, str(error)) from None
    record = message.record
    if not isinstance(record, Reply):
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"a {record.kind} is no reply")
    if record.site != site:
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"it says it is from {record.site!r}")
    if isinstance(record, Failure):
        raise RefusedError(record.code, _DECLINED.get(record.code, "the site declined or could not"))
    if record.attempt != attempt:
        raise RefusedError(FailureCode.STALE_REPLY, "it answers another sending of the request")
    return Message(record, message.vectors, message.masked)


def admit_description(message: Message[Reply], *, protocol: StudyProtocol) -> DescribeReply:
    """A description whose variables, categories and counts fit the protocol and one another.

    Raises:
        RefusedError: with what does not fit.
    """
    record = message.record
    if not isinstance(record, DescribeReply):
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"a {record.kind} where a description was asked for")
    kinds = {name: variable.kind for name, variable in protocol.variables.items()}
    numeric = [name for name, kind in kinds.items() if kind == "numeric"]
    categorical = [name for name, kind in kinds.items() if kind == "categorical"]
    if list(record.moments) != numeric or list(record.categories) != categorical or set(record.missing) != set(kinds):
        raise RefusedError(FailureCode.MALFORMED_REPLY, "its variables are not those of the protocol")
    if set(record.modalities) != set(protocol.modalities) or set(record.parts) != {"train", "tune", "test"}:
        raise RefusedError(FailureCode.MALFORMED_REPLY, "its modalities or parts are not those of the protocol")
    for name in categorical:
        counts = record.categories[name].counts
        if len(counts) != len(protocol.variables[name].categories) or min(counts) < 0:
            raise RefusedError(FailureCode.MALFORMED_REPLY, f"counts of {name!r} do not fit its categories")
    if record.of != ("tune" if protocol.privacy.dp else "train"):
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"statistics of {record.of} patients")
    patients = record.parts[record.of].patients
    observed = [m.count for m in record.moments.values()] + [sum(c.counts) for c in record.categories.values()]
    if any(not 0 <= count <= patients for count in observed) or not all(map(_consistent, record.parts.values())):
        raise RefusedError(FailureCode.WRONG_COUNT, "its counts contradict one another")
    return record


def admit_training(
    message: Message[Reply], *, protocol: StudyProtocol, described: DescribeReply, size: int
) -> Message[TrainReply]:
    """A training reply whose vectors are finite, of length ``size`` and within the norm limit, and whose counts are those
    that the site described.

    Raises:
        RefusedError: with what is wrong.
    """
    record, vectors = message.record, message.vectors
    if not isinstance(record, TrainReply):
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"a {record.kind} where training was asked for")
    expected = {"update", "control"} if protocol.federation.client_rule.kind == "scaffold" else {"update"}
    if set(vectors) != expected:
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"vectors {sorted(vectors)} where {sorted(expected)} were expected")
    for name, vector in vectors.items():
        if vector.shape != (size,):
            raise RefusedError(FailureCode.WRONG_SHAPE, f"{name} of length {vector.shape[0]}, the model has {size}")
        if not np.isfinite(vector).all():
            raise RefusedError(FailureCode.NOT_FINITE, f"{name} holds values that are not finite")
    norm, limit = update_norm(message), protocol.federation.max_update_norm
    if norm > limit:
        raise RefusedError(FailureCode.NORM_EXCEEDED, f"update of norm {norm:.4g}, the limit is {limit:.4g}")
    if record.patients != described.parts["train"].patients:
        found, known = record.patients, described.parts["train"].patients
        raise RefusedError(FailureCode.WRONG_COUNT, f"trained on {found} patients, but described {known}")
    if record.tune is None:
        _require_all({performance_on("tune")} if described.parts["tune"].patients else set(), record.suppressed)
    else:
        admit_performance(record.tune, protocol=protocol, described=described.parts["tune"])
    return Message(record, vectors)


def admit_evaluation(
    message: Message[Reply], *, protocol: StudyProtocol, described: DescribeReply, parts: tuple[Part, ...]
) -> EvaluateReply:
    """An evaluation of just the parts asked for, over the patients that the site described. A part may be missing where the
    site says that it is suppressed.

    Raises:
        RefusedError: with what is wrong.
    """
    record = message.record
    if not isinstance(record, EvaluateReply):
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"a {record.kind} where an evaluation was asked for")
    filled = {part for part in parts if described.parts[part].patients}
    if not set(record.parts) <= filled or not set(record.personal) <= filled:
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"parts {sorted(record.parts)} where {sorted(filled)} were expected")
    _require_all({performance_on(part) for part in filled - set(record.parts)}, record.suppressed)
    for models in (record.parts, record.personal):
        for part, result in models.items():
            admit_performance(result, protocol=protocol, described=described.parts[part])
    return record


def admit_masked_training(message: Message[Reply], *, described: DescribeReply) -> TrainReply:
    """A training reply under masks, whose counts are those that the site described and that tells nothing which adds up.

    Raises:
        RefusedError: with what is wrong.
    """
    record = message.record
    if not isinstance(record, TrainReply):
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"a {record.kind} where training was asked for")
    if message.vectors or record.loss is not None or (record.tune is not None and record.tune.histogram.negatives):
        raise RefusedError(FailureCode.MALFORMED_REPLY, "in the clear what was to be masked")
    if record.patients != described.parts["train"].patients:
        found, known = record.patients, described.parts["train"].patients
        raise RefusedError(FailureCode.WRONG_COUNT, f"trained on {found} patients, but described {known}")
    if record.tune is None:
        _require_all({performance_on("tune")} if described.parts["tune"].patients else set(), record.suppressed)
    return record


def admit_masked_evaluation(message: Message[Reply], *, described: DescribeReply, parts: tuple[Part, ...]) -> EvaluateReply:
    """An evaluation under masks of just the parts asked for, without a histogram in the clear.

    Raises:
        RefusedError: with what is wrong.
    """
    record = message.record
    if not isinstance(record, EvaluateReply):
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"a {record.kind} where an evaluation was asked for")
    if any(told.histogram.negatives for told in (*record.parts.values(), *record.personal.values())):
        raise RefusedError(FailureCode.MALFORMED_REPLY, "in the clear what was to be masked")
    filled = {part for part in parts if described.parts[part].patients}
    if not set(record.parts) <= filled or not set(record.personal) <= filled:
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"parts {sorted(record.parts)} where {sorted(filled)} were expected")
    _require_all({performance_on(part) for part in filled - set(record.parts)}, record.suppressed)
    return record


def admit_sum(performance: Performance, part: Part, *, protocol: StudyProtocol, described: Iterable[DescribeReply]) -> None:
    """Check that a sum of performances is of the patients of ``part`` of the sites ``described``.

    Raises:
        RefusedError: ``WRONG_COUNT``.
    """
    counts = reduce(lambda a, b: a + b, (site.parts[part] for site in described), PartCounts(0, 0))
    admit_performance(performance, protocol=protocol, described=counts)


def admit_performance(performance: Performance, *, protocol: StudyProtocol, described: PartCounts) -> None:
    """Check that histogram, sums and thresholds are of one group of patients: the one described.

    Raises:
        RefusedError: ``WRONG_COUNT`` or ``MALFORMED_REPLY``.
    """
    histogram, sums = performance.histogram, performance.sums
    bins = protocol.evaluation.histogram_bins
    if histogram.bins != bins or not histogram.well_formed:
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"a histogram that is not on the protocol's {bins} bins")
    if tuple(counts.threshold for counts in performance.thresholds) != protocol.evaluation.thresholds:
        raise RefusedError(FailureCode.MALFORMED_REPLY, "thresholds that are not the protocol's")
    if described.positives is None:
        raise RefusedError(
            FailureCode.WRONG_COUNT, "performance on patients of whom the site does not tell how many are positive"
        )
    negatives = described.patients - described.positives
    totals = {(sums.count - sums.positives, sums.positives), (sum(histogram.negatives), sum(histogram.positives))}
    totals |= {(t.true_negative + t.false_positive, t.true_positive + t.false_negative) for t in performance.thresholds}
    cells = (*histogram.negatives, *histogram.positives)
    if totals != {(negatives, described.positives)} or min(cells, default=0) < 0:
        raise RefusedError(FailureCode.WRONG_COUNT, "performance of other patients than those described")
    if performance.assessment is not None:
        admit_assessment(performance.assessment, protocol=protocol, patients=sums.count, positives=sums.positives)


def update_norm(message: Message[Reply]) -> float:
    """Euclidean norm of the update in a training reply."""
    return float(np.linalg.norm(message.vectors["update"].astype(np.float64)))


def _require_all(missing: Collection[str], suppressed: Collection[Suppression]) -> None:
    """What a reply lacks is what its site says that it suppressed."""
    unsaid = sorted(what for what in missing if not is_suppressed(what, suppressed))
    if unsaid:
        raise RefusedError(FailureCode.MALFORMED_REPLY, f"without {', '.join(unsaid)}, and without a reason")


def _consistent(counts: PartCounts) -> bool:
    return 0 <= (counts.positives or 0) <= counts.patients <= 10_000_000

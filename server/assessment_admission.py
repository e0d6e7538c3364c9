"""What is checked of a site's assessment of its test patients: closed words, counts that fit, probabilities that are such."""

from collections.abc import Iterator
from itertools import groupby

from shared_model.assessment import Assessment, Group, Recalibration
from shared_model.errors import FailureCode, RefusedError
from shared_model.protocol import StudyProtocol
from shared_model.record import Estimate

METRICS = frozenset(
    {
        *("auc", "average_precision", "brier", "scaled_brier", "log_loss", "oe_ratio"),
        *("calibration_intercept", "calibration_slope", "ici", "e50", "e90"),
    }
)
_SHARES = METRICS - {"scaled_brier", "log_loss", "oe_ratio", "calibration_intercept", "calibration_slope"}
_KINDS = frozenset({"intercept", "logistic"})
_LONGEST = 120  # characters of a word of the site's own: it is shown in the report, and is no letter


def admit_assessment(assessment: Assessment, *, protocol: StudyProtocol, patients: int, positives: int) -> None:
    """Check that ``assessment`` is of ``patients`` of whom ``positives`` have the outcome, in the protocol's words.

    Raises:
        RefusedError: ``WRONG_COUNT`` or ``MALFORMED_REPLY``.
    """
    negatives = patients - positives
    for chosen in assessment.thresholds:
        counts = chosen.counts
        if (counts.true_negative + counts.false_positive, counts.true_positive + counts.false_negative) != (
            negatives,
            positives,
        ):
            raise RefusedError(FailureCode.WRONG_COUNT, "a threshold's counts are of other patients than those described")
        if not 0.0 < counts.threshold < 1.0:
            raise RefusedError(FailureCode.MALFORMED_REPLY, "a threshold that is no probability")
    for groups in (assessment.groups, assessment.modalities):
        _admit_groups(groups, patients, positives)
    if {group.variable for group in assessment.groups} - set(protocol.evaluation.subgroups):
        raise RefusedError(FailureCode.MALFORMED_REPLY, "subgroups that are not the protocol's")
    if {group.variable for group in assessment.modalities} - set(protocol.modalities):
        raise RefusedError(FailureCode.MALFORMED_REPLY, "modalities that are not the protocol's")
    if {fitted.kind for fitted in assessment.recalibrated} - _KINDS:
        raise RefusedError(FailureCode.MALFORMED_REPLY, "a recalibration of a kind that does not exist")
    for metrics in (assessment.metrics, *(found.metrics for found in _with_metrics(assessment))):
        _admit_metrics(metrics)
    for curve in (assessment.calibration_curve, *(fitted.calibration_curve for fitted in assessment.recalibrated)):
        if any(not 0.0 <= share <= 1.0 for point in curve for share in (point.predicted, point.observed)):
            raise RefusedError(FailureCode.MALFORMED_REPLY, "a calibration curve beyond 0..1")
        if sum(point.patients for point in curve) > patients or any(point.patients < 1 for point in curve):
            raise RefusedError(FailureCode.WRONG_COUNT, "a calibration curve of other patients than those described")
    if any(len(word) > _LONGEST or not word.isprintable() for word in _words(assessment)):
        raise RefusedError(FailureCode.MALFORMED_REPLY, "words that are too long, or unprintable")


def _admit_groups(groups: tuple[Group, ...], everybody: int, positives: int) -> None:
    for _, levels in groupby(groups, key=lambda group: group.variable):
        counts = [(group.patients or 0, group.events or 0) for group in levels]
        fits = all(0 <= events <= patients for patients, events in counts)
        patients, events = (sum(column) for column in zip(*counts, strict=True))
        if not fits or patients > everybody or events > positives:
            raise RefusedError(FailureCode.WRONG_COUNT, "subgroups of more patients than those described")


def _admit_metrics(metrics: dict[str, Estimate]) -> None:
    if set(metrics) - METRICS:
        raise RefusedError(FailureCode.MALFORMED_REPLY, "metrics that do not exist")
    for name, estimate in metrics.items():
        ends = [end for end in (estimate.low, estimate.value, estimate.high) if end is not None]
        if ends != sorted(ends) or (name in _SHARES and not 0.0 <= estimate.value <= 1.0):
            raise RefusedError(FailureCode.MALFORMED_REPLY, f"{name} outside its interval or range")


def _with_metrics(assessment: Assessment) -> Iterator[Group | Recalibration]:
    yield from assessment.groups
    yield from assessment.modalities
    yield from assessment.recalibrated


def _words(assessment: Assessment) -> Iterator[str]:
    for chosen in assessment.thresholds:
        yield from (chosen.rule, chosen.chosen_on)
    for group in (*assessment.groups, *assessment.modalities):
        yield from (group.level, group.suppressed or "")
    yield assessment.not_recalibrated or ""
    for metrics in (assessment.metrics, *(found.metrics for found in _with_metrics(assessment))):
        yield from (estimate.method for estimate in metrics.values())

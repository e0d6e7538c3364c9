"""A model on a site's own test patients in full: estimates with intervals, curves, local recalibration, subgroups.

Computed at the site from its patients' scores. Counts below ``minimum_cell`` are left out here already, and whatever would
let them be found by subtraction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared_model import metrics
from shared_model.assessment import Assessment, CurvePoint, Group, Recalibration, RuleThreshold
from shared_model.counts import ScoreSums, ThresholdCounts
from shared_model.histogram import ScoreHistogram
from shared_model.metrics.bootstrap import Replicates, bootstrap
from shared_model.metrics.smoothing import Smoothed
from shared_model.protocol_evaluation import Evaluation
from shared_model.record import Estimate

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
CURVE_BINS = 10
OWN_TUNING = "the site's own tuning patients"
PRESENT, ABSENT = "present", "absent"


@dataclass(frozen=True)
class Scored:
    """Scores float ``[n]`` in 0..1 of some patients, and their outcomes ``[n]``, 0 or 1."""

    scores: Floats
    labels: Floats

    @property
    def events(self) -> int:
        """Patients with the outcome."""
        return int(self.labels.sum())

    def of(self, mask: Mask) -> "Scored":
        """Those of ``mask``."""
        return Scored(self.scores[mask], self.labels[mask])


def assess(
    test: Scored,
    tune: Scored,
    *,
    evaluation: Evaluation,
    subgroups: Mapping[str, Mapping[str, Mask]],
    modalities: Mapping[str, Mask],
    minimum_cell: int,
    seed: int,
) -> Assessment:
    """Everything that a site says of one model. ``subgroups`` and ``modalities`` are masks over the test patients."""
    numbers, curve = _judge(test, evaluation=evaluation, minimum_cell=minimum_cell, seed=seed)
    corrected, why_not = _recalibrate(test, tune, evaluation=evaluation, minimum_cell=minimum_cell, seed=seed)
    # A modality that everybody has, or nobody, divides nothing.
    strata = {name: {PRESENT: mask, ABSENT: ~mask} for name, mask in modalities.items() if 0 < mask.sum() < mask.size}
    return Assessment(
        metrics=numbers,
        thresholds=_rules(test, tune, evaluation=evaluation),
        calibration_curve=curve,
        recalibrated=corrected,
        not_recalibrated=why_not,
        groups=tuple(g for name, levels in subgroups.items() for g in _groups(test, name, levels, minimum_cell=minimum_cell)),
        modalities=tuple(g for name, levels in strata.items() for g in _groups(test, name, levels, minimum_cell=minimum_cell)),
    )


def _judge(
    patients: Scored, *, evaluation: Evaluation, minimum_cell: int, seed: int
) -> tuple[dict[str, Estimate], tuple[CurvePoint, ...]]:
    scores, labels = patients.scores, patients.labels
    smooth, replicates = None, None
    if scores.size:
        smooth = metrics.smoothed(scores, labels)
        replicates = bootstrap(scores, labels, replicates=evaluation.bootstrap, seed=seed)
    sums = ScoreSums.of(scores, labels)
    numbers: dict[str, Estimate | None] = {
        "auc": metrics.auc_interval(scores, labels),
        "average_precision": _estimate("average_precision", metrics.average_precision(scores, labels), replicates),
        "brier": _estimate("brier", metrics.brier(sums), replicates),
        "scaled_brier": _estimate("scaled_brier", metrics.scaled_brier(sums), replicates),
        "log_loss": _estimate("log_loss", metrics.log_loss(sums), replicates),
        "oe_ratio": metrics.oe_ratio(sums),
        "calibration_intercept": metrics.calibration_in_the_large(scores, labels),
        "calibration_slope": metrics.calibration_slope(scores, labels),
    }
    if smooth is not None:
        for name, value in zip(("ici", "e50", "e90"), smooth.errors, strict=True):
            numbers[name] = _estimate(name, value, replicates)
    known = {name: estimate for name, estimate in numbers.items() if estimate is not None}
    return known, _curve(smooth, replicates, minimum_cell=minimum_cell) if smooth else ()


def _estimate(name: str, value: float | None, replicates: Replicates | None) -> Estimate | None:
    if value is None:
        return None
    if replicates is None:
        return Estimate(value, None, None, "no interval of one outcome class")
    return replicates.interval(name, value)


def _curve(smooth: Smoothed, replicates: Replicates | None, *, minimum_cell: int) -> tuple[CurvePoint, ...]:
    """The smoothed curve as means over at most ``CURVE_BINS`` groups of patients alike in prediction, of a cell at least."""
    groups = min(CURVE_BINS, smooth.predicted.size // minimum_cell)
    points = []
    for members in np.array_split(np.arange(smooth.predicted.size), groups) if groups else ():
        predicted, observed = float(smooth.predicted[members].mean()), float(smooth.observed[members].mean())
        low, high = None, None
        if replicates is not None:
            band = replicates.band(np.array([predicted]))
            low, high = min(float(band[0][0]), observed), max(float(band[1][0]), observed)
        points.append(CurvePoint(predicted, observed, low, high, members.size))
    return tuple(points)


def _rules(test: Scored, tune: Scored, *, evaluation: Evaluation) -> tuple[RuleThreshold, ...]:
    histogram = ScoreHistogram.of(tune.scores, tune.labels, bins=evaluation.histogram_bins)
    return tuple(
        RuleThreshold(rule, OWN_TUNING, ThresholdCounts.of(test.scores, test.labels, threshold=threshold))
        for rule, threshold in metrics.thresholds_by_rule(histogram, evaluation.sensitivities).items()
    )


def _recalibrate(
    test: Scored, tune: Scored, *, evaluation: Evaluation, minimum_cell: int, seed: int
) -> tuple[tuple[Recalibration, ...], str | None]:
    others = tune.labels.size - tune.events
    if min(tune.events, others) < minimum_cell or not test.scores.size:
        few = f"fewer than {minimum_cell} tuning patients with the event, or without it"  # not how many: they are few
        return (), few if test.scores.size else "no test patients"
    lines: dict[str, tuple[float, float]] = {}
    if (shift := metrics.calibration_in_the_large(tune.scores, tune.labels)) is not None:
        lines["intercept"] = (shift.value, 1.0)
    if (line := metrics.recalibration(tune.scores, tune.labels)) is not None:
        lines["logistic"] = (line[0].value, line[1].value)
    found_lines = []
    for kind, (intercept, slope) in lines.items():
        corrected = Scored(metrics.recalibrated(test.scores, intercept=intercept, slope=slope), test.labels)
        numbers, curve = _judge(corrected, evaluation=evaluation, minimum_cell=minimum_cell, seed=seed)
        found_lines.append(Recalibration(kind, intercept, slope, tune.labels.size, tune.events, numbers, curve))
    return tuple(found_lines), None if found_lines else "the tuning patients' scores are all alike"


def _groups(test: Scored, variable: str, levels: Mapping[str, Mask], *, minimum_cell: int) -> list[Group]:
    filled = {level: test.of(mask) for level, mask in levels.items() if mask.any()}
    hidden = suppressed_levels({level: (s.labels.size, s.events) for level, s in filled.items()}, minimum_cell=minimum_cell)
    found = []
    for level, patients in filled.items():
        if level in hidden:
            found.append(Group(variable, level, None, None, {}, hidden[level]))
            continue
        sums = ScoreSums.of(patients.scores, patients.labels)
        brier = metrics.brier(sums)
        numbers = {
            "auc": metrics.auc_interval(patients.scores, patients.labels),
            "oe_ratio": metrics.oe_ratio(sums),
            "calibration_intercept": metrics.calibration_in_the_large(patients.scores, patients.labels),
            "brier": None if brier is None else Estimate(brier, None, None, "no interval in subgroups"),
        }
        known = {name: estimate for name, estimate in numbers.items() if estimate is not None}
        found.append(Group(variable, level, patients.labels.size, patients.events, known))
    return found


def suppressed_levels(counts: Mapping[str, tuple[int, int]], *, minimum_cell: int) -> dict[str, str]:
    """Levels whose patients and events must not be told, with the reason; ``counts`` gives both of each level.

    A level is suppressed if it has, without the event or with it, some patients but fewer than a cell; and, as the total is
    known, further ones, the smallest first, until no suppressed count follows by subtraction.
    """
    small = {
        level: f"fewer than {minimum_cell} patients with or without the event"
        for level, (patients, events) in counts.items()
        if 0 < events < minimum_cell or 0 < patients - events < minimum_cell
    }
    rest = sorted((level for level in counts if level not in small), key=lambda level: counts[level][0])
    while rest and (len(small) == 1 or _few_together([counts[level] for level in small], minimum_cell)):
        small[rest.pop(0)] = "would tell a suppressed level by subtraction"
    return small


def _few_together(counts: Sequence[tuple[int, int]], minimum_cell: int) -> bool:
    """Whether of the suppressed levels together, which follow from the total, there are too few with or without the event."""
    events = sum(found for _, found in counts)
    others = sum(patients for patients, _ in counts) - events
    return 0 < events < minimum_cell or 0 < others < minimum_cell

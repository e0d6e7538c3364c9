"""All that a site says of a model on its test patients, beyond what adds up: its own exact estimates, curves and groups."""

from dataclasses import dataclass

from shared_model.counts import ThresholdCounts
from shared_model.record import Estimate, Record


@dataclass(frozen=True)
class RuleThreshold(Record):
    """A threshold found by ``rule`` ("sensitivity 0.90", "youden") on patients ``chosen_on``; ``counts`` are of other ones."""

    rule: str
    chosen_on: str
    counts: ThresholdCounts


@dataclass(frozen=True)
class CurvePoint(Record):
    """Of a smoothed calibration curve: mean prediction and smoothed observed share of at least a cell of ``patients``."""

    predicted: float
    observed: float
    low: float | None
    high: float | None
    patients: int


@dataclass(frozen=True)
class Recalibration(Record):
    """A local correction of the log odds, ``intercept + slope * logit``, fitted on ``patients`` tuning patients (``events`` of
    them positive), and how the corrected probabilities do on the test patients."""

    kind: str
    intercept: float
    slope: float
    patients: int
    events: int
    metrics: dict[str, Estimate]
    calibration_curve: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class Group(Record):
    """Test patients with one ``level`` of ``variable``. Counts are ``None``, and ``metrics`` empty, where ``suppressed``
    says why."""

    variable: str
    level: str
    patients: int | None
    events: int | None
    metrics: dict[str, Estimate]
    suppressed: str | None = None


@dataclass(frozen=True)
class Assessment(Record):
    """One model on one site's test patients; what is not in ``metrics`` is not estimable there.

    ``groups`` are of the protocol's subgroups, ``modalities`` of patients with and without each modality.
    ``not_recalibrated`` says why there is no local correction, if there is none.
    """

    metrics: dict[str, Estimate]
    thresholds: tuple[RuleThreshold, ...] = ()
    calibration_curve: tuple[CurvePoint, ...] = ()
    recalibrated: tuple[Recalibration, ...] = ()
    not_recalibrated: str | None = None
    groups: tuple[Group, ...] = ()
    modalities: tuple[Group, ...] = ()

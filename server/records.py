"""What a run leaves behind, as the journal gives it to results and report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from shared_model.disclosure import Suppression
from shared_model.errors import FailureCode
from shared_model.explanations import ExplanationSummary
from shared_model.messages import CompareReply, DescribeReply, EvaluateReply, ExplainReply
from shared_model.privacy_spent import PrivacySpent
from shared_model.protocol import StudyProtocol
from shared_model.summaries import Normalization, Performance

Phase = Literal["describe", "train", "evaluate", "explain", "compare"]


@dataclass(frozen=True)
class SiteFailure:
    """A reply that did not count: which site, when, why. ``reason`` is the center's own words, never a site's."""

    site: str
    phase: Phase
    round: int
    code: FailureCode
    reason: str


@dataclass(frozen=True)
class SiteRound:
    """What a counted training reply said, without its vectors. ``tune`` is of the model *before* this round's training.
    ``loss`` and ``tune`` are ``None`` where the site ``suppressed`` them. Of a secure sum, loss and norm of the update are
    ``None``, and ``tune`` holds the site's own estimates only. ``privacy`` is what the site states of its patients' budget
    after the round, ``None`` without differential privacy."""

    patients: int
    loss: float | None
    steps: int
    seconds: float
    update_norm: float | None
    tune: Performance | None
    suppressed: tuple[Suppression, ...] = ()
    privacy: PrivacySpent | None = None


@dataclass(frozen=True)
class SummedRound:
    """What is known of a round's sites together and, under a secure sum, of none alone. ``trust`` says by site where it knows
    the identities of the others from."""

    patients: int
    loss: float | None
    update_norm: float
    tune: Performance
    trust: Mapping[str, str]


@dataclass(frozen=True)
class RoundRecord:
    """One committed round. ``sites`` holds those that counted; ``selection`` judges the model *entering* the round. ``summed``
    is what a secure sum told."""

    round: int
    sites: Mapping[str, SiteRound]
    selection: float | None
    wall_s: float
    checkpoint_sha256: str
    summed: SummedRound | None = None


@dataclass(frozen=True)
class Traffic:
    """Bytes of messages, without the transport's own."""

    bytes_down: int = 0
    bytes_up: int = 0


@dataclass(frozen=True)
class RunRecord:
    """A whole run. Model ``k`` is the one after ``k`` rounds; ``best_round`` is the ``k`` that was evaluated.

    ``phases`` is wall time in seconds by phase (describe, train, evaluate), of which the sites
    computed ``site_compute_s``, added up over sites. ``started`` and ``finished``
    are ISO 8601 in UTC. ``stopped`` says in words why the rounds ended. ``comparisons`` are of models paired patient by
    patient, by site; ``explanations`` of the best model, by site, and ``drift`` briefly of models on the way.
    ``summed`` is the evaluation of all sites together where a secure sum hides those of single sites: by part, and
    ``personal.`` part for the sites' own models.
    """

    run: str
    protocol: StudyProtocol
    engine: str
    seed: int
    versions: Mapping[str, str]
    started: str
    finished: str | None
    enrolled: tuple[str, ...]
    descriptions: Mapping[str, DescribeReply]
    normalization: Normalization | None
    rounds: tuple[RoundRecord, ...]
    best_round: int
    stopped: str
    evaluations: Mapping[str, EvaluateReply]
    failures: tuple[SiteFailure, ...]
    phases: Mapping[str, float]
    site_compute_s: float
    traffic: Traffic
    comparisons: Mapping[str, CompareReply] = field(default_factory=dict)
    explanations: Mapping[str, ExplainReply] = field(default_factory=dict)
    drift: Mapping[int, Mapping[str, ExplainReply]] = field(default_factory=dict)
    summed: Mapping[str, Performance] = field(default_factory=dict)


ArmKind = Literal["local", "central", "logistic", "clinical_only", "image_only", "fine_tuned"]


@dataclass(frozen=True)
class Arm:
    """A comparator of simulation: one model trained otherwise, scored on every site's test patients.

    ``kind`` ``local`` (trained at ``site`` alone), ``central`` (all patients in one place), ``logistic`` (central
    logistic regression on the tabular variables), ``clinical_only`` and ``image_only`` (federated, with that network), or
    ``fine_tuned`` (the federated model, trained on at ``site``). ``test`` maps each site with test patients to its performance,
    ``explanations`` each site whose patients the model was explained on to the sums of that. Sites keep its scores as those of
    model ``model`` of ``run``.
    """

    kind: ArmKind
    site: str | None
    test: Mapping[str, Performance]
    explanations: Mapping[str, ExplanationSummary] = field(default_factory=dict)
    run: str = ""
    model: int = 0


@dataclass(frozen=True)
class Design:
    """Studies that belong to a run: without one site, by that site, and the folds of a cross-validation in order.

    ``compared`` is what each site says of all folds together, ``halted`` why a study without a site could not go on.
    """

    left_out: Mapping[str, RunRecord] = field(default_factory=dict)
    folds: tuple[RunRecord, ...] = ()
    compared: Mapping[str, CompareReply] = field(default_factory=dict)
    halted: Mapping[str, str] = field(default_factory=dict)


NO_DESIGN = Design()

"""Comparators, in simulation only: each site alone, all patients in one place, logistic regression, the federated network on
clinical variables or images alone, and the federated model trained on at each site.

All but the logistic regression are studies of their own, run by the same recipe and scored by the same workers, so that a
difference between arms is a difference of training, or of inputs, and of nothing else.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import torch
from pydantic import TypeAdapter

from server.collecting import pooled_normalization
from server.journal import FILE, Journal, Start
from server.records import Arm, ArmKind, RunRecord
from shared_model import messages
from shared_model.durable import write_durably
from shared_model.errors import FailureCode, StudyError
from shared_model.explanations import ExplanationSummary
from shared_model.messages import (
    DescribeReply,
    Envelope,
    EvaluateReply,
    EvaluateRequest,
    ExplainReply,
    ExplainRequest,
    Message,
    Task,
    Vector,
)
from shared_model.network import LogisticNetwork, build_network
from shared_model.parameters import ParameterSpec
from shared_model.protocol import AggregationRule, ClientRule, ServerOptimizer, StudyProtocol
from shared_model.protocol_privacy import Privacy
from shared_model.summaries import Normalization

FOLDER = "baselines"
_ARM: TypeAdapter[Arm] = TypeAdapter(Arm)


class SiteWorker(Protocol):
    """A site that is on this machine."""

    name: str

    def handle(self, envelope: Envelope) -> Envelope:
        """Answer a request."""

    def approve(self, protocol: StudyProtocol, *, by: str) -> None:
        """Let the site answer to ``protocol``."""

    def bench(self, protocol: StudyProtocol, *, seed: int) -> Any:
        """Cohort and network of a protocol."""


Conduct = Callable[[Mapping[str, SiteWorker], Path], None]


def read_arms(run_directory: Path) -> list[Arm]:
    """The comparators that a run has, in order of file name."""
    return [_ARM.validate_json(path.read_bytes()) for path in sorted((run_directory / FOLDER).glob("*.json"))]


@dataclass(frozen=True)
class Wanted:
    """A comparator still to be made."""

    kind: ArmKind
    site: str | None = None

    @property
    def name(self) -> str:
        """Of its files in the run directory."""
        return self.kind if self.site is None else f"{self.kind}-{self.site}"

    @property
    def label(self) -> str:
        """For people."""
        return _LABELS[self.kind].format(site=self.site)


_LABELS: dict[ArmKind, str] = {
    "central": "all patients in one place",
    "local": "{site} alone",
    "logistic": "logistic regression",
    "clinical_only": "clinical variables only",
    "image_only": "images only",
    "fine_tuned": "trained on at {site}",
}
ARMS: tuple[ArmKind, ...] = get_args(ArmKind)
DEMO_ARMS: tuple[ArmKind, ...] = ("central", "local", "logistic", "clinical_only")  # the others take as long as the study
FEDERATED_ARMS: frozenset[ArmKind] = frozenset({"clinical_only", "image_only"})
EXPLAINED: frozenset[ArmKind] = frozenset({"local", "central", "logistic"})
AT_A_SITE: frozenset[ArmKind] = frozenset({"local", "fine_tuned"})
FINE_TUNING = 0.2  # of the study's rounds are trained on at a site


def missing_arms(record: RunRecord, run_directory: Path, kinds: Collection[ArmKind] = ARMS) -> list[Wanted]:
    """Comparators of ``kinds`` that suit the study and that the run does not have yet."""
    trained = [site for site, described in record.descriptions.items() if described.parts["train"].patients]
    wanted: list[Wanted] = []
    for kind in _LABELS:
        if kind in kinds and _suits(kind, record.protocol):
            wanted += [Wanted(kind, site) for site in trained] if kind in AT_A_SITE else [Wanted(kind)]
    return [arm for arm in wanted if not (run_directory / FOLDER / f"{arm.name}.json").exists()]


def _suits(kind: ArmKind, protocol: StudyProtocol) -> bool:
    if kind == "logistic":
        return bool(protocol.variables) and protocol.network.kind != "logistic"
    if kind in FEDERATED_ARMS:
        return protocol.network.kind in {"multimodal", "late_fusion"}
    # Layers that stay at the sites are personal already; and the center does not have them to train on.
    return kind != "fine_tuned" or not protocol.federation.personal


def make_arm(
    wanted: Wanted,
    *,
    record: RunRecord,
    run_directory: Path,
    workers: Mapping[str, SiteWorker],
    pooled: SiteWorker,
    conduct: Conduct,
) -> Arm:
    """Train one comparator, score it on every site's test patients, and keep the result. An interrupted one resumes."""
    folder, run = run_directory / FOLDER / wanted.name, f"{record.run}-{wanted.name}"
    if wanted.kind == "logistic":
        protocol, weights, normalization = fit_logistic(record, pooled)
        trained = Trained(protocol, weights, normalization, model=0)
    elif wanted.site is not None:
        protocol = alone(record.protocol, [record.descriptions[wanted.site]])
        start = None
        if wanted.kind == "fine_tuned":
            protocol, start = _trained_on(protocol), Start(_best_model(run_directory), record.normalization)
        trained = _train({wanted.site: workers[wanted.site]}, protocol, record, folder, conduct, run=run, start=start)
    elif wanted.kind == "central":
        protocol = alone(record.protocol, list(record.descriptions.values()))
        trained = _train({pooled.name: pooled}, protocol, record, folder, conduct, run=run)
    else:
        network = record.protocol.network.model_copy(update={"kind": wanted.kind})
        protocol = record.protocol.model_copy(update={"network": network})
        trained = _train({site: workers[site] for site in record.enrolled}, protocol, record, folder, conduct, run=run)
    # A federated arm was scored by its own study, with the layers that a site may have kept to itself.
    replies = (
        _evaluations(folder)
        if wanted.kind in FEDERATED_ARMS
        else {name: _score(worker, trained, run=run, seed=record.seed) for name, worker in workers.items()}
    )
    test = {name: reply.parts["test"] for name, reply in replies.items() if "test" in reply.parts}
    explained = _explanations(wanted, trained, record, workers, run=run)
    arm = Arm(kind=wanted.kind, site=wanted.site, test=test, explanations=explained, run=run, model=trained.model)
    (run_directory / FOLDER).mkdir(exist_ok=True)
    write_durably(run_directory / FOLDER / f"{wanted.name}.json", _ARM.dump_json(arm))
    return arm


def alone(protocol: StudyProtocol, described: list[DescribeReply]) -> StudyProtocol:
    """``protocol`` for training at one place: plain rule, plain average, everything shared, own normalisation.

    Nothing leaves that place, so no noise is added and no budget of a site is charged.
    Where a protocol counts steps, the one place takes as many as the ``described`` sites would have taken together. The
    last round is taken where the place has too few tuning patients to choose by.
    """
    patients = sum(d.parts["tune"].patients for d in described)
    positives = sum(d.parts["tune"].positives or 0 for d in described)
    choosable = 0 < positives < patients
    steps = protocol.training.steps
    return protocol.model_copy(
        update={
            "explanation": None,
            "privacy": Privacy(trainable=protocol.privacy.trainable),
            "training": protocol.training.model_copy(update={"steps": steps * len(described) if steps else None}),
            "federation": protocol.federation.model_copy(
                update={
                    "client_rule": ClientRule(),
                    "aggregation": AggregationRule(),
                    "server_optimizer": ServerOptimizer(),
                    "personal": (),
                    "normalization": "federated",
                    "quorum": 1.0,
                }
            ),
            "evaluation": protocol.evaluation
            if choosable
            else protocol.evaluation.model_copy(update={"selection": "last", "patience": None}),
        }
    )


def fit_logistic(record: RunRecord, pooled: SiteWorker) -> tuple[StudyProtocol, Vector, Normalization]:
    """Logistic regression (scikit-learn, L2 with C = 1) on the tabular variables of all training patients."""
    from sklearn.linear_model import LogisticRegression

    network_settings = record.protocol.network.model_copy(update={"kind": "logistic", "pretrained": None})
    settings = {"network": network_settings, "privacy": Privacy()}
    protocol = alone(record.protocol, list(record.descriptions.values())).model_copy(update=settings)
    bench = pooled.bench(record.protocol, seed=record.seed)
    index = bench.parts["train"]
    normalization = pooled_normalization(record.descriptions.values(), protocol)
    network = build_network(protocol, normalization=normalization, seed=record.seed)
    assert isinstance(network, LogisticNetwork)
    with torch.no_grad():
        features = network.features(bench.tensors.to(torch.device("cpu")).batch(index)).double().numpy()
    model = LogisticRegression(C=1.0, max_iter=1000).fit(features, bench.labels(index))
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(model.coef_))
        network.head.bias.copy_(torch.from_numpy(model.intercept_))
    return protocol, ParameterSpec.of(network).to_vector(network), normalization


@dataclass(frozen=True)
class Trained:
    """A model as a study ended with it: ``weights`` ``[D]`` after round ``model``."""

    protocol: StudyProtocol
    weights: Vector
    normalization: Normalization | None
    model: int


def _trained_on(protocol: StudyProtocol) -> StudyProtocol:
    """``protocol`` for training on at a site, which takes fewer rounds than training anew."""
    rounds = max(1, round(FINE_TUNING * protocol.federation.rounds))
    return protocol.model_copy(update={"federation": protocol.federation.model_copy(update={"rounds": rounds})})


def _best_model(directory: Path) -> Vector:
    with Journal(directory) as journal:
        best = journal.record().best_round
        checkpoint = journal.load_checkpoint(best)
    if checkpoint is None:
        raise StudyError(f"the checkpoint of round {best} in {directory} is damaged: delete that folder and run again")
    return checkpoint["model"]


def _evaluations(directory: Path) -> Mapping[str, EvaluateReply]:
    with Journal(directory) as journal:
        return journal.record().evaluations


def _train(
    workers: Mapping[str, SiteWorker],
    protocol: StudyProtocol,
    record: RunRecord,
    directory: Path,
    conduct: Conduct,
    *,
    run: str,
    start: Start | None = None,
) -> Trained:
    if not (directory / FILE).exists():
        Journal.create(
            directory,
            protocol,
            run=run,
            engine="in-process",
            seed=record.seed,
            enrolled=tuple(workers),
            versions=record.versions,
            start=start,
        ).close()
    conduct(workers, directory)
    with Journal(directory) as journal:
        done = journal.record()
    return Trained(protocol, _best_model(directory), done.normalization, model=done.best_round)


def _explanations(
    wanted: Wanted, trained: Trained, record: RunRecord, workers: Mapping[str, SiteWorker], *, run: str
) -> dict[str, ExplanationSummary]:
    """Of the comparators that the federated model is told beside; by site whose patients they were explained on."""
    if not record.explanations or wanted.kind not in EXPLAINED:
        return {}
    where = {wanted.site: workers[wanted.site]} if wanted.site is not None else workers
    protocol = trained.protocol.model_copy(update={"explanation": record.protocol.explanation})
    found = {
        name: _explain(worker, protocol, trained.weights, trained.normalization, run=run, seed=record.seed)
        for name, worker in where.items()
    }
    return {name: summary for name, summary in found.items() if summary is not None}


def _explain(
    worker: SiteWorker,
    protocol: StudyProtocol,
    weights: Vector,
    normalization: Normalization | None,
    *,
    run: str,
    seed: int,
) -> ExplanationSummary | None:
    """Shares and contributions of a comparator on a site's patients, None where the site cannot tell; drawn by the run's own
    seed, so that they are the patients on whom the federated model was explained."""
    request = ExplainRequest(
        _task(worker, protocol, "comparator explained", run=run, round_=0, seed=seed),
        layout=_layout(protocol, normalization, seed=seed),
        normalization=normalization,
        basis=0,
        brief=True,
    )
    reply = messages.decode(worker.handle(messages.encode(Message(request, {"weights": weights})))).record
    return reply.summary if isinstance(reply, ExplainReply) else None


def _task(worker: SiteWorker, protocol: StudyProtocol, purpose: str, *, run: str, round_: int, seed: int) -> Task:
    worker.approve(protocol, by="comparators of a simulation")
    attempt = messages.attempt_token(run, worker.name, round_, 1, purpose)
    return Task(run, worker.name, round=round_, attempt=attempt, protocol_json=protocol.canonical_json, seed=seed)


def _layout(protocol: StudyProtocol, normalization: Normalization | None, *, seed: int) -> str:
    network = build_network(protocol, normalization=normalization, seed=seed)
    return ParameterSpec.of(network, personal=protocol.federation.personal).sha256


def _score(worker: SiteWorker, trained: Trained, *, run: str, seed: int) -> EvaluateReply:
    protocol, normalization = trained.protocol, trained.normalization
    request = EvaluateRequest(
        _task(worker, protocol, "comparator", run=run, round_=trained.model, seed=seed),
        layout=_layout(protocol, normalization, seed=seed),
        normalization=normalization,
        basis=0,
        parts=("test",),
    )
    reply = messages.decode(worker.handle(messages.encode(Message(request, {"weights": trained.weights})))).record
    if isinstance(reply, EvaluateReply):
        return reply
    code = getattr(reply, "code", FailureCode.INTERNAL)
    raise StudyError(f"site {worker.name} could not score a comparator: {code}")

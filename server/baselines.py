"""Comparators, in simulation only: each site alone, all patients in one place, and logistic regression.

Local and central training are studies of their own with one site, run by the same recipe and scored by the same workers,
so that a difference between arms is a difference of training and of nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import TypeAdapter

from server.collecting import pooled_normalization
from server.journal import FILE, Journal
from server.records import Arm, RunRecord
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

    kind: Literal["local", "central", "logistic"]
    site: str | None = None

    @property
    def name(self) -> str:
        """Of its files in the run directory."""
        return self.kind if self.site is None else f"{self.kind}-{self.site}"

    @property
    def label(self) -> str:
        """For people."""
        return {"local": f"{self.site} alone", "central": "all patients in one place"}.get(self.kind, "logistic regression")


def missing_arms(record: RunRecord, run_directory: Path) -> list[Wanted]:
    """Comparators that the run does not have yet."""
    trained = [site for site, described in record.descriptions.items() if described.parts["train"].patients]
    wanted = [Wanted("central"), *(Wanted("local", site) for site in trained)]
    if record.protocol.variables and record.protocol.network.kind != "logistic":
        wanted.append(Wanted("logistic"))
    return [arm for arm in wanted if not (run_directory / FOLDER / f"{arm.name}.json").exists()]


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
    normalization: Normalization | None
    seed = record.seed
    if wanted.kind == "logistic":
        protocol, weights, normalization = fit_logistic(record, pooled)
    else:
        trainer = pooled if wanted.site is None else workers[wanted.site]
        described = list(record.descriptions.values()) if wanted.site is None else [record.descriptions[wanted.site]]
        protocol = alone(record.protocol, described)
        weights, normalization = _train_alone(trainer, protocol, record, run_directory / FOLDER / wanted.name, conduct)
    run = f"{record.run}-{wanted.name}"
    test = {
        name: reply.parts["test"]
        for name, worker in workers.items()
        if "test"
        in (reply := _score(worker, protocol, weights, normalization, run=f"{record.run}-{wanted.name}", seed=seed)).parts
    }
    where = {wanted.site: workers[wanted.site]} if wanted.site is not None else workers
    explained = protocol.model_copy(update={"explanation": record.protocol.explanation})
    explanations = (
        {name: _explain(worker, explained, weights, normalization, run=run, seed=record.seed) for name, worker in where.items()}
        if record.explanations
        else {}
    )
    known = {name: summary for name, summary in explanations.items() if summary is not None}
    arm = Arm(kind=wanted.kind, site=wanted.site, test=test, explanations=known)
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


def _train_alone(
    trainer: SiteWorker, protocol: StudyProtocol, record: RunRecord, directory: Path, conduct: Conduct
) -> tuple[Vector, Normalization | None]:
    if not (directory / FILE).exists():
        Journal.create(
            directory,
            protocol,
            run=f"{record.run}-{directory.name}",
            engine="in-process",
            seed=record.seed,
            enrolled=(trainer.name,),
            versions=record.versions,
        ).close()
    conduct({trainer.name: trainer}, directory)
    with Journal(directory) as journal:
        done = journal.record()
        checkpoint = journal.load_checkpoint(done.best_round)
    if checkpoint is None:
        raise StudyError(
            f"the checkpoint of round {done.best_round} in {directory} is damaged: delete that folder and run again"
        )
    return checkpoint["model"], done.normalization


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
        _task(worker, protocol, "comparator explained", run=run, seed=seed),
        layout=_layout(protocol, normalization, seed=seed),
        normalization=normalization,
        basis=0,
        brief=True,
    )
    reply = messages.decode(worker.handle(messages.encode(Message(request, {"weights": weights})))).record
    return reply.summary if isinstance(reply, ExplainReply) else None


def _task(worker: SiteWorker, protocol: StudyProtocol, purpose: str, *, run: str, seed: int) -> Task:
    worker.approve(protocol, by="comparators of a simulation")
    attempt = messages.attempt_token(run, worker.name, 0, 1, purpose)
    return Task(run, worker.name, round=0, attempt=attempt, protocol_json=protocol.canonical_json, seed=seed)


def _layout(protocol: StudyProtocol, normalization: Normalization | None, *, seed: int) -> str:
    network = build_network(protocol, normalization=normalization, seed=seed)
    return ParameterSpec.of(network, personal=protocol.federation.personal).sha256


def _score(
    worker: SiteWorker,
    protocol: StudyProtocol,
    weights: Vector,
    normalization: Normalization | None,
    *,
    run: str,
    seed: int,
) -> EvaluateReply:
    request = EvaluateRequest(
        _task(worker, protocol, "comparator", run=run, seed=seed),
        layout=_layout(protocol, normalization, seed=seed),
        normalization=normalization,
        basis=0,
        parts=("test",),
    )
    reply = messages.decode(worker.handle(messages.encode(Message(request, {"weights": weights})))).record
    if isinstance(reply, EvaluateReply):
        return reply
    code = getattr(reply, "code", FailureCode.INTERNAL)
    raise StudyError(f"site {worker.name} could not score a comparator: {code}")

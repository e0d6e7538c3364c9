"""One round with differential privacy: granted by the site's ledger, charged before its result may leave, and never drawn
twice for one request."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from time import perf_counter

from pydantic import TypeAdapter

from client.governance.budget import Ledger
from client.governance.outbox import Outbox
from client.state import SiteState
from client.tasks.train import Trained, one_round, remember
from client.tasks.workbench import Workbench
from client.training.loop import LocalTraining, steps_per_round
from client.training.private import Mechanism, sampling_rate
from shared_model.crashpoints import crashpoint
from shared_model.disclosure import Suppression, Why
from shared_model.errors import ConfigurationError, FailureCode, Fault, RefusedError
from shared_model.messages import AnyRecord, Message, TrainReply, TrainRequest, Vector, encode
from shared_model.privacy_spent import PrivacySpent
from shared_model.summaries import Performance, Record

_WITHHELD = Suppression("training loss", Why.PRIVATE)
_SENT, _KEPT = "sent.", "kept."


@dataclass(frozen=True)
class PrivateRound:
    """A private round's result, new or given out once more, and what it cost."""

    trained: Trained
    spent: PrivacySpent
    seconds: float


@dataclass(frozen=True)
class _Told(Record):
    """What the outbox keeps of a result besides its vectors."""

    patients: int
    steps: int
    rate_sum: float
    tune: Performance | None
    spent: PrivacySpent
    seconds: float


_TOLD: TypeAdapter[_Told] = TypeAdapter(_Told)


def train_within_budget(
    bench: Workbench,
    request: TrainRequest,
    vectors: Mapping[str, Vector],
    *,
    state: SiteState,
    ledger: Ledger,
    outbox: Outbox,
    patients: Collection[str],
    started: float,
) -> PrivateRound:
    """Do one private round as ``request`` asks, or give out the one that was done for it before.

    ``patients`` names the site's patients to its ledger, ``outbox`` is the run's, ``started`` when the request came.

    Raises:
        RefusedError: ``BUDGET_EXCEEDED``, or as ``train``. A round that fails after it has begun is charged.
        ConfigurationError: the site's delta does not suit so many patients, or its ledger is damaged.
    """
    _sensible(ledger.policy.delta, len(bench.parts["train"]))
    task, asked = request.task, _identity(request, vectors)
    promised = ledger.promised(run=task.run, round_=task.round, request=asked)
    done = outbox.get(task.round, sha256=promised) if promised else None
    if done is not None:
        found = _unpacked(*done)
        remember(found.trained, request, state)
        return found
    mechanism = _mechanism(bench)
    noise = ledger.noise(bench.protocol, run=task.run, planned=mechanism, patients=patients)
    mechanism = replace(mechanism, noise_multiplier=noise)
    ledger.require(bench.protocol, mechanism, run=task.run, patients=patients)

    def charge(reply: str | None) -> None:
        ledger.charge(bench.protocol, mechanism, run=task.run, round_=task.round, patients=patients, request=asked, reply=reply)

    try:
        trained = one_round(bench, request, vectors, state=state, noise=noise)
    except RefusedError as error:
        if error.code is FailureCode.TRAINING_DIVERGED:  # all others come before the first draw
            charge(None)  # that it diverged is an answer, too
        raise
    except Exception:
        charge(None)
        raise
    crashpoint("round.noise_drawn")
    spent = ledger.statement(bench.protocol, mechanism, run=task.run, patients=patients)
    private = PrivateRound(trained, spent, perf_counter() - started)
    kept, record = _packed(private)
    charge(outbox.put(task.round, kept, record=record))
    remember(trained, request, state)
    crashpoint("round.remembered")
    outbox.drop_before(task.round)
    return private


def with_privacy(answer: Message[AnyRecord], private: PrivateRound) -> Message[AnyRecord]:
    """``answer``, a training reply, with what the round has cost; a round given out again says the same as the first time."""
    assert isinstance(answer.record, TrainReply)
    suppressed = (*answer.record.suppressed, _WITHHELD)
    record = replace(answer.record, seconds=private.seconds, privacy=private.spent, suppressed=suppressed)
    return replace(answer, record=record)


def _mechanism(bench: Workbench) -> Mechanism:
    """One round as this site would do it, without noise yet."""
    training, patients = bench.protocol.training, len(bench.parts["train"])
    if not patients:
        raise RefusedError(FailureCode.TOO_FEW_PATIENTS, "no training patients")
    return Mechanism(0.0, sampling_rate(training, patients=patients), steps_per_round(training, patients=patients))


def _sensible(delta: float, patients: int) -> None:
    """A delta of 1 / patients would allow to publish one of them."""
    if delta * patients >= 1.0:
        expected = f"below 1 / {patients}, the training patients"
        raise ConfigurationError(
            [Fault("site.toml", "policy.delta", f"{delta:g}", expected, "choose a smaller one, say a tenth of that")]
        )


def _identity(request: TrainRequest, vectors: Mapping[str, Vector]) -> str:
    """SHA-256 of what is asked, whichever sending of the request it is, and under whatever masks the answer goes."""
    anonymous = replace(request, task=replace(request.task, attempt="", heads=()), masking=None)
    envelope = encode(Message(anonymous, vectors))
    return hashlib.sha256(envelope.header + b"\0" + envelope.payload).hexdigest()


def _packed(private: PrivateRound) -> tuple[dict[str, Vector], str]:
    trained = private.trained
    vectors = {f"{_SENT}{name}": vector for name, vector in trained.vectors.items()}
    vectors |= {f"{_KEPT}{name}": vector for name, vector in trained.remembered.items()}
    local = trained.local
    told = _Told(trained.patients, local.steps, local.rate_sum, trained.tune, private.spent, private.seconds)
    return vectors, _TOLD.dump_json(told).decode()


def _unpacked(vectors: Mapping[str, Vector], record: str) -> PrivateRound:
    told = _TOLD.validate_json(record)
    trained = Trained(
        patients=told.patients,
        local=LocalTraining(steps=told.steps, loss=None, rate_sum=told.rate_sum),
        tune=told.tune,
        vectors={name.removeprefix(_SENT): v for name, v in vectors.items() if name.startswith(_SENT)},
        remembered={name.removeprefix(_KEPT): v for name, v in vectors.items() if name.startswith(_KEPT)},
    )
    return PrivateRound(trained, told.spent, told.seconds)

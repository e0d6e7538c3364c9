"""A center that lies: poisoned models, replays, protocols of its own, messages made to break the reader."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from client.worker import Worker
from shared_model import messages
from shared_model.errors import FailureCode, MessageError
from shared_model.messages import DescribeRequest, Envelope, EvaluateRequest, Failure, Message, TrainRequest
from tests.attacks.cohorts import SHIPPED, all_training, ask, plain_scale, site, start_model, tabular, task
from tests.unit.test_policy import Hospital
from tests.unit.test_study import protocol

pytestmark = pytest.mark.attacks
STUDY = protocol(training={"epochs": 2})
SPEC, WEIGHTS = start_model(STUDY)


@pytest.fixture
def north(tmp_path: Path) -> Worker:
    return site(tmp_path, all_training(tabular(patients=40, variables=2)), policy=SHIPPED)


def refused(worker: Worker, weights: np.ndarray, *, layout: str = SPEC.sha256) -> FailureCode | None:
    record = ask(worker, TrainRequest(task(STUDY), layout, plain_scale(STUDY), basis=0), weights=weights).record
    return record.code if isinstance(record, Failure) else None


POISONED = {
    "not a number": WEIGHTS * np.float32(np.nan),
    "one infinity": np.where(np.arange(WEIGHTS.size) == 1, np.float32(np.inf), WEIGHTS),
    "absurd norm": WEIGHTS + np.float32(1e5),
    "of another length": np.zeros(WEIGHTS.size + 1, np.float32),
    "empty": np.zeros(0, np.float32),
}


@pytest.mark.parametrize("poison", POISONED)
def test_a_poisoned_model_is_not_trained_on(north: Worker, poison: str) -> None:
    assert refused(north, POISONED[poison]) is FailureCode.MODEL_REFUSED
    assert refused(site(north._state / "fresh", north.cohort(STUDY)), WEIGHTS) is None, "an honest one is"


def test_a_network_of_another_architecture_is_not_trained(north: Worker) -> None:
    assert refused(north, WEIGHTS, layout="0" * 64) is FailureCode.MODEL_REFUSED


def test_a_protocol_that_nobody_approved_gets_nothing(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    hospital.approvals.approve(STUDY, policy=hospital.policy, by="Dr. Roe")
    altered = [
        STUDY.model_copy(update={"training": STUDY.training.model_copy(update={"epochs": 3})}),
        STUDY.model_copy(update={"federation": STUDY.federation.model_copy(update={"rounds": 999})}),
        STUDY.model_copy(update={"evaluation": STUDY.evaluation.model_copy(update={"histogram_bins": 2000})}),
    ]
    for lie in altered:
        assert hospital.describe(protocol_json=lie.canonical_json, attempt=lie.sha256[:8]) is FailureCode.NOT_APPROVED
    assert hospital.describe(protocol_json=STUDY.canonical_json) is None


def test_a_request_that_was_listened_to_cannot_be_used_again_for_another_model(north: Worker) -> None:
    assert refused(north, WEIGHTS) is None
    assert refused(north, WEIGHTS + np.float32(0.5)) is FailureCode.REPLAYED_REQUEST


def test_training_patients_are_not_scored(north: Worker) -> None:
    request = EvaluateRequest(task(STUDY), SPEC.sha256, plain_scale(STUDY), basis=0, parts=("train",))
    record = ask(north, request, weights=WEIGHTS).record
    assert isinstance(record, Failure)
    assert record.code is FailureCode.TASK_NOT_ALLOWED


# Bytes

HEADER = json.loads(messages.encode(Message(DescribeRequest(task(STUDY)))).header)


def header(**changes: object) -> bytes:
    return json.dumps(HEADER | changes).encode()


HOSTILE = {
    "nothing": Envelope(b""),
    "pickle": Envelope(b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."),
    "npy that claims 10^12 numbers": Envelope(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'shape': (1000000000000,)}"),
    "safetensors that claims 2^60 bytes": Envelope(struct.pack("<Q", 2**60) + b"{}"),
    "lengths beyond the payload": Envelope(header(vectors=[["weights", 10**12]]), b"\0" * 8),
    "negative length": Envelope(header(vectors=[["weights", -2]]), b"\0" * 8),
    "a vector named twice": Envelope(header(vectors=[["weights", 1], ["weights", 1]]), b"\0" * 8),
    "a vector that it may not carry": Envelope(header(vectors=[["weights", 2]]), b"\0" * 8),
    "deep nesting": Envelope(b"[" * 200_000 + b"]" * 200_000),
    "a key of its own": Envelope(header(record=HEADER["record"] | {"note": "run this"})),
    "no task": Envelope(header(record={"kind": "describe"})),
    "infinite seed": Envelope(json.dumps(HEADER).replace('"seed": 7', '"seed": Infinity').encode()),
    "a path as run": Envelope(header(record=HEADER["record"] | {"task": HEADER["record"]["task"] | {"run": "../../etc"}})),
    "header over the limit": Envelope(b" " * (messages.HEADER_LIMIT + 1)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_bytes_get_a_neutral_code_and_cost_nothing(north: Worker, kind: str) -> None:
    reply = messages.decode(north.handle(HOSTILE[kind])).record
    assert isinstance(reply, Failure)
    assert reply.code is FailureCode.PROTOCOL_MISMATCH


def test_a_message_over_the_limit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "PAYLOAD_LIMIT", 7)
    with pytest.raises(MessageError, match="over the limit"):
        messages.decode(Envelope(header(), b"\0" * 8))


def test_rounds_without_end_are_refused(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    hospital.approvals.approve(STUDY, policy=hospital.policy, by="Dr. Roe")
    stated = {"protocol_json": STUDY.canonical_json}
    answers = [hospital.describe(round=k, attempt=str(k), **stated) for k in range(STUDY.federation.rounds + 3)]
    assert answers[-1] is FailureCode.TOO_MANY_ROUNDS
    assert answers[: STUDY.federation.rounds + 1] == [None] * (STUDY.federation.rounds + 1)

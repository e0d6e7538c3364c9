"""The worker's boundary: whatever the bytes of a request are, a typed reply without a text of the site's own."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from client.state import SiteState
from client.worker import Worker
from shared_model import messages
from shared_model.errors import CohortError, FailureCode, Fault
from shared_model.messages import (
    DescribeReply,
    DescribeRequest,
    Envelope,
    EvaluateRequest,
    Failure,
    Message,
    Task,
    TrainReply,
    TrainRequest,
)
from shared_model.network import build_network
from shared_model.parameters import ParameterSpec
from tests.sites import worker
from tests.unit.test_study import protocol

PROTOCOL = protocol(network={"kind": "clinical_only", "width": 8, "heads": 2}, federation={"personal": ["head"]})
SPEC = ParameterSpec.of(build_network(PROTOCOL, normalization=None, seed=7), personal=("head",))
WEIGHTS = SPEC.to_vector(build_network(PROTOCOL, normalization=None, seed=7))


def task(**changes: object) -> Task:
    stated = {"run": "r", "site": "north", "round": 1, "attempt": "a", "protocol_json": PROTOCOL.canonical_json, "seed": 7}
    return Task(**(stated | changes))  # type: ignore[arg-type]


def answer(site: Worker, record: object, **vectors: np.ndarray) -> Message[messages.AnyRecord]:
    return messages.decode(site.handle(messages.encode(Message(record, vectors))))  # type: ignore[arg-type]


def train(**changes: object) -> TrainRequest:
    return TrainRequest(task(**changes), SPEC.sha256, None, basis=0)


@pytest.fixture
def north(tmp_path: Path) -> Worker:
    return worker("north", tmp_path)


@pytest.mark.parametrize(
    ("record", "vectors", "code"),
    [
        (train(site="south"), {"weights": WEIGHTS}, FailureCode.PROTOCOL_MISMATCH),
        (train(protocol_json="{}"), {"weights": WEIGHTS}, FailureCode.PROTOCOL_MISMATCH),
        (train(protocol_json="import os"), {"weights": WEIGHTS}, FailureCode.PROTOCOL_MISMATCH),
        (train(run="../../etc"), {"weights": WEIGHTS}, FailureCode.PROTOCOL_MISMATCH),
        (train(), {}, FailureCode.MODEL_REFUSED),
        (TrainRequest(task(), "0" * 64, None, basis=0), {"weights": WEIGHTS}, FailureCode.MODEL_REFUSED),
        (train(), {"weights": WEIGHTS[:-1]}, FailureCode.MODEL_REFUSED),
        (train(), {"weights": WEIGHTS * np.float32(np.nan)}, FailureCode.MODEL_REFUSED),
        (train(), {"weights": WEIGHTS * np.float32(1e30)}, FailureCode.MODEL_REFUSED),
        (Failure("x", "y", FailureCode.INTERNAL, 0.0), {}, FailureCode.PROTOCOL_MISMATCH),
    ],
)
def test_a_request_that_must_not_be_served_gets_a_neutral_code(
    north: Worker, record: object, vectors: dict[str, np.ndarray], code: FailureCode
) -> None:
    reply = answer(north, record, **vectors).record
    assert isinstance(reply, Failure)
    assert reply.code is code


@pytest.mark.parametrize("bytes_", [b"", b"\x80\x04.", b"{}", b"[" * 10_000])
def test_garbage_gets_a_neutral_code(north: Worker, bytes_: bytes) -> None:
    reply = messages.decode(north.handle(Envelope(bytes_, bytes_))).record
    assert isinstance(reply, Failure)
    assert reply.code is FailureCode.PROTOCOL_MISMATCH


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CohortError([Fault("/data/patients.csv", "row 17", "Jane Doe", "a number", "mend it")]), FailureCode.COHORT_UNUSABLE),
        (RuntimeError("patient Jane Doe is odd"), FailureCode.INTERNAL),
        (MemoryError("Jane Doe"), FailureCode.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("Jane Doe"), FailureCode.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), FailureCode.OUT_OF_MEMORY),
    ],
)
def test_no_text_of_an_error_leaves_the_site(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception, code: FailureCode
) -> None:
    def fail(_: object) -> None:
        raise error

    site = worker("north", tmp_path)
    site._load = fail  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        envelope = site.handle(messages.encode(Message(DescribeRequest(task()))))
    assert b"Jane" not in envelope.header + envelope.payload
    assert b"/data" not in envelope.header
    reply = messages.decode(envelope).record
    assert isinstance(reply, Failure)
    assert reply.code is code
    cause = "row 17" if isinstance(error, CohortError) else type(error).__name__
    assert cause in caplog.text, "the site's own log tells where to look"
    assert "Jane Doe" not in caplog.text, "a log is read by others"


def test_a_description_holds_counts_and_moments_of_training_patients(north: Worker) -> None:
    reply = answer(north, DescribeRequest(task())).record
    assert isinstance(reply, DescribeReply)
    bench = north.bench(PROTOCOL, seed=7)
    values = bench.tensors.numeric[bench.parts["train"]].double().numpy()
    assert reply.parts["train"].patients == 36
    assert reply.moments["a"].mean == pytest.approx(values[:, 0].mean())
    assert reply.moments["b"].standard_deviation == pytest.approx(values[:, 1].std(ddof=1))
    assert reply.missing == {"a": 0, "b": 0}
    assert reply.modalities == {"clinical": 60}


def test_a_site_trains_from_its_own_state_of_the_round_named(north: Worker) -> None:
    """The same request twice gives the same bytes, whatever was trained in between; another basis does not."""
    first = answer(north, train(), weights=WEIGHTS)
    assert isinstance(first.record, TrainReply)
    later = TrainRequest(task(round=2, attempt="a2"), SPEC.sha256, None, basis=1)
    second = answer(north, later, weights=WEIGHTS).vectors["update"]
    assert answer(north, train(), weights=WEIGHTS).vectors["update"].tobytes() == first.vectors["update"].tobytes()
    assert answer(north, later, weights=WEIGHTS).vectors["update"].tobytes() == second.tobytes()
    from_nothing = TrainRequest(task(round=2, attempt="b"), SPEC.sha256, None, basis=0)
    assert answer(north, from_nothing, weights=WEIGHTS).vectors["update"].tobytes() != second.tobytes()


def test_evaluation_is_of_the_parts_asked_for(north: Worker) -> None:
    answer(north, train(), weights=WEIGHTS)
    reply = answer(north, EvaluateRequest(task(), SPEC.sha256, None, basis=1, parts=("test",)), weights=WEIGHTS).record
    assert reply.kind == "evaluate_reply"
    assert list(reply.parts) == ["test"]
    assert reply.parts["test"].sums.count == 12


def test_state_keeps_only_what_can_be_asked_for_again(tmp_path: Path) -> None:
    state = SiteState(tmp_path / "r")
    for round_ in range(1, 6):
        state.save(round_, {"control": np.full(3, round_, np.float32)}, keep=(round_ - 1, 2))
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == [
        "round-0002.safetensors",
        "round-0004.safetensors",
        "round-0005.safetensors",
    ]
    assert state.load(4)["control"].tolist() == [4.0] * 3
    assert state.load(3) == {}
    (tmp_path / "r" / "round-0005.safetensors").write_bytes(b"torn")
    assert state.load(5) == {}

"""Messages: what is encoded comes back; whatever else arrives is a ``MessageError`` and nothing worse."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_model import messages
from shared_model.errors import FailureCode, MessageError
from shared_model.messages import Envelope, EvaluateRequest, Failure, Message, Task, TrainReply, TrainRequest
from shared_model.summaries import (
    Estimate,
    Normalization,
    Performance,
    ScoreHistogram,
    ScoreSums,
    ThresholdCounts,
)

TASK = Task(run="r", site="north", round=3, attempt="a" * 32, protocol_json="{}", seed=1)
REQUEST = TrainRequest(TASK, "0" * 64, Normalization((1.0,), (2.0,), ((0.25, 0.75),)), basis=2, keep=(1,))
TUNE = Performance(
    ScoreHistogram(2, (0, 1), (1, 2), (1, 0), (0, 2)),
    ScoreSums(3, 2, 1.5, 0.25, 0.125),
    (ThresholdCounts(0.5, 1, 0, 1, 1),),
    auc=Estimate(0.75, None, None, "DeLong"),
)
REPLY = TrainReply("north", "a" * 32, patients=7, steps=3, loss=0.1, tune=TUNE, seconds=0.5)


def encoded(record: TrainRequest | TrainReply | Failure = REPLY, **vectors: np.ndarray) -> Envelope:
    return messages.encode(Message(record, vectors))


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=50), st.floats(allow_nan=False, allow_infinity=False))
def test_round_trip_keeps_every_bit(values: list[float], loss: float) -> None:
    update = np.array(values, np.float32)
    record = TrainReply("north", "a" * 32, patients=7, steps=3, loss=loss, tune=TUNE, seconds=0.5)
    back = messages.decode(encoded(record, update=update))
    assert back.record == record
    assert back.vectors["update"].tobytes() == update.tobytes()


def test_requests_of_one_model_share_its_bytes() -> None:
    requests = {site: EvaluateRequest(TASK, "0" * 64, None, basis=0, parts=("test",)) for site in ("a", "b", "c")}
    envelopes = messages.encode_all(requests, {"weights": np.ones(1000, np.float32)})
    assert len({id(envelope.payload) for envelope in envelopes.values()}) == 1


@pytest.mark.parametrize(
    ("record", "name", "vector"),
    [
        (REPLY, "weights", np.ones(2, np.float32)),
        (REPLY, "update", np.ones(2, np.float64)),
        (REPLY, "update", np.ones((2, 2), np.float32)),
        (Failure("north", "", FailureCode.INTERNAL, 0.0), "update", np.ones(2, np.float32)),
    ],
)
def test_what_a_record_may_not_carry_is_not_sent(record: TrainReply, name: str, vector: np.ndarray) -> None:
    with pytest.raises(MessageError, match="cannot carry"):
        encoded(record, **{name: vector})


def harmed(**changes: object) -> Envelope:
    envelope = encoded(update=np.ones(4, np.float32))
    document = json.loads(envelope.header)
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = document
        for parent in parents:
            target = target[parent]
        target[last] = value
    return Envelope(json.dumps(document).encode(), envelope.payload)


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope(b""),
        Envelope(b"\x80\x04\x95garbage"),
        Envelope(b"[1, 2]"),
        Envelope(b"{}"),
        Envelope(b"[" * 100_000),
        Envelope(b'{"vectors": [], "record": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
        Envelope(b" " * (messages.HEADER_LIMIT + 1)),
        harmed(record__kind="shutdown"),
        harmed(record__patients=-1),
        harmed(record__patients=10**12),
        harmed(record__patients="7"),
        harmed(record__patients=7.5),
        harmed(record__loss=float("nan")),
        harmed(record__loss=float("inf")),
        harmed(record__note="a patient's name"),
        harmed(record__tune__auc__value=None),
        harmed(record__tune__sums__count=True),
        harmed(vectors=[["update", 10**12]]),
        harmed(vectors=[["update", -4]]),
        harmed(vectors=[["update", 2], ["update", 2]]),
        harmed(vectors=[["weights", 4]]),
        harmed(vectors=[["update", 3]]),
        harmed(vectors={"update": 4}),
    ],
)
def test_hostile_bytes_are_a_message_error(envelope: Envelope) -> None:
    with pytest.raises(MessageError):
        messages.decode(envelope)


@given(st.binary(max_size=200), st.binary(max_size=64))
def test_random_bytes_never_raise_anything_else(header: bytes, payload: bytes) -> None:
    with pytest.raises(MessageError):
        messages.decode(Envelope(header, payload))


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_is_decoded_or_refused(place: int, value: int) -> None:
    envelope = encoded(update=np.ones(4, np.float32))
    header = bytearray(envelope.header)
    header[place % len(header)] = value
    with contextlib.suppress(MessageError):
        messages.decode(Envelope(bytes(header), envelope.payload))


def test_attempts_have_marks_of_their_own() -> None:
    marks = {
        messages.attempt_token(run, site, round_, attempt, phase)
        for run in ("r", "s")
        for site in ("a", "b")
        for round_ in (1, 11)
        for attempt in (1, 2)
        for phase in ("train", "evaluate")
    }
    assert len(marks) == 32


# Masked numbers of a secure sum

WORDS = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)


def test_masked_numbers_keep_every_bit() -> None:
    envelope = messages.encode(Message(REPLY, masked=WORDS))
    assert envelope.payload == WORDS.astype("<u8").tobytes()
    back = messages.decode(envelope)
    assert back.masked is not None
    assert back.masked.tobytes() == WORDS.tobytes()
    assert not back.vectors


@pytest.mark.parametrize(
    "message",
    [
        Message(REQUEST, masked=WORDS),
        Message(REPLY, masked=WORDS.astype(np.int64)),
        Message(REPLY, masked=WORDS.reshape(2, 2)),
        Message(REPLY, {"update": np.ones(2, np.float32)}, WORDS),
    ],
)
def test_masked_numbers_go_with_a_reply_alone(message: Message) -> None:
    with pytest.raises(MessageError):
        messages.encode(message)


@pytest.mark.parametrize(
    ("record", "lengths", "payload"),
    [
        (REPLY, [["masked", 4]], bytes(16)),
        (REPLY, [["masked", 2], ["update", 4]], bytes(32)),
        (REPLY, [["update", 4], ["masked", 2]], bytes(32)),
        (REPLY, [["masked", 2], ["masked", 2]], bytes(32)),
        (REPLY, [["masked", -2]], bytes(16)),
        (REQUEST, [["masked", 2]], bytes(16)),
    ],
)
def test_masked_numbers_that_do_not_fit_are_no_message(record: object, lengths: list[object], payload: bytes) -> None:
    document = json.loads(messages.encode(Message(record)).header)  # type: ignore[arg-type]
    with pytest.raises(MessageError):
        messages.decode(Envelope(json.dumps(document | {"vectors": lengths}).encode(), payload))

"""kill -9 of a site at every point between "noise drawn" and "reply sent": what left is charged, and comes again as it was."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from client.governance.budget import Ledger
from client.site_config import Policy
from client.state import lasting
from shared_model import messages
from shared_model.messages import Envelope, Message, Task, TrainReply, TrainRequest
from shared_model.network import build_network
from shared_model.parameters import ParameterSpec
from tests.faults import private_site
from tests.faults.rows import Fault, Told, each
from tests.unit.test_budget import study

pytestmark = pytest.mark.faults

PROTOCOL = study(rounds=3)
# In the order in which a round passes them. Before "budget.charged" nothing is owed, and nothing may have left.
BEFORE_THE_CHARGE = ["round.noise_drawn", "outbox.written", "budget.charging"]
AFTER_THE_CHARGE = ["budget.charged", "round.remembered", "site.answered"]
FAULTS = tuple(
    Fault(
        "privacy",
        f"private site dies: {point}",
        f"kill -9 here, where the private round is {'' if point in AFTER_THE_CHARGE else 'not yet '}charged",
        "the round is charged once; the request that comes again gets one result, the same whenever",
    )
    for point in (*BEFORE_THE_CHARGE, *AFTER_THE_CHARGE)
)


def request(folder: Path, *, attempt: str = "a", round_: int = 1) -> Path:
    spec = ParameterSpec.of(build_network(PROTOCOL, normalization=None, seed=7))
    weights = spec.to_vector(build_network(PROTOCOL, normalization=None, seed=7))
    task = Task(run="r", site="north", round=round_, attempt=attempt, protocol_json=PROTOCOL.canonical_json, seed=7)
    envelope = messages.encode(Message(TrainRequest(task, spec.sha256, None, basis=0), {"weights": weights}))
    folder.mkdir()
    (folder / "header").write_bytes(envelope.header)
    (folder / "payload").write_bytes(envelope.payload)
    return folder


PROCESSES = multiprocessing.get_context("forkserver")  # clean processes that need not import torch each time
PROCESSES.set_forkserver_preload(["tests.faults.private_site"])


def answer(state: Path, asked: Path, reply: Path, *, crash_at: str = "") -> int | None:
    process = PROCESSES.Process(target=private_site.main, args=(state, asked, reply, crash_at))
    process.start()
    process.join(300)
    return process.exitcode


def charged(state: Path) -> int:
    return len(Ledger(lasting(state, "north"), policy=Policy(delta=1e-4)).charges())


def read(reply: Path) -> Message[messages.AnyRecord]:
    header, payload = reply.read_bytes().split(b"\0", 1)
    return messages.decode(Envelope(header, payload))


@each(FAULTS)
def test_a_killed_site_owes_what_it_may_have_told_and_tells_nothing_else(tmp_path: Path, rows: list[Fault], told: Told) -> None:
    point = rows[0].point
    state, asked = tmp_path / "state", request(tmp_path / "request")
    assert answer(state, asked, tmp_path / "lost", crash_at=point) == -9
    assert not (tmp_path / "lost").exists(), "the process died before it could send"
    assert charged(state) == (1 if point in AFTER_THE_CHARGE else 0)
    assert answer(state, asked, tmp_path / "first") == 0
    assert answer(state, asked, tmp_path / "second") == 0
    assert charged(state) == 1, "one round left this site, and one is charged"
    first, second = read(tmp_path / "first"), read(tmp_path / "second")
    assert isinstance(first.record, TrainReply)
    assert isinstance(second.record, TrainReply)
    assert replace(first.record, head=None) == replace(second.record, head=None), "all but where the audit log stands"
    assert first.vectors["update"].tobytes() == second.vectors["update"].tobytes()
    told("nothing was sent before; charged once; the same reply twice")


def test_another_sending_of_the_request_gets_the_same_numbers_and_another_question_is_charged(tmp_path: Path) -> None:
    state = tmp_path / "state"
    replies = {}
    for name, asked in {
        "first": request(tmp_path / "one"),
        "resent": request(tmp_path / "two", attempt="b"),
        "next": request(tmp_path / "three", attempt="c", round_=2),
    }.items():
        assert answer(state, asked, tmp_path / name) == 0
        replies[name] = read(tmp_path / name)
    first, resent, later = (replies[name] for name in ("first", "resent", "next"))
    assert isinstance(first.record, TrainReply)
    assert isinstance(resent.record, TrainReply)
    assert (first.record.attempt, resent.record.attempt) == ("a", "b")
    assert first.vectors["update"].tobytes() == resent.vectors["update"].tobytes()
    assert first.vectors["update"].tobytes() != later.vectors["update"].tobytes()
    assert first.record.loss is None
    assert first.record.privacy is not None
    assert first.record.privacy.unit == "training patient"
    assert charged(state) == 2

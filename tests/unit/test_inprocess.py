"""The real ClientApp behind the in-process Grid, the relay's errors, and the ServerApp around a study."""

import json
import os
import threading
from contextlib import closing

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client import residents
from client.app import app as client_app
from server import app as server_app
from server import simulation
from server.simulation import InProcessGrid
from server.sites import Roster
from shared_model import flower_records, messages
from shared_model.errors import FailureCode, StudyError
from shared_model.flower_records import ASK, WHO, pack, unpack
from shared_model.messages import DescribeRequest, Envelope, Task


class Worker:
    def __init__(self, name, *, log=None, wait=lambda: None):
        self.name = name
        self.log = [] if log is None else log
        self.wait = wait

    def handle(self, envelope):
        self.log.append((self.name, envelope.header, threading.get_ident()))
        self.wait()
        return Envelope(b"re: " + envelope.header, envelope.payload)


class Raising:
    name = "north"

    def handle(self, envelope):
        raise ValueError("patient 12345 has no label")


def request_to(site):
    task = Task(run="run", site=site, round=1, attempt="attempt-1", protocol_json="{}", seed=1)
    return messages.encode(messages.Message(DescribeRequest(task)))


def failure_in(envelope):
    assert b"12345" not in envelope.header
    return messages.decode(envelope).record


def relay(kind, content, node_config, run_config=None, ttl=30.0):
    """Hand one message to the ClientApp as a SuperNode would."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 3
    message = Message(content, 5, kind, ttl=ttl)
    context = Context(run_id=1, node_id=5, node_config=node_config, state=RecordDict(), run_config=run_config or {})
    return client_app(message, context).content


# In process


def test_messages_make_the_round_trip_bit_for_bit():
    payload = os.urandom(5_000_000)
    with closing(InProcessGrid({"north": Worker("north"), "south": Worker("south")})) as grid:
        roster = Roster(grid, poll_s=0.02)
        assert roster.connect(["south", "north"], timeout_s=5.0) == ("south", "north")
        answers = list(roster.ask({"north": Envelope(b"n", payload), "south": Envelope(b"s", payload)}, deadline_s=5.0))
    assert [(answer.site, answer.envelope) for answer in answers] == [
        ("north", Envelope(b"re: n", payload)),
        ("south", Envelope(b"re: s", payload)),
    ]


def test_the_site_is_the_one_the_worker_says_it_is():
    with closing(InProcessGrid({"label": Worker("north")})) as grid:
        roster = Roster(grid, poll_s=0.02)
        roster.connect(["north"], timeout_s=5.0)
        assert roster.present == ("north",)


def test_one_thread_answers_in_the_order_of_sending():
    log = []
    names = ["c", "a", "b"]
    with closing(InProcessGrid({name: Worker(name, log=log) for name in names})) as grid:
        roster = Roster(grid, poll_s=0.02)
        roster.connect(names, timeout_s=5.0)
        for order in (["b", "c", "a"], ["a", "b", "c"]):
            log.clear()
            list(roster.ask({name: Envelope(b"") for name in order}, deadline_s=5.0))
            assert [name for name, _, _ in log] == order
            assert len({thread for _, _, thread in log} - {threading.get_ident()}) == 1


def test_a_worker_that_raises_fails_alone_and_without_its_words():
    with closing(InProcessGrid({"north": Raising(), "south": Worker("south")})) as grid:
        roster = Roster(grid, poll_s=0.02)
        roster.connect(["north", "south"], timeout_s=5.0)
        requests = {"north": request_to("north"), "south": Envelope(b"hello")}
        answers = {answer.site: answer for answer in roster.ask(requests, deadline_s=5.0)}
    failure = failure_in(answers["north"].envelope)
    assert (failure.code, failure.site, failure.attempt) == (FailureCode.INTERNAL, "north", "attempt-1")
    assert answers["south"].envelope.header == b"re: hello"


def test_a_reply_after_the_deadline_is_dropped():
    released = threading.Event()
    slow = Worker("north", wait=released.wait)
    with closing(InProcessGrid({"north": slow})) as grid:
        roster = Roster(grid, poll_s=0.02)
        roster.connect(["north"], timeout_s=5.0)
        [missed] = roster.ask({"north": Envelope(b"first")}, deadline_s=0.05)
        released.set()
        [answer] = roster.ask({"north": Envelope(b"second")}, deadline_s=5.0)
    assert missed.code is FailureCode.DEADLINE
    assert answer.envelope.header == b"re: second"


def test_closing_ends_the_thread_and_drops_what_waits():
    log = []
    released = threading.Event()
    grid = InProcessGrid({"north": Worker("north", log=log, wait=released.wait)})
    roster = Roster(grid, poll_s=0.02)
    roster.connect(["north"], timeout_s=5.0)
    for number in range(3):
        list(roster.ask({"north": Envelope(str(number).encode())}, deadline_s=0.01))
    threading.Timer(0.2, released.set).start()
    grid.close()
    assert not is_serving()
    assert [header for _, header, _ in log] == [b"0"]


def is_serving():
    return any(thread.name == "in-process sites" for thread in threading.enumerate())


def test_two_grids_in_one_process_do_not_mix():
    with closing(InProcessGrid({"a": Worker("a")})) as one, closing(InProcessGrid({"b": Worker("b")})) as other:
        for grid, site in ((one, "a"), (other, "b")):
            roster = Roster(grid, poll_s=0.02)
            roster.connect([site], timeout_s=5.0)
            assert roster.present == (site,)


def test_a_study_runs_on_the_workers_and_its_error_closes_the_grid(monkeypatch, tmp_path):
    seen = []

    def conduct(roster, run_directory):
        seen.append((roster.connect(["north"], timeout_s=5.0), run_directory))
        raise StudyError("no quorum")

    monkeypatch.setattr(simulation, "conduct", conduct)
    with pytest.raises(StudyError, match="no quorum"):
        simulation.run_in_process({"north": Worker("north")}, tmp_path)
    assert seen == [(("north",), tmp_path)]
    assert not is_serving()


# The relay


def test_a_socket_that_does_not_answer_makes_the_site_unreachable_by_name(tmp_path):
    reply = unpack(relay(ASK, pack(request_to("north")), {"worker": str(tmp_path / "nobody")}))
    failure = failure_in(reply)
    assert (failure.code, failure.site, failure.attempt) == (FailureCode.UNREACHABLE, "north", "attempt-1")


def test_a_node_whose_worker_is_not_up_does_not_say_a_name(tmp_path):
    reply = unpack(relay(WHO, RecordDict(), {"worker": str(tmp_path / "nobody")}))
    assert failure_in(reply).code is FailureCode.UNREACHABLE


@pytest.mark.parametrize(
    "content", [RecordDict(), pack(Envelope(b"")), pack(Envelope(b"\xff"))], ids=["none", "empty", "noise"]
)
def test_an_unreadable_request_gets_a_neutral_failure(content):
    residents.install("raising", Raising())
    assert failure_in(unpack(relay(ASK, content, {"resident": "raising"}))).code is FailureCode.INTERNAL
    residents.remove("raising")


def test_a_request_over_the_limit_does_not_reach_the_worker(monkeypatch):
    worker = Worker("north")
    residents.install("limited", worker)
    monkeypatch.setattr(flower_records, "PAYLOAD_LIMIT", 3)
    content = pack(Envelope(b"hello", b"four"))
    assert failure_in(unpack(relay(ASK, content, {"resident": "limited"}))).code is FailureCode.INTERNAL
    assert worker.log == []
    residents.remove("limited")


@pytest.mark.parametrize("node_config", [{}, {"resident": "gone"}, {"partition-id": "x"}, {"partition-id": 7}])
def test_a_node_without_a_worker_says_so_neutrally(node_config):
    reply = unpack(relay(ASK, pack(Envelope(b"")), node_config, {"sites": "/nowhere/12345.json"}))
    assert failure_in(reply).code in {FailureCode.INTERNAL, FailureCode.UNREACHABLE}


def test_what_a_node_configures_wins_over_what_the_center_sends(tmp_path):
    residents.install("own", Worker("own"))
    node_config = {"resident": "own", "partition-id": 0}
    run_config = {"sites": str(tmp_path / "none.json"), "worker": str(tmp_path / "nobody"), "resident": "another"}
    assert unpack(relay(ASK, pack(Envelope(b"hello")), node_config, run_config)).header == b"re: hello"
    residents.remove("own")


def test_the_site_of_a_partition_is_opened_once(monkeypatch, tmp_path):
    opened = []

    def open_site(config_path, *, state, threads):
        opened.append((config_path.name, state, threads))
        return Worker(config_path.stem)

    monkeypatch.setattr("client.worker.open_site", open_site)
    plan = tmp_path / "sites.json"
    plan.write_text(json.dumps({"sites": ["north.toml", "south.toml"], "state": str(tmp_path), "threads": 2}))
    for _ in range(2):
        assert residents.of_partition(1, plan=plan).name == "south"
    assert opened == [("south.toml", tmp_path, 2)]


# The ServerApp


@pytest.mark.parametrize("failure", [None, StudyError("no quorum in round 3"), ValueError("a defect")])
def test_how_a_study_ended_is_written_for_the_one_who_waits(monkeypatch, tmp_path, failure):
    def conduct(roster, run_directory):
        assert isinstance(roster, Roster)
        assert run_directory == tmp_path
        if failure is not None:
            raise failure

    monkeypatch.setattr(server_app, "conduct", conduct)
    monkeypatch.setattr(server_app, "die_with_parent", lambda parent: None)
    outcome = tmp_path / "outcome.json"
    run_config = {"run-directory": str(tmp_path), "outcome": str(outcome), "nodes": ""}
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=run_config)
    if failure is None:
        server_app.app(None, context)
        assert json.loads(outcome.read_text()) == {"error": None, "final": True}
        return
    with pytest.raises(type(failure)):
        server_app.app(None, context)
    error = json.loads(outcome.read_text())["error"]
    assert error == "no quorum in round 3" if isinstance(failure, StudyError) else "ValueError: a defect" in error

"""What join and doctor say of a worker that does not answer, and what a worker says of itself."""

import logging
import socket as sockets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client import serving, worker_check
from client.governance.approval import Approvals
from client.readiness import shortcomings
from client.site_config import Policy
from client.state import lasting
from client.worker_check import EVERY_S, WorkerWatch
from shared_model.errors import StudyError
from shared_model.locking import alone
from shared_model.messages import Envelope
from shared_model.protocol import read_protocol
from tests.tables import write_sites, write_study


class North:
    name = "north"

    def handle(self, envelope: Envelope) -> Envelope:
        return envelope


@contextmanager
def answering(socket: Path) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=serving.serve, args=(North(), socket), kwargs={"stop": stop})
    thread.start()
    try:
        while not socket.is_socket():
            stop.wait(0.01)
        yield
    finally:
        stop.set()
        thread.join(10.0)


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "private" / "worker"


def test_who_answers_passes_and_another_site_does_not(socket: Path) -> None:
    with answering(socket):
        assert worker_check.worker_check(socket, site="north").status == "pass"
        other = worker_check.worker_check(socket, site="south")
    assert other.problems[0].what == "the worker is that of site north, the kit for south"


def test_nobody_there_and_one_that_was_killed(socket: Path) -> None:
    assert worker_check.worker_check(socket, site="north").problems[0].what == "the worker is not running here"
    socket.parent.mkdir()
    with sockets.socket(sockets.AF_UNIX) as left:
        left.bind(str(socket))
    check = worker_check.worker_check(socket, site="north")
    assert check.problems[0].what == "the worker has been killed"
    assert f"consilium-site worker SITE.toml --socket {socket}" in check.problems[0].remedy


def test_the_watch_tells_at_once_at_the_start_and_then_what_changes(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told = [0.0], []
    monkeypatch.setattr(worker_check, "monotonic", lambda: clock[0])
    watch = WorkerWatch(socket, site="north", tell=told.append)

    def look(times: int = 1) -> None:
        for _ in range(times):
            clock[0] += EVERY_S
            watch.look()

    look(3)
    assert len(told) == 1
    assert "the worker is not running here" in told[0]
    with answering(socket):
        look(2)
    assert told[1:] == ["the worker answers"]
    look()
    assert len(told) == 2, "it may just be starting again"
    look()
    assert len(told) == 3


def test_a_worker_says_that_its_data_cannot_be_read_and_that_nothing_is_approved(tmp_path: Path) -> None:
    [config] = write_sites(tmp_path, names=["north"], patients=40)
    state = tmp_path / "state"
    [nothing] = shortcomings(config, state=state)
    assert f"consilium-site approve STUDY.toml --site {config}" in nothing
    protocol = read_protocol(write_study(tmp_path))
    Approvals(lasting(state, "north")).approve(protocol, policy=Policy(), by="a test")
    assert list(shortcomings(config, state=state)) == []
    config.with_suffix(".csv").rename(tmp_path / "away.csv")
    [unreadable] = shortcomings(config, state=state)
    assert "1 to mend at cohort.table" in unreadable
    assert f"consilium-site check {config} tells what" in unreadable


def test_one_worker_at_a_time_has_the_state_of_a_site(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    [config] = write_sites(tmp_path, names=["north"], patients=40)
    folder = lasting(tmp_path / "state", "north")
    folder.mkdir(parents=True)
    with alone(folder / "worker.lock", otherwise=""), pytest.raises(StudyError, match="another worker is at work in"):
        serving.serve_site(config, socket=tmp_path / "s" / "north", state=tmp_path / "state", threads=1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

"""Replies that come twice, out of order, too late, from another time or under another's name.

The proxy cannot forge what TLS carries, so these are made where Flower hands messages over: real sites and the real round
loop, with a Grid between them that does as a bad network, a confused relay or a hostile one would.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.worker import Worker, open_site
from server.journal import Journal
from server.sites import Roster
from server.study import conduct
from shared_model import messages
from shared_model.flower_records import WHO, pack, pack_name, unpack
from shared_model.messages import Envelope, Request, TrainRequest
from shared_model.protocol import read_protocol
from tests.faults.invariants import Hospital, invariants
from tests.faults.rows import Fault, Told, parametrized
from tests.faults.stage import SITES, mark_patients, study_file
from tests.faults.undisturbed import differences
from tests.tables import write_sites

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

ROUNDS, WEST = 3, "west"
OTHERS = tuple(site for site in SITES if site != WEST)


@dataclass
class Grid:
    """Carries messages between the round loop and ``workers``. ``meddle`` sees each reply as (site, request, reply) and gives
    the replies that arrive instead, each with a delay in seconds; ``shuffle`` hands them out in any order."""

    workers: Mapping[str, Worker]
    meddle: Callable[[str, Request, Envelope], Iterable[tuple[float, Envelope]]] = lambda site, request, reply: [(0.0, reply)]
    shuffle: random.Random | None = None
    sent: int = 0
    arrived: list[tuple[float, str, Message]] = field(default_factory=list)

    @property
    def nodes(self) -> dict[int, str]:
        return dict(enumerate(self.workers, 10))

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def push_messages(self, requests: Iterable[Message]) -> list[str]:
        identifiers = []
        for message in requests:
            self.sent += 1
            identifier = f"m{self.sent}"
            message.metadata.__dict__["_message_id"] = identifier
            identifiers.append(identifier)
            site = self.nodes[message.metadata.dst_node_id]
            if message.metadata.message_type == WHO:
                self._arrives(0.0, identifier, pack_name(site), message)
                continue
            envelope = unpack(message.content)
            request = messages.decode(envelope).record
            assert isinstance(request, Request)
            for delay, reply in self.meddle(site, request, self.workers[site].handle(envelope)):
                self._arrives(delay, identifier, pack(reply), message)
        return identifiers

    def _arrives(self, delay: float, identifier: str, content: RecordDict, request: Message) -> None:
        self.arrived.append((time.monotonic() + delay, identifier, Message(content, reply_to=request)))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that are there to ``message_ids``; more than once, if there are several."""
        wanted, now = set(message_ids), time.monotonic()
        ready = [entry for entry in self.arrived if entry[1] in wanted and entry[0] <= now]
        self.arrived = [entry for entry in self.arrived if entry not in ready]
        if self.shuffle is not None:
            self.shuffle.shuffle(ready)
        return [message for _, _, message in ready]


@pytest.fixture(autouse=True)
def identity() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 3


@dataclass
class Scene:
    """A study with three sites in this process."""

    folder: Path
    study: Path
    configs: dict[str, Path]
    out: Path

    def run(self, **grid: object) -> list[tuple[str, ...]]:
        """Conduct the study over a Grid; the sites that counted, by round."""
        protocol = read_protocol(self.study)
        Journal.create(
            self.out, protocol, run="r", engine="in-process", seed=3, enrolled=tuple(self.configs), versions={}
        ).close()
        state = self.folder / "state"
        workers = {site: open_site(config, state=state / site, threads=1) for site, config in self.configs.items()}
        for worker in workers.values():
            worker.approve(protocol, by="a test")
        conduct(Roster(Grid(workers, **grid), poll_s=0.02), self.out)  # type: ignore[arg-type]
        with Journal(self.out) as journal:
            return [tuple(record.sites) for record in journal.rounds()]

    def failures(self) -> list[tuple[str, int, str]]:
        with Journal(self.out) as journal:
            return [(failure.site, failure.round, failure.code.value) for failure in journal.record().failures]

    def violations(self) -> list[str]:
        hospitals = {site: Hospital(config, self.folder / "state" / site) for site, config in self.configs.items()}
        return [*invariants(self.out, hospitals), *differences(self.out, self.configs, self.folder / "again")]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    sites = {path.stem: path for path in write_sites(tmp_path / "tables", names=SITES, patients=60)}
    for path in sites.values():
        mark_patients(path.with_suffix(".csv"))
    return Scene(tmp_path, study_file(tmp_path, rounds=ROUNDS, deadline_s=3), sites, tmp_path / "run")


def trains(request: Request, round_: int) -> bool:
    return isinstance(request, TrainRequest) and request.task.round == round_


DUPLICATE = Fault("replies", "duplicate", "every reply arrives twice", "counts once")


@parametrized((DUPLICATE,))
def test_a_reply_that_comes_twice_counts_once(scene: Scene, fault: Fault, told: Told) -> None:
    assert scene.run(meddle=lambda site, request, reply: [(0.0, reply), (0.0, reply)]) == [SITES] * ROUNDS
    assert scene.failures() == []
    told.holds(scene.violations())
    told("all sites counted once in all rounds; the same bits")


REORDERED = Fault("replies", "reordered", "replies arrive in any order, with any delay", "counts the same, to the last bit")


@parametrized((REORDERED,))
def test_the_order_of_replies_does_not_matter(scene: Scene, fault: Fault, told: Told) -> None:
    dice = random.Random(20261125)
    delayed = scene.run(meddle=lambda site, request, reply: [(dice.uniform(0.0, 0.3), reply)], shuffle=dice)
    assert delayed == [SITES] * ROUNDS
    told.holds(scene.violations())
    told("all sites counted in all rounds; the same bits")


STALE = Fault(
    "replies", "stale", "a relay answers round 2 with the site's reply of round 1", "refused by its attempt token, named"
)


@parametrized((STALE,))
def test_a_reply_of_another_round_is_refused(scene: Scene, fault: Fault, told: Told) -> None:
    kept: dict[str, Envelope] = {}

    def replay(site: str, request: Request, reply: Envelope) -> list[tuple[float, Envelope]]:
        if site == WEST and trains(request, 1):
            kept[site] = reply
        return [(0.0, kept[site] if site == WEST and trains(request, 2) else reply)]

    assert scene.run(meddle=replay) == [SITES, OTHERS, SITES]
    assert scene.failures() == [(WEST, 2, "stale_reply")]
    told.holds(scene.violations())
    told("refused as stale in round 2; the same bits as without it there")


LATE = Fault(
    "replies", "late", "a reply of round 1 arrives after the deadline, in round 2", "counts nowhere; named for round 1"
)


@parametrized((LATE,))
def test_a_reply_after_the_deadline_counts_nowhere(scene: Scene, fault: Fault, told: Told) -> None:
    def tarry(site: str, request: Request, reply: Envelope) -> list[tuple[float, Envelope]]:
        return [(3.2 if site == WEST and trains(request, 1) else 0.0, reply)]

    assert scene.run(meddle=tarry) == [OTHERS, SITES, SITES]
    assert scene.failures() == [(WEST, 1, "deadline")]
    told.holds(scene.violations())
    told("missed round 1, counted from round 2 on; the same bits as without it there")


FORGED = Fault("replies", "another's", "a node answers with the reply of another site", "refused, named; the other counts once")


@parametrized((FORGED,))
def test_a_reply_of_another_site_is_refused(scene: Scene, fault: Fault, told: Told) -> None:
    kept: dict[str, Envelope] = {}

    def steal(site: str, request: Request, reply: Envelope) -> list[tuple[float, Envelope]]:
        if trains(request, 2):
            kept[site] = reply
        return [(0.0, kept[OTHERS[0]] if site == WEST and trains(request, 2) else reply)]

    assert scene.run(meddle=steal) == [SITES, OTHERS, SITES]
    assert scene.failures() == [(WEST, 2, "malformed_reply")]
    told.holds(scene.violations())
    told("refused in round 2, counted in round 3; the same bits as without it there")


LOST = Fault("replies", "lost", "no reply of a site arrives in round 2", "named at the deadline; the round goes on")


@parametrized((LOST,))
def test_a_reply_that_is_lost_is_waited_for_until_the_deadline(scene: Scene, fault: Fault, told: Told) -> None:
    def lose(site: str, request: Request, reply: Envelope) -> list[tuple[float, Envelope]]:
        return [] if site == WEST and trains(request, 2) else [(0.0, reply)]

    assert scene.run(meddle=lose) == [SITES, OTHERS, SITES]
    assert scene.failures() == [(WEST, 2, "deadline")]
    told.holds(scene.violations())
    told("named in round 2, counted in round 3; the same bits as without it there")

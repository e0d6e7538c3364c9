"""A study with real sites and the real round loop in this process, over a Grid that a test can make misbehave."""

import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.worker import Worker, open_site
from server.journal import Journal
from server.sites import Roster
from server.study import conduct
from shared_model import messages
from shared_model.flower_records import WHO, pack, pack_name, unpack
from shared_model.messages import Envelope, Request
from shared_model.protocol import read_protocol
from tests.faults.invariants import Hospital, invariants
from tests.faults.stage import SITES, mark_patients
from tests.faults.undisturbed import differences
from tests.tables import write_sites


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


@dataclass
class Scene:
    """A study with three sites in this process."""

    folder: Path
    study: Path
    configs: dict[str, Path]
    out: Path

    @classmethod
    def of(cls, folder: Path, study: Path) -> "Scene":
        """Three hospitals of 60 patients in ``folder``, nothing run yet."""
        sites = {path.stem: path for path in write_sites(folder / "tables", names=SITES, patients=60)}
        for path in sites.values():
            mark_patients(path.with_suffix(".csv"))
        return cls(folder, study, sites, folder / "run")

    @property
    def hospitals(self) -> dict[str, Hospital]:
        return {site: Hospital(config, self.folder / "state" / site) for site, config in self.configs.items()}

    def run(self, **grid: object) -> list[tuple[str, ...]]:
        """Conduct the study over a Grid; the sites that counted, by round."""
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 3  # without which Flower makes no message
        protocol = read_protocol(self.study)
        Journal.create(
            self.out, protocol, run="r", engine="in-process", seed=3, enrolled=tuple(self.configs), versions={}
        ).close()
        return self.resume(**grid)

    def resume(self, **grid: object) -> list[tuple[str, ...]]:
        """Conduct it from where it stands."""
        protocol = read_protocol(self.study)
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
        return [*invariants(self.out, self.hospitals), *differences(self.out, self.configs, self.folder / "again")]

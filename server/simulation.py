"""All sites in this process: a Grid without ports and processes, in front of the same ClientApp that hospitals run."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Literal

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from client import residents
from client.app import app
from client.residents import Resident
from client.site_config import read_site
from client.synthetic import HOSPITALS, synthesize
from client.worker import Worker, open_site, pooled_worker
from server import engines
from server.journal import Journal
from server.sites import Roster
from server.study import conduct
from shared_model.errors import CohortError, ConfigurationError, Fault
from shared_model.protocol import StudyProtocol

__all__ = ["Worker"]  # for annotations in modules that must not import client

Engine = Literal["in-process", "flower", "ray"]

DEMO_STUDY = Path(str(files("site_configs"))) / "demo" / "study.toml"

SIMULATION = "consilium-center simulate"
POLL_S = 0.05
CLOSE_TIMEOUT_S = 10.0
_FIRST_NODE = 2  # 1 is the SuperLink


class InProcessGrid:
    """Flower's Grid over ``workers`` in this process. One thread answers one message at a time, in the order of sending,
    so that a run on the CPU gives the same bits every time.

    ``close`` ends the thread and drops what was not answered. It does not wait for longer than ``CLOSE_TIMEOUT_S``
    for the message being answered.
    """

    def __init__(self, workers: Mapping[str, Resident]) -> None:
        _take_identity()
        self._nodes = {node: f"{secrets.token_hex(8)}/{site}" for node, site in enumerate(workers, _FIRST_NODE)}
        for key, worker in zip(self._nodes.values(), workers.values(), strict=True):
            residents.install(key, worker)
        self._waiting: SimpleQueue[Message | None] = SimpleQueue()
        self._replies: dict[str, Message] = {}
        self._lock = Lock()
        self._closed = False
        self._thread = Thread(target=self._answer_all, name="in-process sites", daemon=True)
        self._thread.start()

    def get_node_ids(self) -> list[int]:
        """One node a worker, in their order."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue ``messages``; returns the identifier that each of them got."""
        identifiers = []
        for message in messages:
            identifiers.append(_identify(message))
            self._waiting.put(message)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that are ready to the messages named; each is given out once."""
        with self._lock:
            return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]

    def close(self) -> None:
        """End the thread and forget the workers."""
        self._closed = True
        self._waiting.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)
        for key in self._nodes.values():
            residents.remove(key)

    def _answer_all(self) -> None:
        while (message := self._waiting.get()) is not None and not self._closed:
            reply = self._answer(message)
            _identify(reply)
            with self._lock:
                self._replies[message.metadata.message_id] = reply

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        try:
            return app(message, _context(node, {"resident": self._nodes[node]}))
        except Exception as error:
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, type(error).__name__), reply_to=message)


def run_in_process(workers: Mapping[str, Resident], run_directory: Path) -> None:
    """Run or resume the study in ``run_directory`` with ``workers``, by site, in this process."""
    approve(workers, run_directory)
    with closing(InProcessGrid(workers)) as grid:
        conduct(Roster(grid, poll_s=POLL_S), run_directory)


def approve(workers: Mapping[str, Resident], run_directory: Path) -> None:
    """Approve the protocol of the run in ``run_directory`` for the simulated ``workers``, recorded as done by nobody. The
    worker processes of another engine find these approvals in their sites' folders."""
    simulated = [worker for worker in workers.values() if isinstance(worker, Worker)]
    if simulated:
        with Journal(run_directory) as journal:
            protocol = journal.protocol
        for worker in simulated:
            worker.approve(protocol, by=SIMULATION)


def run_engine(
    engine: Engine, run_directory: Path, *, workers: Mapping[str, Worker], sites: Mapping[str, Path], threads: int
) -> None:
    """Run or resume the study in ``run_directory`` on the engine named, which all end with the same weights."""
    approve(workers, run_directory)
    if engine == "in-process":
        run_in_process(workers, run_directory)
    elif engine == "flower":
        engines.run_flower(run_directory, sites, threads=threads)
    else:
        engines.run_ray(run_directory, sites, threads=threads)


def read_sites(paths: Sequence[Path]) -> dict[str, Path]:
    """Site files by the site's name.

    Raises:
        ConfigurationError: with the faults of all files together, two sites of one name among them.
    """
    sites: dict[str, Path] = {}
    faults: list[Fault] = []
    for file in paths:
        try:
            name = read_site(file).site.name
        except ConfigurationError as error:
            faults += error.faults
            continue
        if name in sites:
            found = f'"{name}", as in {sites[name]}'
            faults.append(Fault(str(file), "site.name", found, "a name that no other site has", "rename one of the two"))
        sites[name] = file
    if faults:
        raise ConfigurationError(faults)
    return sites


def open_workers(sites: Mapping[str, Path], protocol: StudyProtocol, *, state: Path, threads: int) -> dict[str, Worker]:
    """A worker for each site, with its cohort read.

    Raises:
        ConfigurationError: with the faults of all sites together.
    """
    workers: dict[str, Worker] = {}
    faults: list[Fault] = []
    for name, file in sites.items():
        workers[name] = open_site(file, state=state, threads=threads)
        try:
            workers[name].cohort(protocol)
        except (ConfigurationError, CohortError) as error:
            faults += error.faults
    if faults:
        raise ConfigurationError(faults)
    return workers


def central_worker(workers: Mapping[str, Worker], *, state: Path) -> Worker:
    """A worker with the patients of all ``workers``, for the comparator that no federation may have."""
    return pooled_worker(list(workers.values()), name="central", state=state)


def demo_hospitals(folder: Path, *, count: int, patients: int, seed: int) -> list[Path]:
    """Write ``count`` synthetic hospitals under ``folder`` as real ones would export; returns their site files.

    Hospitals of the same seed and size that are there already are left as they are.
    """
    return [synthesize(folder, hospital=name, patients=patients, seed=seed) for name in HOSPITALS[:count]]


def _context(node: int, node_config: UserConfig) -> Context:
    return Context(run_id=TaskIdentity.run_id, node_id=node, node_config=node_config, state=RecordDict(), run_config={})


def _take_identity() -> None:
    """Outside of its own processes Flower builds no message before it is told whose it is."""
    TaskIdentity.run_id = TaskIdentity.task_id = 1
    TaskIdentity.node_id = SUPERLINK_NODE_ID


def _identify(message: Message) -> str:
    """Give ``message`` the identifier that a SuperLink would give it."""
    identifier = secrets.token_hex(16)
    message.metadata.__dict__["_message_id"] = identifier
    return identifier

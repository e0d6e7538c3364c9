"""A whole federation on loopback for one fault after the other: center, three hospitals, what a service manager does, and a
plan folder for each party through which a process can be killed or held at a named point of its code."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from time import monotonic, time

import psutil

from client.serving import RemoteWorker
from server.app_files import AT_WORK
from server.journal import FILE, Journal
from server.registration import DATABASE
from shared_model import leash
from shared_model.crashpoints import HOLD, KILL, PLAN, REACHED
from tests.deployed import CENTER, SITE, Deployed, deployed, environment, wait_for
from tests.faults.disks import small_disk
from tests.faults.invariants import CANARY, Hospital, invariants
from tests.faults.proxy import Proxy
from tests.faults.rows import Told
from tests.faults.undisturbed import differences
from tests.tables import write_sites, write_study

SITES = ("east", "north", "west")
WEST = "west"  # the site that most is done to; it reaches the center through a proxy of ours
OTHERS = ("east", "north")
HOST = "127.0.0.2"  # of the center: what is at 127.0.0.1 is never reached by way of a proxy
ROUNDS = 3
DEADLINE_S = 60
RESTART_S = 1.0  # of the service manager
# SCAFFOLD, so that what a site remembers between rounds must survive; it needs plain steps.
FEDERATION = 'client_rule = {{ kind = "scaffold" }}\nquorum = {quorum}\nattempts = {attempts}'


def study_file(
    folder: Path,
    *,
    rounds: int = ROUNDS,
    deadline_s: int = DEADLINE_S,
    quorum: float = 0.6,
    attempts: int = 2,
    width: int = 16,
    more: str = "",
) -> Path:
    """Write the study of a scenario; ``quorum`` 0.6 is two of three sites."""
    study = write_study(folder, rounds=rounds, federation=FEDERATION.format(quorum=quorum, attempts=attempts))
    text = study.read_text().replace("lr = 0.003", 'lr = 0.1\noptimizer = "sgd"').replace("width = 16", f"width = {width}")
    study.write_text(text.replace("deadline_s = 120", f"deadline_s = {deadline_s}") + more)
    return study


@dataclass
class Service:
    """A command that a service manager keeps running; ``end`` of the manager's part: it is not started again."""

    command: Sequence[str]
    environment: Mapping[str, str]
    kept: bool = True
    process: "subprocess.Popen[bytes] | None" = None
    restarts: int = 0


@dataclass
class Stage:
    """The federation, its services, and the plans of ``center``, ``run`` and each site."""

    federation: Deployed
    proxy: Proxy
    plans: Path
    disk: Path | None  # a small file system, for runs whose disk fails
    services: dict[str, Service] = field(default_factory=dict)
    runs: int = 0
    approved: set[tuple[str, str]] = field(default_factory=set)

    # Processes

    def keep(self, name: str, command: Sequence[object], **more: str) -> None:
        """Start a service and keep it running."""
        self.services[name] = Service(tuple(map(str, command)), environment() | more)
        self._start(name)

    def end(self, name: str, *, number: signal.Signals = signal.SIGTERM, timeout_s: float = 150.0) -> None:
        """End a service for good."""
        service = self.services[name]
        service.kept = False
        if service.process is not None and service.process.poll() is None:
            service.process.send_signal(number)
            service.process.wait(timeout_s)

    def look_after(self) -> None:
        """What a service manager does: start again what has died."""
        for name, service in list(self.services.items()):
            if service.kept and service.process is not None and service.process.poll() is not None:
                service.restarts += 1
                self._start(name)

    def _start(self, name: str) -> None:
        service = self.services[name]
        with (self.federation.folder / f"{name}.log").open("ab") as log:
            service.process = subprocess.Popen(
                [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *service.command],  # outlives no test
                cwd=self.federation.folder,
                env=dict(service.environment),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def pid(self, name: str, inner: str | None = None) -> int:
        """Process of a service, or the one of its children whose command holds ``inner``."""
        process = self.services[name].process
        assert process is not None
        if inner is None:
            return process.pid
        found: list[int] = []

        def there() -> bool:
            found[:] = [child.pid for child in children(process.pid) if inner in " ".join(command(child))]
            return bool(found)

        wait_for(there, timeout_s=60.0, told=lambda: f"no {inner} below {name}")
        return found[0]

    def kill(self, name: str, inner: str | None = None) -> None:
        """kill -9."""
        os.kill(self.pid(name, inner), signal.SIGKILL)

    @contextmanager
    def restarting(self, name: str) -> Iterator[None]:
        """In the block ``name`` dies; after it the service manager has started it again."""
        before = self.services[name].restarts
        yield
        wait_for(lambda: self.services[name].restarts > before, timeout_s=90.0, told=lambda: self.log(name))

    def conductor(self, out: Path) -> int:
        """Process of Flower's ServerApp that conducts the run in ``out``."""
        return int(json.loads((out / AT_WORK).read_text())["pid"])

    def log(self, name: str) -> str:
        return self.federation.log(name)

    def await_log(self, name: str, text: str, *, after: int = 0, timeout_s: float = 150.0) -> None:
        """Wait until the log of a service says ``text``, beyond its first ``after`` characters."""
        wait_for(lambda: text in self.log(name)[after:], timeout_s=timeout_s, told=lambda: f"{text!r} not in {self.log(name)}")

    # Plans

    def arm(self, who: str, point: str, *, action: str = KILL) -> None:
        """The next process of ``who`` that passes ``point`` dies there, or is held."""
        folder = self.plans / who
        partial = folder / f".{point}"
        partial.write_text(action)
        partial.rename(folder / point)

    def await_reached(self, who: str, point: str, *, timeout_s: float = 180.0) -> None:
        wait_for((self.plans / who / f"{point}{REACHED}").exists, timeout_s=timeout_s, told=lambda: f"{point} was not passed")

    def release(self, who: str, point: str) -> None:
        """Let go on who is held at ``point``."""
        (self.plans / who / f"{point}{REACHED}").unlink()

    def disarm(self) -> None:
        for file in self.plans.glob("*/*"):
            file.unlink(missing_ok=True)

    def heal(self) -> None:
        """Undo what the test before left: nothing is armed, the line is open, everybody runs and is connected."""
        self.disarm()
        self.proxy.mend()
        for name in [name for name in self.services if name.startswith("run-")]:
            if self.services[name].process.poll() is None:  # type: ignore[union-attr]
                self.end(name)
        for name, service in self.services.items():
            if not name.startswith("run-"):
                service.kept = True
        self.look_after()
        wait_for(self._is_whole, timeout_s=200.0, told=lambda: "\n".join(self.log(f"join-{site}")[-500:] for site in SITES))

    def _is_whole(self) -> bool:
        """Whether the center knows all sites as online."""
        if not all(self.federation.socket(site).is_socket() for site in SITES):
            return False
        running = [service.process for name, service in self.services.items() if not name.startswith("run-")]
        return self.online() >= set(SITES) and all(process.poll() is None for process in running if process is not None)

    def answers(self, site: str) -> bool:
        """Whether the site's worker answers at its socket."""
        try:
            return RemoteWorker(self.federation.socket(site), timeout_s=5.0).name == site
        except (ConnectionError, RuntimeError):
            return False

    def online(self) -> set[str]:
        """Sites that SuperLink counts as online."""
        database = self.federation.federation / "state" / DATABASE
        query = "SELECT name FROM node WHERE status = 'online' AND online_until > ?"
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as link:
            return {name for (name,) in link.execute(query, (time(),))}

    # Studies

    def begin(self, folder: Path, **study: float | str) -> "Run":
        """Start a run that is held as soon as its first round is committed; ``study`` are arguments of ``study_file``."""
        file = study_file(folder, **study)  # type: ignore[arg-type]
        self.approve(file)
        self.arm("center", "journal.committed", action=HOLD)
        return self.start_run(file)

    def start_run(self, study: Path, *arguments: object, sites: Sequence[str] = SITES, out: Path | None = None) -> "Run":
        """Give ``consilium-center run``; its output goes to the log of its name."""
        self.runs += 1
        name = f"run-{self.runs}"
        out = out or self.federation.folder / "runs" / name
        command = [*CENTER, "run", study, "--federation", self.federation.federation, "--sites", ",".join(sites), "--out", out]
        run = Run(self, name, out, [*map(str, command), "--seed", "3", *map(str, arguments)])
        run.give()
        return run

    def approve(self, study: Path, *, sites: Sequence[str] = SITES) -> None:
        """Approve a study at ``sites``, once for all runs of it."""
        for site in sites:
            if (site, study.read_text()) not in self.approved:
                self.federation.approve(site, study)
                self.approved.add((site, study.read_text()))


class Between:
    """While the block lasts the conductor is held, a round committed and the next one not begun. So it will be after the next
    one, unless that is the last."""

    def __init__(self, run: "Run") -> None:
        self.run, self.stage = run, run.stage

    def __enter__(self) -> None:
        self.stage.await_reached("center", "journal.committed", timeout_s=400.0)

    def __exit__(self, *_: object) -> None:
        if self.run.rounds() < self.run.planned - 1:
            self.stage.arm("center", "journal.committed", action=HOLD)
        self.stage.release("center", "journal.committed")


@dataclass
class Run:
    """One run of a study: its command, which may be given again, and what its journal says."""

    stage: Stage
    name: str
    out: Path
    command: list[str]
    began: float = field(default_factory=monotonic)

    def give(self) -> None:
        """Give the command, again if it has ended."""
        self.stage.services[self.name] = Service(
            self.command, environment() | {PLAN: str(self.stage.plans / "run")}, kept=False
        )
        self.stage._start(self.name)

    @property
    def log(self) -> str:
        return self.stage.log(self.name)

    @property
    def planned(self) -> int:
        """Rounds of the study."""
        with Journal(self.out) as journal:
            return journal.protocol.federation.rounds

    @property
    def relaunches(self) -> int:
        return self.log.count("launching again")

    @property
    def code(self) -> int | None:
        process = self.stage.services[self.name].process
        assert process is not None
        return process.poll()

    @property
    def identifier(self) -> str:
        with Journal(self.out) as journal:
            return journal.run

    def rounds(self) -> int:
        if not (self.out / FILE).exists():
            return 0
        with Journal(self.out) as journal:
            return len(journal.rounds())

    def events(self, kind: str) -> list[dict[str, object]]:
        if not (self.out / FILE).exists():
            return []
        with Journal(self.out) as journal:
            return [body for _, found, body in journal.events() if found == kind]

    def participants(self) -> list[tuple[str, ...]]:
        """The sites that counted, by round."""
        with Journal(self.out) as journal:
            return [tuple(record.sites) for record in journal.rounds()]

    def seconds(self) -> list[float]:
        """Wall time of each round."""
        with Journal(self.out) as journal:
            return [record.wall_s for record in journal.rounds()]

    def failures(self) -> list[tuple[str, int, str]]:
        with Journal(self.out) as journal:
            return [(failure.site, failure.round, failure.code.value) for failure in journal.record().failures]

    def await_round(self, number: int, *, timeout_s: float = 240.0) -> None:
        wait_for(lambda: self.rounds() >= number or self.code is not None, timeout_s=timeout_s, told=self.told)
        assert self.rounds() >= number, self.told()

    def await_relaunch(self, times: int) -> None:
        """Wait until the study was launched again so often."""
        wait_for(lambda: self.relaunches >= times, timeout_s=120.0, told=self.told)

    def await_end(self, *, timeout_s: float = 300.0) -> int:
        """Exit code of the command."""
        wait_for(lambda: self.code is not None, timeout_s=timeout_s, told=self.told)
        assert self.code is not None
        return self.code

    def finish(self, *, timeout_s: float = 300.0) -> None:
        """Wait for its end with exit code 0."""
        assert self.await_end(timeout_s=timeout_s) == 0, self.told()

    def told(self) -> str:
        return f"{self.log}\n--- up ---\n{self.stage.log('up')[-3000:]}"

    def check(self, told: Told, participants: Sequence[tuple[str, ...]], *, like_undisturbed: bool = True) -> None:
        """The sites that counted are ``participants``, by round, and every invariant holds."""
        assert self.participants() == list(participants), self.failures()
        assert self.violations(like_undisturbed=like_undisturbed) == []
        told("the same bits as undisturbed" if like_undisturbed else "all other invariants hold")

    def codes(self, site: str, round_: int) -> str:
        """Why a site did not count in a round."""
        found = sorted({code for name, number, code in self.failures() if (name, number) == (site, round_)})
        assert found, self.failures()
        return ", ".join(found)

    def violations(self, *, like_undisturbed: bool = True) -> list[str]:
        """Every invariant that does not hold of this run, and whatever differs from a run that nothing disturbed."""
        federation = self.stage.federation
        sites = {site: Hospital(federation.sites[site], federation.folder / "state" / site) for site in federation.sites}
        outside = [federation.federation / "state", *federation.folder.glob("*.log")]
        outside += [federation.home(site) for site in sites]
        found = invariants(self.out, sites, outside=outside)
        if like_undisturbed:
            with tempfile.TemporaryDirectory() as folder:
                found += differences(
                    self.out, {site: hospital.config for site, hospital in sites.items()}, Path(folder) / "run"
                )
        return found


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """Everything up and connected; west reaches the center through a proxy of ours."""
    plans = folder / "plans"
    for who in ("center", "run", *SITES):
        (plans / who).mkdir(parents=True)
    tables = folder / "tables"
    sites = {path.stem: path for path in write_sites(tables, names=SITES, patients=60)}
    for path in sites.values():
        mark_patients(path.with_suffix(".csv"))
    with ExitStack() as stack:
        federation = stack.enter_context(deployed(folder, sites, host=HOST))
        proxy = stack.enter_context(Proxy.running())
        disk = stack.enter_context(small_disk(folder / "disk", size="24m"))
        stage = Stage(federation, proxy, plans, disk)
        stack.enter_context(_service_manager(stage))
        stage.keep("up", [*CENTER, "up", federation.federation], **{PLAN: str(plans / "center")})
        for site in SITES:
            start_worker(stage, site)
        stage.await_log("up", "hospitals can connect")
        for site in SITES:
            start_join(stage, site)
        for site in SITES:
            stage.await_log(f"join-{site}", "connected to")
            wait_for(federation.socket(site).is_socket, timeout_s=120.0)
        assert proxy.carried, "west goes by way of the proxy"
        yield stage


def start_worker(stage: Stage, site: str, **more: str) -> None:
    federation = stage.federation
    state = federation.folder / "state" / site
    command = [*SITE, "worker", federation.sites[site], "--socket", federation.socket(site), "--state", state, "--threads", 1]
    stage.keep(f"worker-{site}", command, **{PLAN: str(stage.plans / site)} | more)


def start_join(stage: Stage, site: str, **more: str) -> None:
    federation = stage.federation
    command = [*SITE, "join", federation.kit(site), "--home", federation.home(site), "--worker", federation.socket(site)]
    through = {"HTTPS_PROXY": stage.proxy.url} if site == WEST else {}
    stage.keep(f"join-{site}", command, **{PLAN: str(stage.plans / site)} | through | more)


@contextmanager
def _service_manager(stage: Stage) -> Iterator[None]:
    stop = Event()

    def look() -> None:
        while not stop.wait(RESTART_S):
            stage.look_after()

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        running = [s.process for s in stage.services.values() if s.process is not None and s.process.poll() is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
            process.terminate()
        for process in running:
            try:
                process.wait(40.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def mark_patients(table: Path) -> None:
    """Give patients identifiers that occur nowhere else, to be looked for where no patient belongs."""
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([head, *(f"{CANARY}{row}" for row in rows)]) + "\n")


def children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []

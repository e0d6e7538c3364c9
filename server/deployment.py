"""``consilium-center run``: a study with the hospitals of a federation, until it is finished.

Flower runs a study as one process and resumes nothing: if that process, SuperExec or SuperLink is gone for long, its run has
failed. The journal of the run directory has every round, so a new run of Flower's goes on from there. This submits, looks
after, and submits again, and gives up after some launches in a row that finished no further round.

A study is never conducted twice at a time: the ServerApp holds the run directory locked, and writes into it which of
Flower's runs it is, so that a submission whose answer was lost is found again.
"""

import json
import logging
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import tomli_w
from rich.console import Console

from server import run_directory
from server.app_files import AT_WORK, CONDUCTING
from server.center import Link, open_link, require_up
from server.disk import cannot_write, disk_trouble
from server.journal import Journal
from server.launch import report
from server.progress import ProgressDisplay
from server.provisioning import Federation
from server.records import RunRecord
from server.registration import NODES
from server.run_directory import RunPlan
from shared_model import config_file
from shared_model.crashpoints import crashpoint
from shared_model.durable import write_durably
from shared_model.errors import ConfigurationError, Fault, StudyError
from shared_model.locking import is_held
from shared_model.protocol import read_protocol

ENGINE = "deployment"
SUBMISSION = "submission.json"
RELAUNCHES = 5  # in a row, without a further round
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 300.0
POLL_S = 0.5
STATUS_EVERY_S = 60.0  # asking Flower costs seconds of CPU; a lock and a file tell sooner how a study is
START_S = 300.0  # from submission until the ServerApp is at work; if it dies before, Flower tells within a minute or two
STOP_S = 30.0
RUNNING = {"pending", "starting", "running"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deployment:
    """A study to run with the hospitals of a federation."""

    plan: RunPlan
    federation: Federation
    relaunches: int = RELAUNCHES


class Interrupted(Exception):  # noqa: N818  no error: somebody asked for it
    """The run was stopped, and can be resumed."""


def prepare(
    study_file: Path, federation: Federation, sites: Sequence[str], *, out: Path, seed: int, relaunches: int
) -> Deployment:
    """Check study, sites and run directory before anything is written. The study is taken as it is: the hospitals have
    approved that, and nothing else.

    Raises:
        ConfigurationError: with the faults of all of them together.
    """
    faults: list[Fault] = []
    try:
        protocol = read_protocol(study_file)
    except ConfigurationError as error:
        faults += error.faults
    faults += _site_faults(federation, sites)
    if faults:
        raise ConfigurationError(faults)
    plan = RunPlan(protocol, study_file, tuple(sites), out, seed, ENGINE, 1)
    run_directory.refuse_another_run(plan)
    return Deployment(plan, federation, relaunches)


def deploy(deployment: Deployment, *, stop: Event, console: Console) -> RunRecord:
    """Run or resume to the end and write the results; returns the finished run.

    Raises:
        StudyError: the study failed for good, or too often; the center is not up; another command is at work in ``out``.
        Interrupted: ``stop`` was set.
    """
    out = deployment.plan.out
    out.mkdir(parents=True, exist_ok=True)
    with run_directory.alone_in(out):
        if not run_directory.is_made(out):
            run_directory.create(deployment.plan)
        if _is_finished(out):
            console.print(f"{out} holds this run, finished; nothing to train.", soft_wrap=True)
        else:
            require_up(deployment.federation)
            with ProgressDisplay(out, console=console):
                _Conductor(deployment, stop, console).run()
        crashpoint("run.finished")
        report(out)
    with Journal(out) as journal:
        return journal.record()


class _Conductor:
    """Launches one of Flower's runs after the other until the study is finished."""

    def __init__(self, deployment: Deployment, stop: Event, console: Console) -> None:
        self._out = deployment.plan.out.resolve()
        self._nodes = (deployment.federation.state / NODES).resolve()
        self._federation = deployment.federation
        self._link: Link = open_link(deployment.federation)
        self._relaunches = deployment.relaunches
        self._stop = stop
        self._console = console
        self._known_rounds = 0

    def run(self) -> None:
        fruitless, pause, rounds = 0, FIRST_PAUSE_S, self._rounds()
        while True:
            problem, final = self._launch()
            if self._finished():  # also if whoever conducted it died before it could say so
                return
            problem = problem or "the study ended without being finished"
            if final:
                raise StudyError(problem)
            if self._rounds() > rounds:
                fruitless, pause, rounds = 0, FIRST_PAUSE_S, self._rounds()
            fruitless += 1
            if fruitless > self._relaunches:
                raise StudyError(f"{fruitless} launches in a row finished no further round; the last one: {problem}")
            self._say(f"{problem}\nlaunching again from round {rounds} in {pause:.0f} s ({fruitless} of {self._relaunches})")
            crashpoint("run.relaunching")
            self._wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _launch(self) -> tuple[str | None, bool]:
        """One of Flower's runs, from its submission to its end: what went wrong, and whether for good."""
        try:
            require_up(self._federation)
            run = self._at_work() or self._submit()
            return self._await(run)
        except StudyError as error:
            return str(error), False
        except (OSError, sqlite3.OperationalError) as error:
            if (trouble := disk_trouble(error, at=self._out)) is None:
                raise
            return trouble, False

    def _at_work(self) -> str | None:
        """A run of Flower's that conducts this study already, as after a kill of this command."""
        submitted = _read(self._out / SUBMISSION).get("run")
        if is_held(self._out / CONDUCTING):
            return str(_read(self._out / AT_WORK).get("run", submitted))
        if submitted and str(self._status(submitted).get("status")) in RUNNING:
            if _outcome(self._out).exists():
                return str(submitted)
            self._end(submitted)  # its ServerApp is gone, or not there yet: one of ours must be enough
        return None

    def _submit(self) -> str:
        _outcome(self._out).unlink(missing_ok=True)
        config = {"run-directory": str(self._out), "outcome": str(_outcome(self._out)), "nodes": str(self._nodes)}
        file = self._out / "run.toml"
        file.write_text(tomli_w.dumps(config), encoding="utf-8")
        run = str(self._link.json("run", "app", "--run-config", str(file))["run-id"])
        crashpoint("run.submitted")
        write_durably(self._out / SUBMISSION, json.dumps({"run": run}).encode())
        return run

    def _await(self, run: str) -> tuple[str | None, bool]:
        began = monotonic()
        next_look = began + STATUS_EVERY_S
        gone_since: float | None = None
        started = False
        while not _outcome(self._out).exists():
            if self._stop.is_set():
                self._end(run)
                raise Interrupted
            held = is_held(self._out / CONDUCTING)
            started = started or held
            if held:
                gone_since = None
            elif started or monotonic() > began + START_S:
                # The lock goes with the process, at once; Flower needs a minute to notice.
                gone_since = gone_since or monotonic()
                if monotonic() > gone_since + 2.0 and not _outcome(self._out).exists():
                    self._end(run)
                    gone = "the process that conducts the study is gone" if started else "the study was not started"
                    return cannot_write(self._out) or gone, False
            if monotonic() > next_look:
                next_look = monotonic() + STATUS_EVERY_S
                if (ended := self._how_it_ended(run)) and not _outcome(self._out).exists():
                    return ended, False
            self._stop.wait(POLL_S)
        outcome = _read(_outcome(self._out))
        return outcome.get("error"), bool(outcome.get("final"))

    def _how_it_ended(self, run: str) -> str | None:
        try:
            status = self._status(run)
        except StudyError as error:
            log.info("Flower does not tell how run %s is: %s", run, error)  # SuperLink may be restarting
            return None
        if str(status.get("status")).split(":")[0] in RUNNING:
            return None
        return f"Flower ended the run: {status.get('status')} {status.get('status-details') or ''}".strip()

    def _status(self, run: str) -> dict[str, Any]:
        runs = self._link.json("list", "--run-id", run)["runs"]
        return dict(runs[0]) if runs else {"status": "unknown"}

    def _end(self, run: str) -> None:
        """Have Flower stop the run, and wait until the run directory is free."""
        try:
            self._link.json("stop", run)
        except StudyError as error:
            log.info("run %s could not be stopped: %s", run, error)
        deadline = monotonic() + STOP_S
        while is_held(self._out / CONDUCTING) and monotonic() < deadline:
            Event().wait(POLL_S)

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Interrupted

    def _rounds(self) -> int:
        with suppress(sqlite3.OperationalError), Journal(self._out) as journal:  # on a disk that fails it cannot be opened
            self._known_rounds = len(journal.rounds())
        return self._known_rounds

    def _finished(self) -> bool:
        with suppress(sqlite3.OperationalError):  # on a disk that fails
            return _is_finished(self._out)
        return False

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)


def _site_faults(federation: Federation, names: Sequence[str]) -> list[Fault]:
    known = federation.sites()
    faults = []
    for name in names:
        if name not in known:
            remedy = config_file.did_you_mean(name, known, otherwise="approve its request: consilium-center approve-site")
            expected = f"one of: {', '.join(known)}" if known else "an enrolled hospital"
            faults.append(Fault("--sites", name, "no hospital of this federation", expected, remedy))
        elif known[name].revoked:
            faults.append(Fault("--sites", name, "revoked", "a hospital that is enrolled", "leave it out, or enrol it anew"))
    if len(set(names)) < len(names) or not names:
        faults.append(Fault("--sites", "", ", ".join(names) or "nothing", "each hospital once", "--sites NAME,NAME,NAME"))
    federation.settings  # noqa: B018  its own faults
    return faults


def _is_finished(out: Path) -> bool:
    with Journal(out) as journal:
        return journal.finished


def _outcome(out: Path) -> Path:
    return out / "outcome.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}

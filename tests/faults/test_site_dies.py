"""kill -9 at a hospital: its worker, its relay, its SuperNode, at the moments that matter; and a hospital that is frozen."""

import os
import signal
from pathlib import Path
from time import sleep

import pytest

from shared_model.crashpoints import HOLD
from tests.deployed import wait_for
from tests.faults.rows import Fault, Told, parametrized
from tests.faults.stage import ROUNDS, SITES, Run, Stage, children, study_file

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(1200)]

WEST = "west"
OTHERS = tuple(site for site in SITES if site != WEST)
GOES_ON = "the round goes on with the others; the site counts again in the next"

WORKER_POINTS = {
    "worker.received": "the request is there, before training",
    "worker.admitted": "the attempt is noted, before training",
    "state.saved": "it has trained and remembers, no reply is made",
    "worker.computed": "it has trained, the reply is not released",
    "worker.sealed": "the reply is in the audit log, before it is sent",
}
WORKER = tuple(
    Fault("worker", f"worker dies: {point}", f"kill -9 in round 2 when {when}", GOES_ON)
    for point, when in WORKER_POINTS.items()
)
RELAY_POINTS = {
    "relay.received": "the relay has the request, the worker has not",
    "relay.answered": "the worker has answered, the relay has not sent it",
}
RELAY = tuple(
    Fault("relay", f"relay dies: {point}", f"kill -9 in round 2 when {when}", GOES_ON) for point, when in RELAY_POINTS.items()
)


@parametrized((*WORKER, *RELAY))
def test_a_site_that_dies_in_a_round_is_back_for_the_next(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    point = fault.name.split(": ")[1]
    run = begin(stage, tmp_path)
    with between_rounds(stage, run):
        stage.arm(WEST, point)
    stage.await_reached(WEST, point)
    with between_rounds(stage, run):
        wait_for(stage.federation.socket(WEST).is_socket, timeout_s=90.0)
        wait_for(lambda: stage.answers(WEST), timeout_s=90.0)
    run.finish()
    missed_one_round(run, told)


SUPERNODE_POINTS = {
    "worker.received": "the worker has the request, before training",
    "worker.sealed": "the worker has the reply ready, before it is sent",
    "relay.answered": "the relay has the reply, before it is sent",
}
SUPERNODE = tuple(
    Fault("SuperNode", f"SuperNode dies: {point}", f"kill -9 in round 2 when {when}",
          "named as unreachable; lets 65 s pass, rejoins by itself, counts again; what it had under way counts nowhere")
    for point, when in SUPERNODE_POINTS.items()
)  # fmt: skip


@parametrized(SUPERNODE)
def test_a_supernode_that_dies_rejoins(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    point = fault.name.split(": ")[1]
    run = begin(stage, tmp_path)
    with between_rounds(stage, run):
        stage.arm(WEST, point, action=HOLD)
    stage.await_reached(WEST, point)
    before = len(stage.log(f"join-{WEST}"))
    stage.kill(f"join-{WEST}", "flower-supernode")
    stage.release(WEST, point)
    with between_rounds(stage, run):
        stage.await_log(f"join-{WEST}", "the SuperNode was killed; the center lets it in again in 65 s", after=before)
        stage.await_log(f"join-{WEST}", "connected to", after=before + 100, timeout_s=200.0)
    run.finish()
    missed_one_round(run, told)


JOIN = Fault("SuperNode", "join dies", "kill -9 of consilium-site join in round 2: SuperNode and relay go with it",
             "started again by the service manager, it waits until the center lets it in; counts again")  # fmt: skip


@parametrized((JOIN,))
def test_a_join_that_dies_waits_until_it_is_let_in(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    run = begin(stage, tmp_path)
    with between_rounds(stage, run):
        stage.arm(WEST, "worker.received", action=HOLD)
    stage.await_reached(WEST, "worker.received")
    before = len(stage.log(f"join-{WEST}"))
    stage.kill(f"join-{WEST}")
    stage.release(WEST, "worker.received")
    with between_rounds(stage, run):
        stage.await_log(f"join-{WEST}", "last connection ended without a goodbye", after=before)
        stage.await_log(f"join-{WEST}", "connected to", after=before, timeout_s=200.0)
    run.finish()
    missed_one_round(run, told)


FROZEN = Fault("SuperNode", "frozen for 2 min", "SIGSTOP of all of a hospital's processes in round 2, SIGCONT after 2 min",
               "named as unreachable; its late reply counts nowhere; counts again")  # fmt: skip


@parametrized((FROZEN,))
def test_a_frozen_site_is_fenced_and_comes_back(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    run = begin(stage, tmp_path)
    with between_rounds(stage, run):
        stage.arm(WEST, "worker.sealed", action=HOLD)
    stage.await_reached(WEST, "worker.sealed")
    frozen = [stage.pid(name) for name in (f"worker-{WEST}", f"join-{WEST}")]
    frozen += [child.pid for pid in frozen for child in children(pid)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    stage.release(WEST, "worker.sealed")  # it has a reply to give, two minutes late
    with between_rounds(stage, run):
        sleep(120.0)
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: WEST in stage.online(), timeout_s=200.0)
        wait_for(lambda: stage.answers(WEST), timeout_s=200.0)
    run.finish()
    missed_one_round(run, told)


EVERYBODY = Fault("worker", "quorum of all", "kill -9 of a worker in round 2 of a study that wants every site",
                  "no model is made of fewer; launched again until the worker is back")  # fmt: skip


@parametrized((EVERYBODY,))
def test_a_study_that_wants_everybody_waits(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    run = begin(stage, tmp_path, quorum=1.0)
    with between_rounds(stage, run):
        stage.arm(WEST, "worker.computed")
    stage.await_reached(WEST, "worker.computed")
    with between_rounds(stage, run):
        pass
    run.finish()
    assert run.participants() == [SITES] * ROUNDS, run.failures()
    told.holds(run.violations())
    told(f"{run.relaunches} relaunches; all sites counted in all rounds; the same bits")


def begin(stage: Stage, folder: Path, **study: float) -> Run:
    """Start a run that is held as soon as its first round is committed."""
    file = study_file(folder, **study)  # type: ignore[arg-type]
    stage.approve(file)
    stage.arm("center", "journal.committed", action=HOLD)
    return stage.start_run(file)


def between_rounds(stage: Stage, run: Run) -> "Between":
    return Between(stage, run)


class Between:
    """While the block lasts the conductor is held, a round committed and the next one not begun. The one after is held too,
    if the study has one."""

    def __init__(self, stage: Stage, run: Run) -> None:
        self.stage, self.run = stage, run

    def __enter__(self) -> None:
        self.stage.await_reached("center", "journal.committed")

    def __exit__(self, *_: object) -> None:
        if self.run.rounds() < ROUNDS - 1:
            self.stage.arm("center", "journal.committed", action=HOLD)
        self.stage.release("center", "journal.committed")


def missed_one_round(run: Run, told: Told) -> None:
    assert run.participants() == [SITES, OTHERS, SITES], run.failures()
    codes = {code for site, round_, code in run.failures() if (site, round_) == (WEST, 2)}
    assert codes, run.failures()
    assert {site for site, _, _ in run.failures()} == {WEST}
    told.holds(run.violations())
    told(f"{WEST} named in round 2 ({', '.join(sorted(codes))}), counted in round 3; the same bits as without it in round 2")

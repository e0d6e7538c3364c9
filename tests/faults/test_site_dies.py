"""kill -9 at a hospital: its worker, its relay, its SuperNode, at the moments that matter; and a hospital that is frozen."""

import os
import signal
from pathlib import Path
from time import sleep

import pytest

from shared_model.crashpoints import HOLD
from tests.deployed import wait_for
from tests.faults.rows import Fault, Told, parametrized
from tests.faults.stage import OTHERS, SITES, WEST, Between, Stage, children

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(7200)]

GOES_ON = "the round goes on with the others; the site counts again in the next"
WORKER = [Fault("worker", f"worker dies: {point}", f"kill -9 when {when}", GOES_ON)
          for point, when in {
              "worker.received": "the request is there, before training",
              "worker.admitted": "the attempt is noted, before training",
              "state.saved": "it has trained and remembers, no reply is made",
              "worker.computed": "it has trained, the reply is not released",
              "worker.sealed": "the reply is in the audit log, before it is sent",
          }.items()]  # fmt: skip
RELAY = [Fault("relay", f"relay dies: {point}", f"kill -9 when {when}", GOES_ON)
         for point, when in {
             "relay.received": "the relay has the request, the worker has not",
             "relay.answered": "the worker has answered, the relay has not sent it",
         }.items()]  # fmt: skip


@parametrized([*WORKER, *RELAY], name="worker and relay die")
def test_a_site_that_dies_in_a_round_is_back_for_the_next(stage: Stage, rows: list[Fault], told: Told, tmp_path: Path) -> None:
    run = stage.begin(tmp_path, rounds=1 + 2 * len(rows))
    for number, fault in enumerate(rows):
        with Between(run):
            stage.arm(WEST, fault.point)
        stage.await_reached(WEST, fault.point)
        with Between(run):
            wait_for(lambda: stage.answers(WEST), timeout_s=120.0)
            told(f"{WEST} named: {run.codes(WEST, 2 + 2 * number)}; counted in the next round", fault)
    run.finish()
    run.check(told, missing_every_other(len(rows)))


def missing_every_other(times: int) -> list[tuple[str, ...]]:
    """West missed round 2, and counted in round 3, and so on."""
    return [SITES, *([OTHERS, SITES] * times)]


REJOINS = (
    "named as unreachable; rejoins by itself when the center lets it in (65 s), counts again; what was under way counts nowhere"
)
SUPERNODE = [Fault("SuperNode", f"SuperNode dies: {point}", f"kill -9 when {when}", REJOINS)
             for point, when in {
                 "worker.received": "the worker has the request, before training",
                 "worker.sealed": "the worker has the reply ready, before it is sent",
                 "relay.answered": "the relay has the reply, before it is sent",
             }.items()]  # fmt: skip
JOIN = Fault("SuperNode", "join dies", "kill -9 of consilium-site join: SuperNode and relay go with it", REJOINS)
FROZEN = Fault("SuperNode", "frozen for 2 min", "SIGSTOP of all of a hospital's processes, a reply ready, for 2 min",
               "named as unreachable; its late reply counts nowhere; counts again")  # fmt: skip


@parametrized([*SUPERNODE, JOIN, FROZEN], name="SuperNode dies")
def test_a_supernode_that_dies_rejoins(stage: Stage, rows: list[Fault], told: Told, tmp_path: Path) -> None:
    run = stage.begin(tmp_path, rounds=1 + 2 * len(rows))
    name = f"join-{WEST}"
    for number, fault in enumerate(rows):
        point = fault.point if fault in SUPERNODE else "worker.sealed"
        with Between(run):
            stage.arm(WEST, point, action=HOLD)
        stage.await_reached(WEST, point)
        before = len(stage.log(name))
        frozen = []
        if fault is FROZEN:
            frozen = freeze(stage)
        else:
            stage.kill(name, None if fault is JOIN else "flower-supernode")
        stage.release(WEST, point)
        with Between(run):
            if fault is FROZEN:
                sleep(120.0)
                for pid in frozen:
                    os.kill(pid, signal.SIGCONT)
                wait_for(lambda: WEST in stage.online() and stage.answers(WEST), timeout_s=200.0)
            else:
                says = "last connection ended without a goodbye" if fault is JOIN else "lets it in again in 65 s"
                stage.await_log(name, says, after=before)
                stage.await_log(name, "connected to", after=before, timeout_s=200.0)
            told(f"{WEST} named: {run.codes(WEST, 2 + 2 * number)}; counted in the next round", fault)
    run.finish()
    run.check(told, missing_every_other(len(rows)))


def freeze(stage: Stage) -> list[int]:
    """SIGSTOP of west's processes; their ids."""
    frozen = [stage.pid(name) for name in (f"worker-{WEST}", f"join-{WEST}")]
    frozen += [child.pid for pid in frozen for child in children(pid)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    return frozen


EVERYBODY = Fault("worker", "quorum of all", "kill -9 of a worker in a study that wants every site",
                  "no model is made of fewer; launched again until the worker is back")  # fmt: skip


@parametrized([EVERYBODY])
def test_a_study_that_wants_everybody_waits(stage: Stage, rows: list[Fault], told: Told, tmp_path: Path) -> None:
    run = stage.begin(tmp_path, rounds=2, quorum=1.0)
    with Between(run):
        stage.arm(WEST, "worker.computed")
    stage.await_reached(WEST, "worker.computed")
    run.finish()
    told(f"{run.relaunches} relaunches")
    run.check(told, [SITES] * 2)

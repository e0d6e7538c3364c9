"""kill -9 at the center: the process that conducts the study, at every point of its code that a crash could fall between; the
command that launched it; the services; and all of them at once."""

from pathlib import Path

import pytest

from shared_model.crashpoints import HOLD
from tests.faults.rows import Fault, Told, parametrized
from tests.faults.stage import SITES, Between, Stage, study_file

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(7200)]

AGAIN = "launched again by itself, from the last committed round"
BEFORE = {"study.described": "a site has described itself"}
AMID = {
    "sites.asked": "the sites have been asked for a round",
    "round.counted": "the first reply counts, others are on their way",
    "round.aggregated": "the step is made, nothing is written",
    "durable.partial": "the checkpoint is written, not renamed",
    "journal.checkpointed": "the checkpoint is there, its row is not",
    "journal.committed": "the round is committed, nobody was told",
}
AFTER = {
    "study.evaluated": "one site has evaluated",
    "study.exported": "the model is exported, the run not marked as finished",
    "study.finished": "the run is finished, the launcher was not told",
}
CONDUCTOR = [Fault("center", f"ServerApp dies: {point}", f"kill -9 when {when}", AGAIN)
             for point, when in (BEFORE | AMID | AFTER).items()]  # fmt: skip


@parametrized(CONDUCTOR, name="ServerApp dies")
def test_a_conductor_that_dies_is_followed_by_another(stage: Stage, rows: list[Fault], told: Told, tmp_path: Path) -> None:
    rounds = len(AMID) + 4
    study = study_file(tmp_path, rounds=rounds)
    stage.approve(study)
    stage.arm("center", next(iter(BEFORE)))
    run = stage.start_run(study)
    for number, fault in enumerate(rows):
        if fault.point in AMID:
            run.await_round(number)
        if fault.point not in BEFORE:
            stage.arm("center", fault.point)
        stage.await_reached("center", fault.point, timeout_s=400.0)
        if fault.point != "study.finished":
            run.await_relaunch(number + 1)
        told(f"relaunch {run.relaunches}, after {run.rounds()} rounds", fault)
    run.finish()
    assert run.relaunches == len(rows) - 1, run.told()
    run.check(told, [SITES] * rounds)


COMMAND = [Fault("center", f"run dies: {point}", f"kill -9 of consilium-center run when {when}",
                 "the same command goes on from there; one study is conducted at a time")
           for point, when in {
               "run.submitted": "Flower has the study, nothing is noted of it",
               "run.relaunching": "the ServerApp is gone too, no other is launched yet",
               "run.finished": "the study is finished, there is no report",
           }.items()]  # fmt: skip


@parametrized(COMMAND, name="run dies")
def test_a_command_that_dies_is_given_again(stage: Stage, rows: list[Fault], told: Told, tmp_path: Path) -> None:
    study = study_file(tmp_path, rounds=4)
    stage.approve(study)
    stage.arm("run", rows[0].point)
    run = stage.start_run(study)
    for fault in rows:
        if fault.point == "run.relaunching":
            run.await_round(1)
            stage.arm("run", fault.point)
            stage.arm("center", "round.counted")
        elif fault.point == "run.finished":
            stage.arm("run", fault.point)
        stage.await_reached("run", fault.point, timeout_s=400.0)
        assert run.await_end(timeout_s=30.0) == -9
        assert not (run.out / "report.html").exists()
        run.give()
        told("given again", fault)
    run.finish()
    assert (run.out / "report.html").exists()
    run.check(told, [SITES] * 4)


SUPERLINK = [Fault("center", f"SuperLink dies: {point}", f"kill -9 when {when}", "started again; the run goes on as it is")
             for point, when in {
                 "sites.asked": "the sites have been asked for a round",
                 "round.counted": "one reply was fetched, others are there or on their way",
                 "journal.committed": "a round is committed",
             }.items()]  # fmt: skip
NGINX = Fault("center", "nginx dies", "kill -9 in a round", "started again; hospitals connect again by themselves")
SUPEREXEC = Fault("center", "SuperExec dies", "kill -9 in a round; the ServerApp goes with it", AGAIN)
UP = Fault("center", "up dies", "kill -9 of consilium-center up in a round: all of the center goes with it",
           "started again by the service manager; the run waits for it and goes on")  # fmt: skip


@parametrized([*SUPERLINK, NGINX, SUPEREXEC, UP], name="services die")
def test_services_that_die_are_started_again(stage: Stage, rows: list[Fault], told: Told, tmp_path: Path) -> None:
    rounds = len(rows) + 2
    study = study_file(tmp_path, rounds=rounds)
    stage.approve(study)
    run = stage.start_run(study)
    processes = {NGINX: "nginx: master", SUPEREXEC: "flower-superexec"}
    for number, fault in enumerate(rows, 1):
        point = fault.point if fault in SUPERLINK else "round.counted"
        run.await_round(number)
        before, relaunches = len(stage.log("up")), run.relaunches
        stage.arm("center", point, action=HOLD)
        stage.await_reached("center", point)
        stage.kill("up", None if fault is UP else processes.get(fault, "flower-superlink"))
        stage.release("center", point)
        run.await_round(number + 1, timeout_s=400.0)
        if fault is not UP:
            stage.await_log("up", "ended with signal 9", after=before)
        told(f"{run.relaunches - relaunches} relaunches", fault)
    run.finish()
    assert stage.services["up"].restarts >= 1
    run.check(told, [SITES] * rounds)


REGISTERED = Fault("center", "up dies: center.registered", "kill -9 when SuperLink knows a new key, nothing is noted of it",
                   "started again, it finds which node the key is; the hospital connects")  # fmt: skip


@parametrized([REGISTERED])
def test_a_key_is_not_lost_between_superlink_and_the_notes(stage: Stage, rows: list[Fault], told: Told, tmp_path: Path) -> None:
    federation, site = stage.federation, "north"
    request = tmp_path / "request.json"
    renewed = federation.site("enrol", federation.sites[site], "--home", federation.home(site), "--out", request, "--renew")
    assert renewed.returncode == 0, renewed.stderr
    # A hospital that is refused once tries again after 65 s; the conductor that follows waits for it for one deadline.
    run = stage.begin(tmp_path, rounds=2, deadline_s=180)
    with Between(run):  # not held again: the last round follows
        stage.arm("center", "center.registered")
        before = len(stage.log(f"join-{site}"))
        federation.center("approve-site", federation.federation, request)
        stage.await_reached("center", "center.registered")
        stage.await_log(f"join-{site}", "connected to", after=before, timeout_s=400.0)
    run.finish(timeout_s=500.0)
    told(f"{run.relaunches} relaunches; {site} is back with its new key")
    run.check(told, [SITES] * 2)

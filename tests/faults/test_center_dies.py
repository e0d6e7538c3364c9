"""kill -9 at the center: the process that conducts the study, at every point of its code that a crash could fall between; the
command that launched it; the services; and all of them at once."""

from pathlib import Path

import pytest

from shared_model.crashpoints import HOLD
from tests.faults.rows import Fault, Told, parametrized
from tests.faults.stage import ROUNDS, SITES, Run, Stage, study_file

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(900)]

FIRST, SECOND = 0, 1  # armed before the run, or once its first round is committed
POINTS = {
    "study.described": (FIRST, "a site has described itself"),
    "sites.asked": (SECOND, "the sites have been asked for a round"),
    "round.counted": (SECOND, "the first reply counts, others are on their way"),
    "round.aggregated": (SECOND, "the step is made, nothing is written"),
    "durable.partial": (SECOND, "the checkpoint is written, not renamed"),
    "journal.checkpointed": (SECOND, "the checkpoint is there, its row is not"),
    "journal.committed": (SECOND, "the round is committed, nobody was told"),
    "study.evaluated": (FIRST, "one site has evaluated"),
    "study.exported": (FIRST, "the model is exported, the run not marked as finished"),
    "study.finished": (FIRST, "the run is finished, the launcher was not told"),
}
CONDUCTOR = tuple(
    Fault(
        "center", f"ServerApp dies: {point}", f"kill -9 when {when}", "launched again by itself, from the last committed round"
    )
    for point, (_, when) in POINTS.items()
)


@parametrized(CONDUCTOR)
def test_a_conductor_that_dies_is_followed_by_another(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    point = fault.name.split(": ")[1]
    run = begin(stage, tmp_path, at="center", point=point, moment=POINTS[point][0])
    stage.await_reached("center", point)
    run.finish()
    assert run.relaunches == (0 if point == "study.finished" else 1), run.told()
    all_counted(run, told)


COMMAND_POINTS = {
    "run.submitted": "Flower has the study, nothing is noted of it",
    "run.relaunching": "the ServerApp is gone, no other is launched yet",
    "run.finished": "the study is finished, there is no report",
}
COMMAND = tuple(
    Fault("center", f"run dies: {point}", f"kill -9 of consilium-center run when {when}", "the same command goes on from there")
    for point, when in COMMAND_POINTS.items()
)


@parametrized(COMMAND)
def test_a_command_that_dies_is_given_again(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    point = fault.name.split(": ")[1]
    study = study_file(tmp_path)
    stage.approve(study)
    stage.arm("run", point)
    if point == "run.relaunching":
        stage.arm("center", "round.counted")
    run = stage.start_run(study)
    stage.await_reached("run", point)
    assert run.await_end(timeout_s=30.0) == -9
    run.give()
    run.finish()
    assert (run.out / "report.html").exists()
    all_counted(run, told)


SERVICES = {
    "superexec": Fault(
        "center", "SuperExec dies", "kill -9 in round 2", "started again; it took the ServerApp along, which is launched again"
    ),
    "nginx": Fault("center", "nginx dies", "kill -9 in round 2", "started again; hospitals connect again by themselves"),
}


@parametrized(tuple(SERVICES.values()))
def test_a_service_that_dies_is_started_again(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    name = next(name for name, row in SERVICES.items() if row == fault)
    run = begin(stage, tmp_path, at="center", point="sites.asked", moment=SECOND, action=HOLD)
    stage.await_reached("center", "sites.asked")
    stage.kill("up", name if name == "superexec" else "nginx: master")
    stage.release("center", "sites.asked")
    run.finish()
    assert f"{name} ended with signal 9" in stage.log("up")
    assert run.relaunches == (1 if name == "superexec" else 0), run.told()
    all_counted(run, told)


UP = Fault("center", "up dies", "kill -9 of consilium-center up in round 2: all of the center's processes go with it",
           "started again by the service manager; the run waits for it and goes on")  # fmt: skip


@parametrized((UP,))
def test_a_center_that_dies_whole_is_waited_for(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    run = begin(stage, tmp_path, at="center", point="round.counted", moment=SECOND, action=HOLD)
    stage.await_reached("center", "round.counted")
    stage.kill("up")
    run.finish()
    assert stage.services["up"].restarts >= 1
    assert run.relaunches >= 1
    all_counted(run, told)


REGISTERED = Fault("center", "up dies: center.registered", "kill -9 when SuperLink knows a new key, nothing is noted of it",
                   "started again, it finds which node the key is")  # fmt: skip


@parametrized((REGISTERED,))
def test_a_hospital_is_not_lost_between_superlink_and_the_notes(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    """A hospital's key is renewed: the new one is registered when the center dies."""
    federation, site = stage.federation, "north"
    request = tmp_path / "request.json"
    renewed = federation.site("enrol", federation.sites[site], "--home", federation.home(site), "--out", request, "--renew")
    assert renewed.returncode == 0, renewed.stderr
    stage.arm("center", "center.registered")
    before = len(stage.log(f"join-{site}"))
    federation.center("approve-site", federation.federation, request)
    stage.await_reached("center", "center.registered")
    stage.await_log(f"join-{site}", "connected to", after=before, timeout_s=300.0)
    run = begin(stage, tmp_path, at="center", point="-", moment=FIRST)
    run.finish()
    all_counted(run, told)


SUPERLINK_POINTS = {
    "sites.asked": "the sites have been asked for a round",
    "round.counted": "one reply was fetched, others are at SuperLink or on their way",
    "journal.committed": "a round is committed",
}
SUPERLINK = tuple(
    Fault(
        "center", f"SuperLink dies: {point}", f"kill -9 when {when}", "started again within seconds; the run goes on as it is"
    )
    for point, when in SUPERLINK_POINTS.items()
)


@parametrized(SUPERLINK)
def test_a_superlink_that_dies_is_started_again(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    point = fault.name.split(": ")[1]
    run = begin(stage, tmp_path, at="center", point=point, moment=SECOND, action=HOLD)
    stage.await_reached("center", point)
    stage.kill("up", "flower-superlink")
    stage.release("center", point)
    run.finish()
    assert "superlink ended with signal 9" in stage.log("up")
    all_counted(run, told)


def begin(stage: Stage, folder: Path, *, at: str, point: str, moment: int, action: str = "kill") -> Run:
    """Start a run; the processes of ``at`` act at ``point``, from the start or once a round is committed."""
    study = study_file(folder)
    stage.approve(study)
    if moment == FIRST:
        stage.arm(at, point, action=action)
    run = stage.start_run(study)
    if moment == SECOND:
        run.await_round(1)
        stage.arm(at, point, action=action)
    return run


def all_counted(run: Run, told: Told) -> None:
    """Nothing was lost: every site counted in every round, and all is as undisturbed."""
    assert run.participants() == [SITES] * ROUNDS, run.failures()
    told.holds(run.violations())
    told(f"{run.relaunches} relaunches; all sites counted in all rounds; the same bits")

"""Disks that are full, read-only or lie; tables that are spoilt; memory that runs out."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from shared_model.crashpoints import HOLD
from tests.deployed import wait_for
from tests.faults.disks import fill, small_disk
from tests.faults.rows import Fault, Told, parametrized
from tests.faults.stage import OTHERS, SITES, WEST, Between, Stage, start_worker, study_file

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(7200)]

CGROUP = Path("/sys/fs/cgroup/memory")


FULL = Fault("disk", "center's disk full", "the run's disk is full when a round is to be committed, and has room a while later",
             "says that it is full, keeps what was committed, goes on by itself")  # fmt: skip


@parametrized([FULL])
def test_a_center_whose_disk_is_full_goes_on_when_there_is_room(
    stage: Stage, rows: list[Fault], told: Told, tmp_path: Path
) -> None:
    if stage.disk is None:
        pytest.skip("no file system can be mounted here")
    study = study_file(tmp_path, rounds=3)
    stage.approve(study)
    run = stage.start_run(study, out=stage.disk / "run")
    run.await_round(1)
    stage.arm("center", "round.aggregated", action=HOLD)
    stage.await_reached("center", "round.aggregated")
    filler = fill(stage.disk)
    stage.release("center", "round.aggregated")
    says = "nothing can be written to"
    wait_for(lambda: says in run.log or run.code is not None, timeout_s=120.0, told=run.told)
    assert says in run.log, run.log
    assert "Traceback" not in run.log, run.log
    filler.unlink()
    run.finish()
    told(f"said so; {run.relaunches} relaunches")
    run.check(told, [SITES] * 3)


SITE_DISK = Fault("disk", "site's disk full", "the disk of a worker's state is full in round 2, and has room before round 3",
                  "nothing leaves that cannot be written down: named in round 2, counts again in round 3")  # fmt: skip


@parametrized([SITE_DISK])
def test_a_site_whose_disk_is_full_tells_nothing(stage: Stage, rows: list[Fault], told: Told, tmp_path: Path) -> None:
    run = stage.begin(tmp_path)
    state = stage.federation.folder / "state" / WEST
    with small_disk(stage.federation.folder / "small", size="8m") as disk:
        if disk is None:
            pytest.skip("no file system can be mounted here")
        with Between(run):
            moved = ExitStack()
            moved.enter_context(moved_to(stage, state, disk))
            filler = fill(disk)
        with moved:
            stage.await_reached("center", "journal.committed")
            filler.unlink()
            with Between(run):
                told(f"named: {run.codes(WEST, 2)}")
            run.finish()
            run.check(told, [SITES, OTHERS, SITES])


@contextmanager
def moved_to(stage: Stage, state: Path, disk: Path) -> Iterator[None]:
    """The worker of west has its state on ``disk`` meanwhile."""
    site = state.name
    stage.end(f"worker-{site}")
    subprocess.run(["cp", "-a", f"{state}/.", disk], check=True)
    kept = state.with_name(f"{site}.kept")
    state.rename(kept)
    state.symlink_to(disk)
    start_worker(stage, site)
    wait_for(lambda: stage.answers(site), timeout_s=90.0)
    try:
        yield
    finally:
        stage.end(f"worker-{site}")
        state.unlink()
        subprocess.run(["cp", "-a", f"{disk}/.", kept], check=True)
        (kept / "filler").unlink(missing_ok=True)
        kept.rename(state)
        start_worker(stage, site)


def torn(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 0x10
    file.write_bytes(content)


def emptied(file: Path) -> None:
    os.truncate(file, 0)


HARMS: dict[str, Callable[[Path], None]] = {"torn": torn, "bit-flipped": flipped, "empty": emptied}
CHECKPOINTS = [Fault("files", f"checkpoint {harm}", "the newest checkpoint is harmed while the conductor is dead",
                     "noticed by its SHA-256; goes back one round, and does that round anew")
               for harm in HARMS]  # fmt: skip


@parametrized(CHECKPOINTS, name="checkpoint harmed")
def test_a_harmed_checkpoint_is_not_trusted(stage: Stage, rows: list[Fault], told: Told, tmp_path: Path) -> None:
    study = study_file(tmp_path, rounds=5)
    stage.approve(study)
    run = stage.start_run(study)
    for number, (fault, harm) in enumerate(zip(rows, HARMS.values(), strict=True), 1):
        run.await_round(number)
        stage.arm("center", "journal.committed")
        stage.await_reached("center", "journal.committed")
        newest = run.rounds()
        harm(run.out / "models" / f"round-{newest:04d}.safetensors")
        wait_for(lambda: f"continues after round {newest - 1}\n" in run.log, timeout_s=200.0, told=run.told)  # noqa: B023
        told(f"went from round {newest} back to {newest - 1}", fault)
    run.finish()
    assert run.relaunches == len(rows)
    run.check(told, [SITES] * 5)


STATE = [Fault("files", f"site's state {harm}", "what a site remembers of the last round, its control variate, is harmed",
               "noticed by its SHA-256 and said in the site's log; not trained with: as after the loss of the disk")
         for harm in HARMS]  # fmt: skip


@parametrized(STATE, name="site's state harmed")
def test_a_harmed_state_of_a_site_is_noticed(stage: Stage, rows: list[Fault], told: Told, tmp_path: Path) -> None:
    run = stage.begin(tmp_path, rounds=1 + len(rows))
    log = f"worker-{WEST}"
    for number, (fault, harm) in enumerate(zip(rows, HARMS.values(), strict=True), 1):
        name = f"round-{number:04d}.safetensors"
        with Between(run):
            before = len(stage.log(log))
            [file] = (stage.federation.folder / "state" / WEST).glob(f"{run.identifier}/*/{name}")
            harm(file)
        stage.await_log(log, f"{name} is damaged", after=before)
        told("said so; counted in the round", fault)
    run.finish()
    run.check(told, [SITES] * (1 + len(rows)), like_undisturbed=False)


COHORT = Fault("files", "cohort spoilt mid-run", "a hospital's table becomes rubbish and its worker starts anew before a round;"
               " the table is put back before the next", "named: its data do not fit; counts again")  # fmt: skip
OOM = Fault("memory", "OOM-killed", "the kernel kills the worker in a round: its control group allows less than it needs",
            "started again by the service manager; the round goes on with the others; counts again")  # fmt: skip


@parametrized([COHORT, OOM], name="cohort and memory")
def test_a_cohort_that_is_spoilt_and_a_worker_that_the_kernel_kills(
    stage: Stage, rows: list[Fault], told: Told, tmp_path: Path
) -> None:
    table = stage.federation.sites[WEST].with_suffix(".csv")
    whole = table.read_bytes()
    run = stage.begin(tmp_path, rounds=5)
    with Between(run):
        table.write_bytes(os.urandom(4000))
        restart_worker(stage)
    stage.await_reached("center", "journal.committed")
    table.write_bytes(whole)
    with Between(run):
        restart_worker(stage)
        assert "cohort_unusable" in run.codes(WEST, 2)
        told(f"named: {run.codes(WEST, 2)}; counted in the next round", COHORT)
    with Between(run):
        stage.arm(WEST, "worker.admitted", action=HOLD)
    stage.await_reached(WEST, "worker.admitted")
    with control_group() as group:
        starve(stage, group)
        assert int(counters(group / "memory.oom_control")["oom_kill"]) >= 1
    with Between(run):
        wait_for(lambda: stage.answers(WEST), timeout_s=120.0)
        told(f"killed by the kernel; named: {run.codes(WEST, 4)}; counted in the next round", OOM)
    run.finish()
    run.check(told, [SITES, OTHERS, SITES, OTHERS, SITES])


def starve(stage: Stage, group: Path) -> None:
    """Let west's worker, which is held, need more than ``group`` allows: what it has stays charged to where it got it.

    Not a page more: with a few, it may get to its answer before it needs another.
    """
    name = f"worker-{WEST}"
    process = stage.services[name].process
    assert process is not None
    (group / "cgroup.procs").write_text(str(process.pid))
    with stage.restarting(name):
        (group / "memory.limit_in_bytes").write_text("0")
        stage.release(WEST, "worker.admitted")
    assert process.returncode == -signal.SIGKILL


def counters(file: Path) -> dict[str, str]:
    return dict(line.split() for line in file.read_text().splitlines())  # type: ignore[arg-type]


def restart_worker(stage: Stage) -> None:
    with stage.restarting(f"worker-{WEST}"):
        stage.kill(f"worker-{WEST}")
    wait_for(lambda: stage.answers(WEST), timeout_s=90.0)


@contextmanager
def control_group() -> Iterator[Path]:
    if not (CGROUP / "memory.limit_in_bytes").exists():
        pytest.skip("no memory control groups (v1) here")
    group = CGROUP / f"consilium-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield group
    finally:
        group.rmdir()

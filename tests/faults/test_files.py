"""Disks that are full, read-only or lie; tables that are spoilt; memory that runs out."""

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from shared_model.crashpoints import HOLD
from tests.deployed import wait_for
from tests.faults.rows import Fault, Told, parametrized
from tests.faults.stage import ROUNDS, SITES, Stage, start_worker, study_file
from tests.faults.test_site_dies import WEST, Between, begin, missed_one_round

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(900)]

CGROUP = Path("/sys/fs/cgroup/memory")


@contextmanager
def small_disk(folder: Path, *, size: str) -> Iterator[Path]:
    """A file system of its own at ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no mount allowed here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Write until nothing more fits."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as filler:
        for piece in (65536, 4096, 1):
            with suppress(OSError):
                while filler.write(b"\0" * piece):
                    pass
    return file


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


DISK = {
    "full": Fault("disk", "center's disk full", "the run's disk is filled in round 2, and has room again half a minute later",
                  "says that the disk is full, keeps round 1, is launched again and goes on"),
    "read-only": Fault("disk", "center's disk read-only", "the run's disk is made read-only in round 2, and writable again",
                       "says so, keeps round 1, is launched again and goes on"),
}  # fmt: skip


@parametrized(tuple(DISK.values()))
def test_a_center_whose_disk_fails_goes_on_when_it_is_mended(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    how = next(how for how, row in DISK.items() if row == fault)
    study = study_file(tmp_path)
    stage.approve(study)
    with small_disk(stage.federation.folder / "small" / how, size="4m") as disk:
        out = disk / "run"
        stage.arm("center", "round.aggregated", action=HOLD)
        run = stage.start_run(study, out=out)
        stage.await_reached("center", "round.aggregated")
        stage.arm("center", "round.aggregated", action=HOLD)
        stage.release("center", "round.aggregated")
        stage.await_reached("center", "round.aggregated")
        if how == "full":
            filler = fill(disk)
        else:
            remount(disk, "ro")
        stage.release("center", "round.aggregated")
        text = "no space left" if how == "full" else "read-only"
        wait_for(lambda: text in run.log.lower(), timeout_s=90.0, told=run.told)
        assert "Traceback" not in run.log, run.log
        if how == "full":
            filler.unlink()
        else:
            remount(disk, "rw")
        if run.code is None:
            run.finish()
        else:
            run.give()
            run.finish()
        assert run.participants() == [SITES] * ROUNDS, run.failures()
        told.holds(run.violations())
        told(f"told plainly; {run.relaunches} relaunches; all sites counted in all rounds; the same bits")


SITE_DISK = Fault("disk", "site's disk full", "the disk of a worker's state is full in round 2, and has room before round 3",
                  "nothing leaves that cannot be written down: named in round 2, counts again in round 3")  # fmt: skip


@parametrized((SITE_DISK,))
def test_a_site_whose_disk_is_full_tells_nothing(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    run = begin(stage, tmp_path)
    state = stage.federation.folder / "state" / WEST
    with small_disk(stage.federation.folder / "small" / "site", size="8m") as disk, moved_to(stage, state, disk):
        with Between(stage, run):
            filler = fill(disk)
        stage.await_reached("center", "journal.committed")
        filler.unlink()
        with Between(stage, run):
            pass
        run.finish()
        missed_one_round(run, told)


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
CHECKPOINTS = tuple(
    Fault("files", f"checkpoint {harm}", "the newest checkpoint, of round 2, is harmed while the conductor is dead",
          "noticed by its SHA-256; goes back to round 1, and does round 2 anew")
    for harm in HARMS
)  # fmt: skip


@parametrized(CHECKPOINTS)
def test_a_harmed_checkpoint_is_not_trusted(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    harm = HARMS[fault.name.removeprefix("checkpoint ")]
    run = begin(stage, tmp_path)
    stage.await_reached("center", "journal.committed")
    stage.arm("center", "journal.committed")
    stage.release("center", "journal.committed")
    wait_for(lambda: run.rounds() == 2, timeout_s=120.0)
    harm(run.out / "models" / "round-0002.safetensors")
    run.finish()
    assert run.relaunches == 1
    assert "continues after round 1" in run.log
    assert run.participants() == [SITES] * ROUNDS, run.failures()
    told.holds(run.violations())
    told("went back to round 1; all sites counted in all rounds; the same bits")


STATE = tuple(
    Fault("files", f"site's state {harm}", "what a site remembers of round 1 (its control variate) is harmed before round 2",
          "noticed and said in the site's log, never trained with; the site goes on as one that lost its disk")
    for harm in HARMS
)  # fmt: skip


@parametrized(STATE)
def test_a_harmed_state_of_a_site_is_noticed(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    harm = HARMS[fault.name.removeprefix("site's state ")]
    run = begin(stage, tmp_path)
    log = f"worker-{WEST}"
    with Between(stage, run):
        before = len(stage.log(log))
        [file] = (stage.federation.folder / "state" / WEST).glob(f"{run.identifier}/*/round-0001.safetensors")
        harm(file)
    with Between(stage, run):
        pass
    run.finish()
    assert "round-0001.safetensors is damaged" in stage.log(log)[before:], stage.log(log)[before:]
    assert run.participants() == [SITES] * ROUNDS, run.failures()
    told.holds(run.violations(like_undisturbed=False))
    told("said in its log; counted in all rounds")


COHORT = Fault("files", "cohort spoilt mid-run", "a hospital's table becomes rubbish and its worker starts anew before round 2;"
               " the table is put back before round 3", "named: its data do not fit; counts again")  # fmt: skip


@parametrized((COHORT,))
def test_a_cohort_that_is_spoilt_mid_run_is_that_sites_trouble(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    table = stage.federation.sites[WEST].with_suffix(".csv")
    whole = table.read_bytes()
    run = begin(stage, tmp_path)
    try:
        with Between(stage, run):
            table.write_bytes(os.urandom(4000))
            restart_worker(stage)
        stage.await_reached("center", "journal.committed")
    finally:
        table.write_bytes(whole)
    with Between(stage, run):
        restart_worker(stage)
    run.finish()
    assert (WEST, 2, "cohort_unusable") in run.failures(), run.failures()
    missed_one_round(run, told)


def restart_worker(stage: Stage) -> None:
    with stage.restarting(f"worker-{WEST}"):
        stage.kill(f"worker-{WEST}")
    wait_for(lambda: stage.answers(WEST), timeout_s=90.0)


NO_MEMORY = Fault("memory", "allocation fails", "the worker's address space is limited to what it has, before round 2",
                  "the site says that it ran out of memory; counts again when it has some")  # fmt: skip


@parametrized((NO_MEMORY,))
def test_a_worker_without_memory_says_so(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    run = begin(stage, tmp_path, width=512)
    pid = stage.pid(f"worker-{WEST}")
    unlimited = resource.prlimit(pid, resource.RLIMIT_AS)
    with Between(stage, run):
        used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (used, unlimited[1]))
    stage.await_reached("center", "journal.committed")
    resource.prlimit(pid, resource.RLIMIT_AS, unlimited)
    with Between(stage, run):
        pass
    run.finish()
    assert (WEST, 2, "out_of_memory") in run.failures(), run.failures()
    missed_one_round(run, told)


OOM = Fault("memory", "OOM-killed", "the kernel kills the worker in round 2: its control group allows less than it needs",
            "started again by the service manager; the round goes on with the others; counts again")  # fmt: skip


@parametrized((OOM,))
def test_a_worker_that_the_kernel_kills_is_started_again(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    run = begin(stage, tmp_path)
    with Between(stage, run):
        stage.arm(WEST, "worker.admitted", action=HOLD)
    stage.await_reached(WEST, "worker.admitted")
    name, pid = f"worker-{WEST}", stage.pid(f"worker-{WEST}")
    with control_group(stage) as group:
        (group / "cgroup.procs").write_text(str(pid))
        # Pages that it has stay charged to where they were; whatever it touches next is too much.
        (group / "memory.limit_in_bytes").write_text("262144")
        process = stage.services[name].process
        assert process is not None
        with stage.restarting(name):
            stage.release(WEST, "worker.admitted")
        assert process.returncode == -signal.SIGKILL
        killed = dict(line.split() for line in (group / "memory.oom_control").read_text().splitlines())
        assert int(killed["oom_kill"]) >= 1
    with Between(stage, run):
        wait_for(lambda: stage.answers(WEST), timeout_s=90.0)
    run.finish()
    missed_one_round(run, told)


@contextmanager
def control_group(stage: Stage) -> Iterator[Path]:
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

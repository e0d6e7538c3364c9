"""The line between a hospital and the center: cut, silent, reset, slow, away for minutes."""

from pathlib import Path
from time import monotonic, sleep

import pytest

from shared_model.crashpoints import HOLD
from tests.deployed import wait_for
from tests.faults.rows import Fault, Told, parametrized
from tests.faults.stage import BEHIND_PROXY, ROUNDS, SITES, Stage
from tests.faults.test_site_dies import Between, begin, missed_one_round

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(1800)]

WEST = BEHIND_PROXY
AWAY = "named in that round, which goes on with the others; the hospital is told; connects again by itself, counts again"

SHORT = Fault("network", "partition of 15 s", "nothing passes once the worker has answered in round 2; the deadline is 60 s",
              "the reply arrives late, and counts")  # fmt: skip


@parametrized((SHORT,))
def test_a_short_partition_costs_nothing_but_time(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    run = begin(stage, tmp_path)
    with Between(stage, run):
        stage.arm(WEST, "worker.sealed", action=HOLD)
    stage.await_reached(WEST, "worker.sealed")
    stage.proxy.harm("partition")
    stage.release(WEST, "worker.sealed")
    sleep(15.0)
    stage.proxy.mend()
    with Between(stage, run):
        pass
    run.finish()
    assert run.participants() == [SITES] * ROUNDS, run.failures()
    told.holds(run.violations())
    told("all sites counted in all rounds; the same bits")


LONG = {
    "partition": Fault("network", "partition of 90 s", "nothing passes, and nobody is told, from within round 2", AWAY),
    "half-open": Fault("network", "half-open for 90 s", "connections are accepted, and then silent, from within round 2", AWAY),
    "outage": Fault("network", "outage of 6 min", "every connection is reset and none accepted, from within round 2", AWAY),
}


@parametrized(tuple(LONG.values()))
def test_a_site_that_is_cut_off_comes_back(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    mode = next(mode for mode, row in LONG.items() if row == fault)
    run = begin(stage, tmp_path)
    with Between(stage, run):
        stage.arm(WEST, "worker.received", action=HOLD)
    stage.await_reached(WEST, "worker.received")
    began, before = monotonic(), len(stage.log(f"join-{WEST}"))
    stage.proxy.harm(mode)  # type: ignore[arg-type]
    stage.release(WEST, "worker.received")
    with Between(stage, run):
        sleep(max(0.0, began + (360.0 if mode == "outage" else 90.0) - monotonic()))
        assert "waiting for the center" in stage.log(f"join-{WEST}")[before:], "the hospital is told what is wrong"
        stage.proxy.mend()
        mended = monotonic()
        wait_for(lambda: WEST in stage.online(), timeout_s=300.0, told=lambda: stage.log(f"join-{WEST}"))
        told(f"back {monotonic() - mended:.0f} s after the line was")
    run.finish()
    missed_one_round(run, told)


RESET = Fault("network", "RST mid-upload", "the connection that carries the reply of round 2 is reset after 20 kB",
              "sent again by itself; counts once")  # fmt: skip


@parametrized((RESET,))
def test_a_reset_upload_is_sent_again(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    run = begin(stage, tmp_path, width=64, deadline_s=120)  # 1.2 MB with its control variate
    with Between(stage, run):
        stage.arm(WEST, "worker.sealed", action=HOLD)
    stage.await_reached(WEST, "worker.sealed")
    stage.proxy.reset_after = 20_000
    stage.release(WEST, "worker.sealed")
    with Between(stage, run):
        assert stage.proxy.resets == 1
    run.finish()
    assert run.participants() == [SITES] * ROUNDS, run.failures()
    told.holds(run.violations())
    told("all sites counted once in all rounds; the same bits")


SLOW = Fault("network", "10 kB/s", "the line carries 10 kB/s each way from round 2 on; 0.3 MB go each way",
             "waited for, and counts")  # fmt: skip


@parametrized((SLOW,))
def test_a_slow_line_is_waited_for(stage: Stage, fault: Fault, told: Told, tmp_path: Path) -> None:
    run = begin(stage, tmp_path, width=32, deadline_s=300)  # 0.3 MB with its control variate
    with Between(stage, run):
        stage.proxy.rate = 10_000
    with Between(stage, run):
        pass
    run.finish(timeout_s=900.0)
    seconds = run.seconds()
    assert run.participants() == [SITES] * ROUNDS, run.failures()
    told.holds(run.violations())
    told(f"rounds of {seconds[0]:.0f}, {seconds[1]:.0f} and {seconds[2]:.0f} s; all sites counted; the same bits")

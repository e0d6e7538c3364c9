"""The line between a hospital and the center: cut, silent, reset, slow, away for minutes."""

from pathlib import Path
from time import monotonic, sleep

import pytest

from shared_model.crashpoints import HOLD
from tests.deployed import wait_for
from tests.faults.proxy import Mode
from tests.faults.rows import Fault, Told, parametrized
from tests.faults.stage import OTHERS, SITES, WEST, Between, Stage

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(7200)]

WIDTH = 32  # of the network: with its control variate the model has 0.3 MB
COUNTS = [
    Fault("network", "partition of 15 s", "nothing passes for 15 s from when the worker has answered", "late, and counts"),
    Fault("network", "RST mid-upload", "the connection that carries the reply is reset after 20 kB",
          "sent again by itself; counts once"),
    Fault("network", "10 kB/s", "the line carries 10 kB/s for a round of 0.3 MB each way", "waited for, and counts"),
]  # fmt: skip
AWAY = "named in that round, which goes on with the others; the hospital is told; connects again by itself, counts again"
CUT: dict[Mode, Fault] = {
    "partition": Fault("network", "partition of 90 s", "nothing passes, and nobody is told, from within a round", AWAY),
    "half-open": Fault("network", "half-open for 90 s", "connections are accepted, and then silent, from within a round", AWAY),
    "outage": Fault("network", "outage of 6 min", "every connection is reset and none accepted, from within a round", AWAY),
}


@parametrized(COUNTS, name="line that is bad")
def test_a_line_that_is_bad_costs_time(stage: Stage, rows: list[Fault], told: Told, tmp_path: Path) -> None:
    run = stage.begin(tmp_path, rounds=1 + len(rows), deadline_s=300, width=WIDTH)
    partition, reset, slow = rows
    with Between(run):
        stage.arm(WEST, "worker.sealed", action=HOLD)
    stage.await_reached(WEST, "worker.sealed")
    stage.proxy.harm("partition")
    stage.release(WEST, "worker.sealed")
    sleep(15.0)
    stage.proxy.mend()
    with Between(run):
        assert run.seconds()[-1] > 15.0
        told(f"round of {run.seconds()[-1]:.0f} s", partition)
        stage.arm(WEST, "worker.sealed", action=HOLD)
    stage.await_reached(WEST, "worker.sealed")
    stage.proxy.reset_after = 20_000
    stage.release(WEST, "worker.sealed")
    with Between(run):
        assert stage.proxy.resets == 1
        told(f"round of {run.seconds()[-1]:.0f} s", reset)
        stage.proxy.rate = 10_000
    run.await_round(4, timeout_s=400.0)
    assert run.seconds()[-1] > 40.0
    stage.proxy.mend()
    told(f"round of {run.seconds()[-1]:.0f} s", slow)
    run.finish()
    run.check(told, [SITES] * (1 + len(rows)))


@parametrized(list(CUT.values()), name="line that is cut")
def test_a_site_that_is_cut_off_comes_back(stage: Stage, rows: list[Fault], told: Told, tmp_path: Path) -> None:
    run = stage.begin(tmp_path, rounds=1 + 2 * len(rows))
    for number, (mode, fault) in enumerate(CUT.items()):
        with Between(run):
            stage.arm(WEST, "worker.received", action=HOLD)
        stage.await_reached(WEST, "worker.received")
        began, before = monotonic(), len(stage.log(f"join-{WEST}"))
        stage.proxy.harm(mode)
        stage.release(WEST, "worker.received")
        with Between(run):
            sleep(max(0.0, began + (360.0 if mode == "outage" else 90.0) - monotonic()))
            stage.await_log(f"join-{WEST}", "waiting for the center", after=before, timeout_s=90.0)
            stage.proxy.mend()
            mended = monotonic()
            wait_for(lambda: WEST in stage.online(), timeout_s=300.0, told=lambda: stage.log(f"join-{WEST}"))
            named = run.codes(WEST, 2 + 2 * number)
            told(f"named: {named}; back {monotonic() - mended:.0f} s after the line; counted in the next round", fault)
    run.finish()
    run.check(told, [SITES, *([OTHERS, SITES] * len(rows))])

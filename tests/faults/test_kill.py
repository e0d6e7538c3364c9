"""kill -9 of a whole simulation at random moments: each rerun of the same command goes on, and ends with the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

from server.journal import FILE, Journal
from tests.faults.rows import Fault, Told, parametrized
from tests.tables import write_sites, write_study

pytestmark = pytest.mark.faults

KILLS = 10
ROUNDS = 12
COMMAND = [sys.executable, "-c", "from server.cli import app; app()"]


def start(study: Path, sites: list[Path], out: Path, *design: str) -> subprocess.Popen[bytes]:
    arguments = ["simulate", str(study), *map(str, sites), "--out", str(out), "--threads", "1", *design]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "CONSILIUM_CACHE": str(out.parent / "cache")}
    log = (out.parent / f"{out.name}.log").open("ab")
    with log:
        return subprocess.Popen(COMMAND + arguments, stdout=log, stderr=log, env=environment, start_new_session=True)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


def wait_for_events(process: subprocess.Popen[bytes], out: Path, *, more: int) -> bool:
    """Wait until the journal holds ``more`` events than now; False if the run ends before."""
    seen = events(out)
    while events(out) < seen + more:
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return True


def events(out: Path) -> int:
    """Of the run, and of the studies within it that a design has."""
    return sum(_events(file.parent) for file in out.rglob(FILE))


def _events(folder: Path) -> int:
    with Journal(folder) as journal:
        return len(journal.events())


def outcome(out: Path) -> tuple[dict[str, bytes], dict[str, object], list[int]]:
    """Final tensors, results that do not depend on time, and the rounds in the journal."""
    tensors = {name: tensor.tobytes() for name, tensor in load_file(out / "models" / "best.safetensors").items()}
    results = json.loads((out / "results.json").read_text())
    with Journal(out) as journal:
        rounds = [record.round for record in journal.rounds()]
    return tensors, {"sites": results["sites"], "pooled": results["pooled"]}, rounds


SIMULATION = Fault("simulation", "ten kills", "kill -9 of a simulation and its children at ten random moments",
                   "each time the same command goes on; the same bits in the end")  # fmt: skip


@parametrized([SIMULATION])
def test_ten_kills_at_random_moments_change_no_bit(tmp_path: Path, rows: list[Fault], told: Told) -> None:
    study, sites = write_study(tmp_path, rounds=ROUNDS), write_sites(tmp_path)
    assert start(study, sites, tmp_path / "whole").wait(300) == 0
    moments = random.Random(20261123)
    out = tmp_path / "killed"
    for kill in range(KILLS):
        process = start(study, sites, out)
        # A run has some 90 events; a few at a time, then a little longer, reaches every kind of moment before its end.
        if kill:
            assert wait_for_events(process, out, more=moments.randint(1, 8)), (tmp_path / "killed.log").read_text()
        time.sleep(moments.uniform(0.0, 0.05))
        kill_tree(process)
    assert start(study, sites, out).wait(300) == 0, (tmp_path / "killed.log").read_text()
    assert outcome(out) == outcome(tmp_path / "whole")
    assert outcome(out)[2] == list(range(1, ROUNDS + 1))
    told(f"finished after {KILLS} kills; {ROUNDS} rounds, the same bits")


@pytest.mark.slow
def test_kills_in_the_middle_of_a_design_change_nothing_of_it(tmp_path: Path) -> None:
    study, sites, design = write_study(tmp_path, rounds=3), write_sites(tmp_path), "--leave-one-site-out"
    assert start(study, sites, tmp_path / "whole", design).wait(300) == 0
    moments = random.Random(20261125)
    out = tmp_path / "killed"
    for _ in range(3):
        process = start(study, sites, out, design)
        # The run itself has some 30 events, and each study of the design as many.
        assert wait_for_events(process, out, more=moments.randint(12, 30)), (tmp_path / "killed.log").read_text()
        kill_tree(process)
    assert start(study, sites, out, design).wait(300) == 0, (tmp_path / "killed.log").read_text()
    assert outcome(out) == outcome(tmp_path / "whole")
    whole, killed = (json.loads((folder / "results.json").read_text())["design"] for folder in (tmp_path / "whole", out))
    assert killed == whole
    assert killed["kind"] == "leave-one-site-out"

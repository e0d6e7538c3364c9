"""A round of three hospitals that do not train, with a model of 45 MB, over TLS, node authentication, nginx and SQLite:
what it takes beyond training, and where each second goes. ``make bench`` prints the table; nothing is asserted about time.
"""

import contextlib
import json
import sqlite3
import sys
import threading
from contextlib import closing
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

from server.journal import FILE, Journal
from tests.benchmarks.idle_worker import MARKS
from tests.deployed import Deployed, deployed, wait_for

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]

ROUNDS = 3
NAMES = ("alder", "birch", "cedar")
STUDY = """\
[study]
name = "bench"
title = "bench"
outcome = "none"
[variables]
a = { kind = "numeric" }
[network]
kind = "clinical_only"
width = 344
heads = 8
joint_blocks = 6
modality_dropout = 0.0
[training]
epochs = 1
[federation]
rounds = ROUNDS
[evaluation]
selection = "last"
"""
SITE = """\
[site]
name = "{name}"
[cohort]
table = "t.csv"
patient_id = "id"
label = {{ column = "y", positive = [1], negative = [0] }}
"""


class Births(threading.Thread):
    """Notices when relay processes start, and adds up the CPU seconds of all processes of the federation by command."""

    def __init__(self, roots: list[int]) -> None:
        super().__init__(daemon=True)
        self.started: dict[int, tuple[str, float]] = {}  # by process: its site, and when
        self.cpu: dict[int, tuple[str, float]] = {}
        self.memory: dict[str, int] = {}
        self._roots = roots
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.1):
            for root in self._roots:
                with contextlib.suppress(psutil.Error):
                    for process in psutil.Process(root).children(recursive=True):
                        self._look(process)

    def _look(self, process: psutil.Process) -> None:
        try:
            words = process.cmdline()
            if not words:  # a zombie
                return
            kind = "relay" if "client.warm" in words else Path(words[1] if len(words) > 1 else words[0]).name.split(":")[0]
            times = process.cpu_times()
            self.cpu[process.pid] = (kind, times.user + times.system)
            self.memory[kind] = max(self.memory.get(kind, 0), process.memory_info().rss)
            if kind == "relay":
                self.started.setdefault(process.pid, (Path(words[-1]).parent.name, process.create_time()))
        except psutil.Error:
            return

    def end(self) -> None:
        self._over.set()
        self.join()

    def seconds(self) -> dict[str, float]:
        sums: dict[str, float] = {}
        for kind, spent in self.cpu.values():
            sums[kind] = sums.get(kind, 0.0) + spent
        return sums


def test_where_the_seconds_of_a_deployed_round_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites = {}
    for name in NAMES:
        sites[name] = tmp_path / f"{name}.toml"
        sites[name].write_text(SITE.format(name=name))
    study = tmp_path / "study.toml"
    study.write_text(STUDY.replace("ROUNDS", str(ROUNDS)))
    with deployed(tmp_path, sites) as federation:
        for name in NAMES:
            arguments = (name, federation.socket(name), study, tmp_path / f"{name}.{MARKS}")
            federation.start(f"worker-{name}", [sys.executable, "-m", "tests.benchmarks.idle_worker"], *arguments)
        federation.up()
        for name in NAMES:
            federation.join(name)
        for name in NAMES:
            federation.await_line(f"join-{name}", "connected to")
            wait_for(federation.socket(name).is_socket, timeout_s=60.0)
        births = Births([federation.running[key].pid for key in ("up", *(f"join-{name}" for name in NAMES))])
        births.start()
        result = federation.run(study, tmp_path / "run")
        births.end()
        assert result.returncode == 0, result.stdout + result.stderr
        lines = table(federation, tmp_path, births)
    with capsys.disabled():
        print("\n" + "\n".join(lines))


def table(federation: Deployed, folder: Path, births: Births) -> list[str]:
    run = folder / "run"
    with Journal(run) as journal:
        record = journal.record()
    size = (run / "models" / f"round-{ROUNDS:04d}.safetensors").stat().st_size / 1e6
    walls = [round_.wall_s for round_ in record.rounds]
    lines = [f"model of {size:.1f} MB, {len(NAMES)} sites; load {psutil.getloadavg()[0]:.1f} on {psutil.cpu_count()} CPUs"]
    lines.append("seconds a round: " + ", ".join(f"{wall:.1f}" for wall in walls) + f"; best {min(walls):.1f}")
    legs = np.median([legs_of(round_, folder, births) for round_ in range(2, ROUNDS + 1)], axis=0)
    for name, seconds in zip(LEGS, legs, strict=True):
        lines.append(f"  {seconds:5.2f} s  {name}")
    messages = (ROUNDS + 1) * len(NAMES) + len(NAMES)
    spent = births.seconds()
    lines.append("CPU seconds a round, and largest memory:")
    for kind, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        share = f"; {seconds / messages:.2f} a message" if kind == "relay" else ""
        lines.append(f"  {seconds / (ROUNDS + 1):5.2f} s  {kind} ({births.memory[kind] / 1e6:.0f} MB){share}")
    lines.append(f"  {sum(spent.values()) / (ROUNDS + 1):5.2f} s  together")
    return lines


LEGS = (
    "center: encode and send",
    "slowest site: SuperNode notices, fetches the model, has the relay started",
    "slowest site: the relay starts, and hands the model to the worker",
    "slowest site: worker",
    "slowest site: relay and SuperNode send the update; the center fetches it",
    "center: aggregate, commit to disk",
)


def legs_of(round_: int, folder: Path, births: Births) -> list[float]:
    """Seconds of each leg of a round, along the site that answered last."""
    events = events_of(folder / "run", round_)
    answered = {body["site"]: at for at, kind, body in events if kind == "answered"}
    last = max(answered, key=lambda site: answered[site])
    marks = [json.loads(line) for line in (folder / f"{last}.{MARKS}").read_text().splitlines()]
    mark = next(mark for mark in marks if mark["round"] == round_)
    born = max(at for site, at in births.started.values() if site == last and at < mark["arrived"])
    times = {kind: at for at, kind, _ in events}
    points = [times["round"], times["asked"], born, mark["arrived"], mark["answered"], answered[last], times["committed"]]
    return [later - earlier for earlier, later in pairwise(points)]


def events_of(run: Path, round_: int) -> list[tuple[float, str, dict[str, object]]]:
    with closing(sqlite3.connect(run / FILE)) as database:
        rows = database.execute("SELECT at, kind, body FROM event ORDER BY id").fetchall()
    events = [(datetime.fromisoformat(at).timestamp(), kind, json.loads(body)) for at, kind, body in rows]
    start = next(place for place, (_, kind, body) in enumerate(events) if kind == "round" and body["round"] == round_)
    end = next(place for place, (_, kind, body) in enumerate(events) if kind == "committed" and body["round"] == round_)
    return events[start : end + 1]

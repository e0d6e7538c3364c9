"""The README's table of faults, written by the run of ``make faults`` itself; a plugin of pytest's.

``--fault-table FILE`` puts what happened between the two marks of that file. A run of a part of the suite writes its rows and
keeps the others.
"""

import importlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.rows import PROPERTY, Fault

MODULES = (
    "test_center_dies",
    "test_site_dies",
    "test_private_crash",
    "test_kill",
    "test_network",
    "test_replies",
    "test_files",
    "test_memory",
    "test_read_only",
    "test_trust",
)

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
HEAD = "| where | fault | what is done | expected | what happened | held | s |\n|---|---|---|---|---|---|---|"
HELD = {"passed": "yes", "failed": "**no**", "skipped": "not run here"}


@dataclass(frozen=True)
class Row:
    """One line of the table, cell by cell."""

    where: str
    name: str
    done: str
    expected: str
    happened: str
    held: str
    seconds: str

    @classmethod
    def of(cls, told: dict[str, Any], *, held: str) -> "Row":
        """What a test told."""
        seconds = f"{told['seconds']:.0f}"
        return cls(told["where"], told["name"], told["done"], told["expected"], told["happened"] or "-", held, seconds)

    @classmethod
    def not_run(cls, fault: Fault) -> "Row":
        """Of a fault that no run has met yet."""
        return cls(fault.where, fault.name, fault.done, fault.expected, "-", "not run", "-")

    def __str__(self) -> str:
        return f"| {' | '.join(cell.replace('|', '/') for cell in astuple(self))} |"


class FaultTable:
    """Collects the rows of a run and writes them into ``file``."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows: list[Row] = []
        self._outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has three reports: its fixtures, itself, and their end, with which it has told everything."""
        if report.outcome != "passed":
            self._outcomes.setdefault(report.nodeid, report.outcome)
        if report.when == "teardown":
            held = HELD[self._outcomes.get(report.nodeid, "passed")]
            told = [json.loads(str(text)) for name, text in report.user_properties if name == PROPERTY]
            if told:
                self._rows += [Row.of(row, held=held) for row in told]
                self._write()

    def _write(self) -> None:
        """After each test, so that a run that is broken off has written what it saw."""
        self._file.write_text(with_rows(self._file.read_text(encoding="utf-8"), self._rows), encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", type=Path, help="write what happened between the marks of this file")


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--fault-table")
    if file is not None and not hasattr(config, "workerinput"):  # of several processes, the one that sees all reports
        config.pluginmanager.register(FaultTable(file))


def rows_in(text: str) -> list[Row]:
    """The rows of the table in ``text``."""
    inside = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    lines = [line for line in inside.splitlines() if line.startswith("| ") and line not in HEAD.splitlines()]
    return [Row(*(cell.strip() for cell in line.strip("| \n").split(" | "))) for line in lines]


def with_rows(text: str, rows: Sequence[Row]) -> str:
    """``text`` with ``rows`` in its table, in place of those of the same name, in the order of the suite."""
    known = {row.name: row for row in (*rows_in(text), *rows)}
    ordered = [known.get(fault.name) or Row.not_run(fault) for fault in faults()]
    table = "\n".join([HEAD, *map(str, ordered)])
    return text[: text.index(BEGIN) + len(BEGIN)] + f"\n\n{table}\n\n" + text[text.index(END) :]


def faults() -> list[Fault]:
    """All rows of the suite, in its order: what tests are parametrized with."""
    found = []
    for name in MODULES:
        module = importlib.import_module(f"tests.faults.{name}")
        for test in vars(module).values():
            for mark in getattr(test, "pytestmark", ()) if callable(test) else ():
                if mark.name == "parametrize" and mark.args[0] == "rows":
                    found += [fault for group in mark.args[1] for fault in group]
    return found

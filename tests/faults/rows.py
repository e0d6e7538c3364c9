"""Faults as rows of data: what is done, what is expected. What happened is told by the test, and becomes a table."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from time import monotonic

import pytest

PROPERTY = "fault"


@dataclass(frozen=True)
class Fault:
    """One row: ``name`` is unique, ``done`` says what is done to whom, ``expected`` what must come of it."""

    where: str
    name: str
    done: str
    expected: str


@dataclass
class Told:
    """What a test saw of its row."""

    fault: Fault
    record: Callable[[str, object], None]
    happened: list[str] = field(default_factory=list)
    began: float = field(default_factory=monotonic)

    def __call__(self, text: str) -> None:
        """Say what happened."""
        self.happened.append(text)

    def holds(self, violations: list[str]) -> None:
        """All invariants hold of the run."""
        assert violations == []

    def close(self) -> None:
        self.record(PROPERTY, json.dumps(asdict(self.fault) | {"happened": "; ".join(self.happened)}))


def parametrized(faults: tuple[Fault, ...]) -> pytest.MarkDecorator:
    """A test of each of ``faults``, as its argument ``fault``."""
    return pytest.mark.parametrize("fault", faults, ids=[fault.name for fault in faults])

"""Faults as rows of data: what is done, what is expected. What happened is told by the test, and becomes a table."""

import json
from collections.abc import Callable, Sequence
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

    @property
    def point(self) -> str:
        """The point of the code that its name ends with."""
        return self.name.split(": ")[1]


@dataclass
class Told:
    """What a test saw of its rows."""

    rows: Sequence[Fault]
    record: Callable[[str, object], None]
    happened: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    since: float = field(default_factory=monotonic)

    def __call__(self, text: str, fault: Fault | None = None) -> None:
        """Say what happened at ``fault``, which ends here; without it, what holds of all rows."""
        for row in self.rows if fault is None else (fault,):
            self.happened.setdefault(row.name, []).append(text)
            if row.name not in self.seconds:
                self.seconds[row.name] = monotonic() - self.since
        self.since = monotonic()

    def close(self) -> None:
        for row in self.rows:
            told = {"happened": "; ".join(self.happened.get(row.name, [])), "seconds": self.seconds.get(row.name, 0.0)}
            self.record(PROPERTY, json.dumps(asdict(row) | told))


def parametrized(*groups: Sequence[Fault], name: str = "") -> pytest.MarkDecorator:
    """A test of each of ``groups``, as its argument ``rows``: faults that are met one after the other in one run."""
    return pytest.mark.parametrize("rows", groups, ids=[name or group[0].name for group in groups])


def each(faults: Sequence[Fault]) -> pytest.MarkDecorator:
    """A test of each of ``faults`` by itself, as its argument ``rows``."""
    return parametrized(*((fault,) for fault in faults))

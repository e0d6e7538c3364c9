"""Fixtures of the fault suite: the federation, and what a test tells of its row."""

from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.faults.rows import Fault, Told
from tests.faults.stage import Stage, staged


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """All processes, up and connected, once for all tests of this process."""
    with staged(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture
def stage(federation: Stage) -> Iterator[Stage]:
    """The federation as a test finds it, and leaves it: whole."""
    federation.heal()
    yield federation
    federation.disarm()


@pytest.fixture
def told(rows: Sequence[Fault], record_property: Callable[[str, object], None]) -> Iterator[Told]:
    """What happened, for the table."""
    telling = Told(rows, record_property)
    yield telling
    telling.close()

"""Fixtures of the fault suite: the federation, and what a test tells of its row."""

from collections.abc import Iterator

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
def told(fault: Fault, record_property: pytest.FixtureRequest) -> Iterator[Told]:
    """What happened, for the table."""
    telling = Told(fault, record_property)  # type: ignore[arg-type]
    yield telling
    telling.close()

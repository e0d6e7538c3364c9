"""Keeps processes running: what dies is started again, later and later if it keeps dying."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from shared_model.household import Household

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0
SETTLED_S = 60.0  # who has run for so long starts again without delay

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """A process to keep running. ``pause_s`` may ask for a longer pause than the usual back-off after an exit with a code."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    pause_s: Callable[[int], float] = lambda code: 0.0


@dataclass
class _Kept:
    service: Service
    started: float | None = None
    due: float = 0.0
    delay: float = 0.0
    restarts: int = 0


class Supervisor:
    """Starts ``services`` in ``folder`` and restarts those that end. Does nothing by itself: ``step`` looks after them."""

    def __init__(self, household: Household, services: Sequence[Service], *, folder: Path) -> None:
        self._household = household
        self._folder = folder
        self._kept = {service.name: _Kept(service) for service in services}

    @property
    def restarts(self) -> dict[str, int]:
        """How often each service was started again."""
        return {name: kept.restarts for name, kept in self._kept.items()}

    def is_running(self, name: str) -> bool:
        """Whether the service runs at this moment."""
        return self._kept[name].started is not None and self._household.exit_code(name) is None

    def hold(self, name: str, *, seconds: float) -> None:
        """Do not start the service before ``seconds`` have passed."""
        self._kept[name].due = max(self._kept[name].due, monotonic() + seconds)

    def step(self) -> None:
        """Notice what has ended, and start what is due."""
        for kept in self._kept.values():
            self._look_after(kept)

    def _look_after(self, kept: _Kept) -> None:
        name = kept.service.name
        if kept.started is not None and (code := self._household.exit_code(name)) is not None:
            lasted = monotonic() - kept.started
            kept.delay = FIRST_DELAY_S if lasted >= SETTLED_S else min(LONGEST_DELAY_S, max(FIRST_DELAY_S, 2 * kept.delay))
            kept.due = max(kept.due, monotonic() + max(kept.delay, kept.service.pause_s(code)))
            kept.started = None
            kept.restarts += 1
            wait = kept.due - monotonic()
            log.warning("%s ended with %s after %.0f s; it is started again in %.0f s", name, _how(code), lasted, wait)
        if kept.started is None and monotonic() >= kept.due:
            self._household.start(name, kept.service.command, folder=self._folder, environment=kept.service.environment)
            kept.started = monotonic()
            log.info("%s started", name)


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"

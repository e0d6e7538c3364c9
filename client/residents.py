"""Workers that live in this very process, by key: those of a simulation, and those of a Ray actor."""

import json
from pathlib import Path
from threading import Lock
from typing import Protocol

from shared_model.messages import Envelope


class Resident(Protocol):
    """What the relay needs of a worker, be it in this process or behind a socket."""

    @property
    def name(self) -> str:
        """Name of the worker's site."""

    def handle(self, envelope: Envelope) -> Envelope:
        """Answer a request."""


_residents: dict[str, Resident] = {}
_lock = Lock()


def install(key: str, worker: Resident) -> None:
    """Make ``worker`` known in this process as ``key``."""
    with _lock:
        _residents[key] = worker


def remove(key: str) -> None:
    """Forget the worker ``key``."""
    with _lock:
        _residents.pop(key, None)


def find(key: str) -> Resident:
    """The worker installed as ``key``.

    Raises:
        ConnectionError: there is none.
    """
    with _lock:
        if key not in _residents:
            raise ConnectionError(f"no worker {key!r} in this process")
        return _residents[key]


def of_partition(partition: int, *, plan: Path) -> Resident:
    """The worker of the site that has number ``partition`` in the JSON file ``plan``; opened at the first call and kept,
    so that cohort and network outlive the single message.

    ``plan`` holds ``sites`` (paths of site.toml, in order), ``state`` (folder) and ``threads`` (number or null).
    """
    key = f"{plan}#{partition}"
    with _lock:
        if key not in _residents:
            _residents[key] = _open_site(partition, plan)
        return _residents[key]


def _open_site(partition: int, plan: Path) -> Resident:
    from client.worker import open_site

    document = json.loads(plan.read_text(encoding="utf-8"))
    return open_site(Path(document["sites"][partition]), state=Path(document["state"]), threads=document["threads"])

"""One question to a hospital's data, machine or network, and its answer. ``consilium-site check`` and ``doctor`` ask many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "warn", "fail", "skip"]
STATUSES: tuple[Status, ...] = ("fail", "warn", "skip", "pass")


@dataclass(frozen=True)
class Problem:
    """What is wrong, and how to fix it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Check:
    """One question. ``found`` is the answer in words, ``problems`` why it is no pass; a check that could not be made is
    ``skip``, and ``found`` says why."""

    id: str
    title: str
    status: Status
    found: str
    problems: tuple[Problem, ...] = ()


def check_of(id_: str, title: str, found: str, *, warnings: Sequence[Problem] = (), failures: Sequence[Problem] = ()) -> Check:
    """A check that fails with ``failures``, warns with ``warnings``, and passes without either."""
    status: Status = "fail" if failures else "warn" if warnings else "pass"
    return Check(id_, title, status, found, (*failures, *warnings))


def skipped(id_: str, title: str, why: str) -> Check:
    """A check that could not be made."""
    return Check(id_, title, "skip", why)

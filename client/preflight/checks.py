"""One check of ``consilium-site check``, and all of them together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from client.cohort import Findings

Status = Literal["pass", "warn", "fail", "skip"]
STATUSES: tuple[Status, ...] = ("fail", "warn", "skip", "pass")


@dataclass(frozen=True)
class Problem:
    """What is wrong, and how to fix it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Check:
    """One question to the site's data or machine. ``found`` is the answer in words, ``problems`` why it is no pass; a
    check that could not be made is ``skip``, and ``found`` says why."""

    id: str
    title: str
    status: Status
    found: str
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Sheet:
    """A contact sheet: a caption and a JPEG. It holds patients' pictures and stays at the site."""

    caption: str
    jpeg: bytes


@dataclass(frozen=True)
class Preflight:
    """All checks of a site. ``findings`` is None where the data could not be read."""

    site: str
    study: str | None
    checks: tuple[Check, ...]
    findings: Findings | None = None
    sheets: tuple[Sheet, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check.status != "fail" for check in self.checks)

    def count(self, status: Status) -> int:
        """How many checks ended so."""
        return sum(check.status == status for check in self.checks)


def check_of(id_: str, title: str, found: str, *, warnings: Sequence[Problem] = (), failures: Sequence[Problem] = ()) -> Check:
    """A check that fails with ``failures``, warns with ``warnings``, and passes without either."""
    status: Status = "fail" if failures else "warn" if warnings else "pass"
    return Check(id_, title, status, found, (*failures, *warnings))


def skipped(id_: str, title: str, why: str) -> Check:
    """A check that could not be made."""
    return Check(id_, title, "skip", why)


def counts_in_words(counts: Mapping[str, int]) -> str:
    """``{"a": 2, "b": 1}`` as "2 a, 1 b"."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())

"""All checks of ``consilium-site check`` together."""

from collections.abc import Mapping
from dataclasses import dataclass

from client.checks import STATUSES, Check, Problem, Status, check_of, skipped
from client.cohort import Findings

__all__ = ["STATUSES", "Check", "Preflight", "Problem", "Sheet", "Status", "check_of", "counts_in_words", "skipped"]


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


def counts_in_words(counts: Mapping[str, int]) -> str:
    """``{"a": 2, "b": 1}`` as "2 a, 1 b"."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())

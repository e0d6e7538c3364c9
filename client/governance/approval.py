"""What a person at the hospital has approved: protocols by their SHA-256, who did it, when, and what was revoked.

Kept in one small file, written whole or not at all, and read anew for each request, so that a revocation holds at once.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from client.site_config import Policy, TaskName
from shared_model.durable import write_durably
from shared_model.errors import ConfigurationError, Fault
from shared_model.messages import Part
from shared_model.protocol import StudyProtocol
from shared_model.summaries import Record

FILE = "approvals.json"
JUDGED: tuple[Part, ...] = ("tune", "test")  # performance on training patients would tell who they are


@dataclass(frozen=True)
class Approval(Record):
    """One decision. ``epsilon`` is what the study was planned to spend of the site's privacy budget, None without
    differential privacy; ``automatic`` marks the approvals that a simulation gives itself. ``at`` is ISO 8601 in UTC."""

    protocol_sha256: str
    study: str
    rounds: int
    tasks: tuple[TaskName, ...]
    parts: tuple[Part, ...]
    epsilon: float | None
    by: str
    at: str
    automatic: bool = False
    revoked_by: str | None = None
    revoked_at: str | None = None

    @property
    def for_audit(self) -> dict[str, object]:
        """What the audit log says of this decision."""
        said: dict[str, object] = {"protocol": self.protocol_sha256, "study": self.study, "rounds": self.rounds, "by": self.by}
        said |= {} if self.epsilon is None else {"epsilon": f"{self.epsilon:g}"}
        return said | {"automatic": self.automatic} | ({"revoked_by": self.revoked_by} if self.revoked_by else {})


class Approvals:
    """The approvals of one site, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE

    def all(self) -> tuple[Approval, ...]:
        """Every approval, revoked ones too, the oldest first.

        Raises:
            ConfigurationError: the file is damaged. Then nothing is approved.
        """
        try:
            return _ALL.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return ()
        except ValidationError as error:
            found = f"{error.error_count()} things that were not written by consilium-site"
            remedy = "move it away, and approve again what is to run"
            raise ConfigurationError([Fault(str(self._path), "", found, "a list of approvals", remedy)]) from None

    def standing(self, protocol_sha256: str) -> Approval | None:
        """The approval of a protocol that holds now; None if there is none, or it was revoked."""
        newest = next((held for held in reversed(self.all()) if held.protocol_sha256 == protocol_sha256), None)
        return newest if newest is not None and newest.revoked_at is None else None

    def approve(self, protocol: StudyProtocol, *, policy: Policy, by: str, automatic: bool = False) -> Approval:
        """Record that ``protocol`` may run, as far as ``policy`` allows. One that holds already is returned as it is."""
        with self._alone():
            if standing := self.standing(protocol.sha256):
                return standing
            made = Approval(
                protocol_sha256=protocol.sha256,
                study=protocol.study.name,
                rounds=min(protocol.federation.rounds, policy.max_rounds),
                tasks=policy.tasks,
                parts=JUDGED,
                epsilon=planned_epsilon(protocol, policy),
                by=by,
                at=_now(),
                automatic=automatic,
            )
            self._write((*self.all(), made))
        return made

    def revoke(self, named: str, *, by: str) -> tuple[Approval, ...]:
        """Revoke the standing approvals whose study is ``named`` so, or whose protocol's SHA-256 starts so; returns them."""
        with self._alone():
            held = self.all()
            meant = [a for a in held if a.revoked_at is None and (a.study == named or _starts(a.protocol_sha256, named))]
            revoked = {approval: replace(approval, revoked_by=by, revoked_at=_now()) for approval in meant}
            self._write(tuple(revoked.get(approval, approval) for approval in held))
        return tuple(revoked.values())

    def _write(self, approvals: tuple[Approval, ...]) -> None:
        write_durably(self._path, _ALL.dump_json(approvals, indent=2))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / f"{FILE}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def planned_epsilon(protocol: StudyProtocol, policy: Policy) -> float | None:
    """What ``protocol`` may spend at most at a site with ``policy``; None without differential privacy."""
    dp = protocol.privacy.dp
    return None if dp is None else min(dp.epsilon, policy.epsilon_limit)


_ALL: TypeAdapter[tuple[Approval, ...]] = TypeAdapter(tuple[Approval, ...])
_SHORTEST_PREFIX = 6


def _starts(sha256: str, prefix: str) -> bool:
    return len(prefix) >= _SHORTEST_PREFIX and sha256.startswith(prefix)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

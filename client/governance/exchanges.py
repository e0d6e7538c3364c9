"""What a site has answered, and about which patients: so that no request is replayed, no model probed without end, and no
two answers differ by a few patients.

SQLite with full sync. It holds hashes and counts, and no value of a patient.
"""

import hashlib
import hmac
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from client.cohort import StudyPatients
from client.governance.approval import Approval
from client.site_config import Policy
from shared_model import messages
from shared_model.errors import FailureCode, RefusedError
from shared_model.inputs import ABSENT
from shared_model.messages import (
    CompareRequest,
    Envelope,
    EvaluateRequest,
    ExplainRequest,
    Message,
    PatientRequest,
    TrainRequest,
)

FILE = "exchanges.sqlite"
ROUNDS_BACK = 3  # the center keeps the checkpoints of the last two rounds, and may go back to them
_DIGEST = 12  # bytes; of a thousand patients, two are alike by chance once in 10^23
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS request (protocol TEXT NOT NULL, run TEXT NOT NULL, kind TEXT NOT NULL, round INTEGER NOT NULL,"
    " attempt TEXT NOT NULL, content TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (run, kind, attempt))",
    "CREATE TABLE IF NOT EXISTS cohort (kind TEXT NOT NULL, fingerprint TEXT NOT NULL, members BLOB NOT NULL, at TEXT NOT NULL,"
    " PRIMARY KEY (kind, fingerprint))",
    "CREATE TABLE IF NOT EXISTS secret (id INTEGER PRIMARY KEY CHECK (id = 1), key BLOB NOT NULL)",
)


@dataclass(frozen=True)
class CohortVersion:
    """A cohort as a set of keyed hashes. ``kind`` tells of what: two versions can be compared just if it is the same."""

    kind: str
    members: frozenset[bytes]

    @property
    def fingerprint(self) -> str:
        """The same for the same patients, in whatever order."""
        return hashlib.sha256(b"".join(sorted(self.members))).hexdigest()

    def apart(self, other: "CohortVersion") -> int:
        """How many patients were added, removed or changed."""
        return max(len(self.members - other.members), len(other.members - self.members))


class Exchanges:
    """What one site answered, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _store(self) -> tuple[Path, bytes]:
        """The file and the key in it, made when first needed: a site that cannot even start leaves nothing behind."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / FILE
        with _transaction(path) as database:
            for table in _SCHEMA:
                database.execute(table)
            database.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (secrets.token_bytes(32),))
            [key] = database.execute("SELECT key FROM secret").fetchone()
        return path, bytes(key)

    def admit(self, request: PatientRequest, envelope: Envelope, *, approval: Approval, policy: Policy) -> None:
        """Make sure that ``request`` is none that was answered otherwise, is long past, or one too many; and remember it.

        The same request may come again, as after a failure of the center: it gets the same answer.

        Raises:
            RefusedError: ``REPLAYED_REQUEST`` or ``TOO_MANY_ROUNDS``.
        """
        task, content = request.task, content_sha256(request, envelope)
        with _transaction(self._store[0]) as database:
            known = database.execute(
                "SELECT content FROM request WHERE run = ? AND kind = ? AND attempt = ?", (task.run, request.kind, task.attempt)
            ).fetchone()
            if known is not None and not hmac.compare_digest(known[0], content):
                raise RefusedError(FailureCode.REPLAYED_REQUEST, "an attempt that asked for something else before")
            self._refuse_the_past(database, request)
            if known is None:
                self._refuse_one_too_many(database, request, approval=approval, policy=policy)
                row = (approval.protocol_sha256, task.run, request.kind, task.round, task.attempt, content, _now())
                database.execute("INSERT INTO request VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def admit_cohort(self, versions: Iterable[CohortVersion], *, policy: Policy) -> None:
        """Make sure that a cohort is none from which, and from an earlier one, a few patients could be singled out; and
        remember it.

        Raises:
            RefusedError: ``COHORT_CHANGED``.
        """
        with _transaction(self._store[0]) as database:
            for version in versions:
                rows = database.execute("SELECT members, at FROM cohort WHERE kind = ?", (version.kind,)).fetchall()
                for members, at in rows:
                    apart = version.apart(CohortVersion(version.kind, _parted(members)))
                    if policy.small_changes == "refuse" and 0 < apart < policy.minimum_cell:
                        raise RefusedError(
                            FailureCode.COHORT_CHANGED,
                            f"{apart} patients differ from the cohort of {at}, of which something was told: the difference of "
                            "both answers would tell of them. Use that export again, or wait for more patients; or set "
                            'policy.small_changes = "allow" if this may be known',
                        )
                row = (version.kind, version.fingerprint, b"".join(sorted(version.members)), _now())
                database.execute("INSERT OR IGNORE INTO cohort VALUES (?, ?, ?, ?)", row)

    def versions(self, patients: StudyPatients, *, protocol_sha256: str) -> tuple[CohortVersion, ...]:
        """A cohort by what a protocol sees of each patient, and, across protocols, by who they are."""
        rows = CohortVersion(protocol_sha256, frozenset(self._rows(patients)))
        if not patients.members:
            return (rows,)
        return rows, CohortVersion("who", frozenset(self._hashed(member.encode()) for member in patients.members))

    def _rows(self, patients: StudyPatients) -> Iterable[bytes]:
        data = patients.tensors.to(torch.device("cpu"))
        part_of: dict[int, str] = {}
        for part, index in patients.parts.items():
            part_of |= dict.fromkeys(index.tolist(), part)
        columns = [data.numeric, data.numeric_present, data.categorical, data.views, data.label]
        images = [hashlib.sha256(image.numpy().tobytes()).digest() for image in data.images]
        for place in range(len(data)):
            values = b"".join(np.ascontiguousarray(column[place].numpy()).tobytes() for column in columns)
            pictures = b"".join(images[slot] for slot in data.slots[place].tolist() if slot != ABSENT)
            yield self._hashed(part_of.get(place, "").encode() + b"\0" + values + pictures)

    def _hashed(self, content: bytes) -> bytes:
        return hmac.digest(self._store[1], content, "sha256")[:_DIGEST]

    @staticmethod
    def _refuse_the_past(database: sqlite3.Connection, request: PatientRequest) -> None:
        if request.kind != "train":
            return
        latest = database.execute(
            "SELECT max(round) FROM request WHERE run = ? AND kind = ?", (request.task.run, request.kind)
        ).fetchone()[0]
        if latest is not None and request.task.round < latest - ROUNDS_BACK:
            raise RefusedError(FailureCode.REPLAYED_REQUEST, f"round {request.task.round}, after round {latest}")

    @staticmethod
    def _refuse_one_too_many(
        database: sqlite3.Connection, request: PatientRequest, *, approval: Approval, policy: Policy
    ) -> None:
        run, of_protocol = request.task.run, "SELECT DISTINCT run FROM request WHERE protocol = ?"
        runs = {found for (found,) in database.execute(of_protocol, (approval.protocol_sha256,))}
        if run not in runs and len(runs) >= policy.max_runs and not approval.automatic:
            raise RefusedError(FailureCode.TOO_MANY_ROUNDS, f"a run of this protocol after {len(runs)} others")
        if isinstance(request, EvaluateRequest | CompareRequest | ExplainRequest):
            of_run = "SELECT count(*) FROM request WHERE run = ? AND kind IN ('evaluate', 'compare', 'explain')"
            asked = database.execute(of_run, (run,)).fetchone()[0]
            if asked >= policy.max_evaluations:
                raise RefusedError(FailureCode.TOO_MANY_ROUNDS, f"an evaluation after {asked} others in this run")


@contextmanager
def _transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """On the disk when the block ends; if the block raises, it never was."""
    with closing(sqlite3.connect(path, timeout=30.0, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = FULL")
        database.execute("BEGIN IMMEDIATE")
        yield database
        database.execute("COMMIT")


def content_sha256(request: PatientRequest, envelope: Envelope) -> str:
    """Identity of what is asked, whatever the transport: record and vectors."""
    if isinstance(request, TrainRequest | EvaluateRequest):
        request = replace(request, masking=None)  # each try sums under keys of its own, whose use is watched elsewhere
    request = replace(request, task=replace(request.task, heads=()))
    return hashlib.sha256(messages.encode(Message(request)).header + b"\0" + envelope.payload).hexdigest()


def _parted(members: bytes) -> frozenset[bytes]:
    return frozenset(members[start : start + _DIGEST] for start in range(0, len(members), _DIGEST))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""The privacy ledger of a hospital: what every study, run and round has cost its patients, and what is left.

One SQLite file with full sync. A round is charged in the transaction that also promises its reply to the outbox, before
anything leaves, so that the ledger never shows less than what left. What counts against the limit are all charges whose
patients are not provably others: of a set of patients that shares nobody with those of today, charges are those of others.
Who is whom is told by keyed hashes; the key lies in the file itself, so that neither can be lost without the other.
"""

import hashlib
import hmac
import secrets
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from client.governance.accounting import LARGEST_NOISE, epsilon, least_noise
from client.site_config import Policy
from client.training.private import Mechanism
from shared_model.crashpoints import crashpoint
from shared_model.errors import ConfigurationError, FailureCode, Fault, RefusedError
from shared_model.privacy_spent import PrivacySpent
from shared_model.protocol import StudyProtocol
from shared_model.protocol_privacy import AccountantName, DifferentialPrivacy

FILE = "budget.sqlite"
_DIGEST = 16
_VERSION = 1  # before, patients were named by pseudonyms under a key that lay in the cache
_SCHEMA = """
CREATE TABLE IF NOT EXISTS secret (id INTEGER PRIMARY KEY CHECK (id = 1), key BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS patients (fingerprint TEXT PRIMARY KEY, members BLOB NOT NULL, at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS plan (run TEXT, protocol TEXT, study TEXT NOT NULL, rounds INTEGER NOT NULL, noise REAL NOT NULL,
    rate REAL NOT NULL, steps INTEGER NOT NULL, epsilon REAL NOT NULL, accountant TEXT NOT NULL, at TEXT NOT NULL,
    PRIMARY KEY (run, protocol));
CREATE TABLE IF NOT EXISTS charge (id INTEGER PRIMARY KEY, at TEXT NOT NULL, run TEXT NOT NULL, protocol TEXT NOT NULL,
    study TEXT NOT NULL, round INTEGER NOT NULL, patients TEXT NOT NULL, noise REAL NOT NULL, rate REAL NOT NULL,
    steps INTEGER NOT NULL, reply TEXT);
CREATE TABLE IF NOT EXISTS outbox (run TEXT, round INTEGER, request TEXT NOT NULL, reply TEXT NOT NULL,
    PRIMARY KEY (run, round));
"""


@dataclass(frozen=True)
class Charge:
    """One round as it stands in the ledger. ``reply`` is the SHA-256 of what was to leave, None where the round failed."""

    at: str
    run: str
    protocol_sha256: str
    study: str
    round: int
    mechanism: Mechanism
    patients: str
    reply: str | None


@dataclass(frozen=True)
class Plan:
    """What a run was granted at its first round: ``mechanism`` is one round's, ``epsilon`` what all ``rounds`` cost."""

    run: str
    protocol_sha256: str
    study: str
    rounds: int
    mechanism: Mechanism
    epsilon: float
    accountant: AccountantName


class Ledger:
    """The ledger of one site, in ``folder``; ``policy`` holds its limit and delta.

    Raises:
        ConfigurationError: the file is damaged. It is never begun anew by itself.
    """

    def __init__(self, folder: Path, *, policy: Policy) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = folder / FILE
        self.policy = policy
        with self._transaction() as database:
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            database.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (secrets.token_bytes(32),))
            [self._key] = database.execute("SELECT key FROM secret").fetchone()
            self._forget_names_of_before(database)
        self.path.chmod(0o600)

    # Before a round

    def noise(self, protocol: StudyProtocol, *, run: str, planned: Mechanism, patients: Collection[str]) -> float:
        """The noise multiplier of every round of ``run``: fixed at its first, from the limit, the delta and the rounds that the
        protocol plans. ``planned`` is one round, its noise not yet known; ``patients`` names each of the cohort, always alike.

        Raises:
            RefusedError: ``BUDGET_EXCEEDED`` if no useful noise keeps the planned rounds within the budget.
        """
        dp = _dp(protocol)
        known = self._plan(run, protocol.sha256)
        if known is not None:
            return known.mechanism.noise_multiplier
        spent = self._history(patients)
        rounds = protocol.federation.rounds
        whole = replace(planned, steps=planned.steps * rounds)
        found = least_noise(
            spent,
            whole,
            target=dp.epsilon,
            limit=self.policy.epsilon_limit,
            delta=self.policy.delta,
            accountant=dp.accountant,
        )
        if found is None:
            raise RefusedError(
                FailureCode.BUDGET_EXCEEDED,
                f"spent {self._epsilon(spent, dp):.3f} of {self.policy.epsilon_limit:g}: {rounds} rounds would not fit into "
                f"the rest with a noise multiplier up to {LARGEST_NOISE:g}",
            )
        cost = self._epsilon([replace(whole, noise_multiplier=found)], dp)
        row = (run, protocol.sha256, protocol.study.name, rounds, found, planned.sampling_rate, planned.steps, cost)
        with self._transaction() as database:
            statement = "INSERT OR IGNORE INTO plan VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            database.execute(statement, (*row, dp.accountant, _now()))
        return found

    def require(self, protocol: StudyProtocol, mechanism: Mechanism, *, run: str, patients: Collection[str]) -> None:
        """Make sure that a round of ``mechanism`` fits into what is left of the site's limit and of the study's epsilon.

        Raises:
            RefusedError: ``BUDGET_EXCEEDED``.
        """
        with self._transaction() as database:
            self._require(database, protocol, mechanism, run=run, patients=patients)

    # After it

    def charge(
        self,
        protocol: StudyProtocol,
        mechanism: Mechanism,
        *,
        run: str,
        round_: int,
        patients: Collection[str],
        request: str,
        reply: str | None,
    ) -> None:
        """Charge a round, and promise its reply (SHA-256) to whoever sends ``request`` (SHA-256) again; both are on the disk
        when this returns. ``reply`` None: the round failed after noise was drawn; it is charged all the same.

        Raises:
            RefusedError: ``BUDGET_EXCEEDED``; then nothing may leave.
        """
        with self._transaction() as database:
            if reply is not None:
                self._require(database, protocol, mechanism, run=run, patients=patients)
            fingerprint, members = self._fingerprint(patients)
            database.execute("INSERT OR IGNORE INTO patients VALUES (?, ?, ?)", (fingerprint, members, _now()))
            row = (_now(), run, protocol.sha256, protocol.study.name, round_, fingerprint)
            database.execute(
                "INSERT INTO charge (at, run, protocol, study, round, patients, noise, rate, steps, reply)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, mechanism.noise_multiplier, mechanism.sampling_rate, mechanism.steps, reply),
            )
            if reply is not None:
                database.execute("INSERT OR REPLACE INTO outbox VALUES (?, ?, ?, ?)", (run, round_, request, reply))
            crashpoint("budget.charging")
        crashpoint("budget.charged")

    def promised(self, *, run: str, round_: int, request: str) -> str | None:
        """SHA-256 of the reply that was charged for this very request; None if there is none."""
        with self._transaction() as database:
            found = database.execute(
                "SELECT reply FROM outbox WHERE run = ? AND round = ? AND request = ?", (run, round_, request)
            ).fetchone()
        return None if found is None else str(found[0])

    # What it shows

    def charges(self) -> tuple[Charge, ...]:
        """All charges in order."""
        with self._transaction() as database:
            return tuple(_charges(database))

    def plans(self) -> tuple[Plan, ...]:
        """All plans in order of their making."""
        with self._transaction() as database:
            rows = database.execute("SELECT * FROM plan ORDER BY at, rowid").fetchall()
        return tuple(_plan(row) for row in rows)

    def spent(self, *, accountant: AccountantName = "prv") -> float:
        """Epsilon of the set of patients that was charged most."""
        with self._transaction() as database:
            sets = dict(database.execute("SELECT fingerprint, members FROM patients").fetchall())
            charges = list(_charges(database))
        histories = [[c.mechanism for c in charges if not _disjoint(sets[c.patients], members)] for members in sets.values()]
        return max((epsilon(h, delta=self.policy.delta, accountant=accountant) for h in histories), default=0.0)

    def statement(self, protocol: StudyProtocol, mechanism: Mechanism, *, run: str, patients: Collection[str]) -> PrivacySpent:
        """What the site states of ``run`` after a round of ``mechanism``, which is about to be charged."""
        dp = _dp(protocol)
        mine = [c.mechanism for c in self.charges() if c.run == run and c.protocol_sha256 == protocol.sha256]
        mine.append(mechanism)
        plan = self._plan(run, protocol.sha256)
        return PrivacySpent(
            epsilon=self._epsilon(mine, dp),
            epsilon_total=self._epsilon([*self._history(patients), mechanism], dp),
            planned=plan.epsilon if plan else self._epsilon(mine, dp),
            limit=self.policy.epsilon_limit,
            delta=self.policy.delta,
            accountant=dp.accountant,
            noise_multiplier=mechanism.noise_multiplier,
            sampling_rate=mechanism.sampling_rate,
            steps=sum(done.steps for done in mine),
            clipping=dp.clipping,
            clip_norm=dp.clip_norm,
        )

    def pseudonym(self, patient: str) -> str:
        """A patient's identifier as a keyed hash; the key is this ledger's own and lives as long as it."""
        return hmac.new(self._key, patient.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[: 2 * _DIGEST]

    # Within

    @staticmethod
    def _forget_names_of_before(database: sqlite3.Connection) -> None:
        """Sets of patients named in an older way cannot be compared with those of today: from now on they may be anybody."""
        [version] = database.execute("PRAGMA user_version").fetchone()
        if version < _VERSION:
            database.execute("UPDATE patients SET members = X''")
            database.execute(f"PRAGMA user_version = {_VERSION}")

    def _require(
        self,
        database: sqlite3.Connection,
        protocol: StudyProtocol,
        mechanism: Mechanism,
        *,
        run: str,
        patients: Collection[str],
    ) -> None:
        dp, limit = _dp(protocol), self.policy.epsilon_limit
        total = self._epsilon([*self._counting(database, patients), mechanism], dp)
        if total > limit:
            raise RefusedError(FailureCode.BUDGET_EXCEEDED, f"with this round {total:.3f}, this site's limit is {limit:g}")
        mine = [c.mechanism for c in _charges(database) if c.run == run and c.protocol_sha256 == protocol.sha256]
        of_study = self._epsilon([*mine, mechanism], dp)
        if of_study > dp.epsilon:
            raise RefusedError(
                FailureCode.BUDGET_EXCEEDED, f"with this round {of_study:.3f}, the study's own is {dp.epsilon:g}"
            )

    def _history(self, patients: Collection[str]) -> list[Mechanism]:
        with self._transaction() as database:
            return self._counting(database, patients)

    def _counting(self, database: sqlite3.Connection, patients: Collection[str]) -> list[Mechanism]:
        """What was done to anybody of ``patients``, as far as can be known."""
        _, members = self._fingerprint(patients)
        sets = dict(database.execute("SELECT fingerprint, members FROM patients").fetchall())
        return [charge.mechanism for charge in _charges(database) if not _disjoint(sets[charge.patients], members)]

    def _fingerprint(self, patients: Collection[str]) -> tuple[str, bytes]:
        members = b"".join(sorted(bytes.fromhex(self.pseudonym(patient)) for patient in set(patients)))
        return hmac.new(self._key, members, hashlib.sha256).hexdigest(), members

    def _epsilon(self, history: list[Mechanism], dp: DifferentialPrivacy) -> float:
        return epsilon(history, delta=self.policy.delta, accountant=dp.accountant)

    def _plan(self, run: str, protocol_sha256: str) -> Plan | None:
        with self._transaction() as database:
            row = database.execute("SELECT * FROM plan WHERE run = ? AND protocol = ?", (run, protocol_sha256)).fetchone()
        return None if row is None else _plan(row)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """On the disk when the block ends; if the block raises, or the process dies, it never was."""
        try:
            with closing(sqlite3.connect(self.path, timeout=60.0, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = FULL")
                database.execute("BEGIN IMMEDIATE")
                yield database
                database.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # a full disk, a lock: nothing is wrong with what is there
            remedy = "restore it from a backup; without it nobody knows what was spent"
            raise ConfigurationError([Fault(str(self.path), "", str(error), "the privacy ledger", remedy)]) from None


def _charges(database: sqlite3.Connection) -> Iterator[Charge]:
    columns = "at, run, protocol, study, round, noise, rate, steps, patients, reply"
    for at, run, protocol, study, round_, noise, rate, steps, patients, reply in database.execute(
        f"SELECT {columns} FROM charge ORDER BY id"
    ):
        yield Charge(at, run, protocol, study, round_, Mechanism(noise, rate, steps), patients, reply)


def _plan(row: tuple[object, ...]) -> Plan:
    run, protocol, study, rounds, noise, rate, steps, cost, accountant, _ = row
    return Plan(run, protocol, study, rounds, Mechanism(noise, rate, steps), cost, accountant)  # type: ignore[arg-type]


def _disjoint(one: bytes, other: bytes) -> bool:
    """Whether two sets of patients share nobody. A set that names nobody may be anybody."""
    return bool(one) and bool(other) and not (_parted(one) & _parted(other))


def _parted(members: bytes) -> frozenset[bytes]:
    return frozenset(members[start : start + _DIGEST] for start in range(0, len(members), _DIGEST))


def _dp(protocol: StudyProtocol) -> DifferentialPrivacy:
    assert protocol.privacy.dp is not None
    return protocol.privacy.dp


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

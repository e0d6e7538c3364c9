"""The center's durable record of a run: one SQLite file and one safetensors checkpoint a round.

A round is committed in two steps, checkpoint first (written, fsynced, renamed), row second (one transaction, full sync,
which also makes durable whatever was written before it). Progress, time and traffic alone do not wait for the disk.
After a kill at any moment the journal holds exactly the rounds that were committed, and a checkpoint that does not match
the SHA-256 of its row is not trusted: the run continues from the round before.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.numpy import load, save

from server.records import RoundRecord, RunRecord, SiteFailure, Traffic
from shared_model import config_file
from shared_model.audit import Head
from shared_model.crashpoints import crashpoint
from shared_model.durable import sync_directory, write_durably
from shared_model.errors import StudyError
from shared_model.messages import CompareReply, DescribeReply, EvaluateReply, ExplainReply, Vector
from shared_model.protocol import StudyProtocol
from shared_model.summaries import Normalization, Performance

FILE = "journal.sqlite"
START = "models/start.safetensors"
HEADS = "heads.json"
SCHEMA = """
CREATE TABLE IF NOT EXISTS fact (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS description (site TEXT PRIMARY KEY, reply TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS round (round INTEGER PRIMARY KEY, record TEXT NOT NULL, sha256 TEXT NOT NULL, parent TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS evaluation (model INTEGER, site TEXT, reply TEXT NOT NULL, PRIMARY KEY (model, site));
CREATE TABLE IF NOT EXISTS explanation (model INTEGER, brief INTEGER, site TEXT, reply TEXT NOT NULL,
    PRIMARY KEY (model, brief, site));
CREATE TABLE IF NOT EXISTS comparison (site TEXT PRIMARY KEY, reply TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS failure (id INTEGER PRIMARY KEY, round INTEGER NOT NULL, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS phase (name TEXT PRIMARY KEY, seconds REAL NOT NULL);
CREATE TABLE IF NOT EXISTS head (site TEXT, sequence INTEGER, head TEXT NOT NULL, PRIMARY KEY (site, sequence));
CREATE TABLE IF NOT EXISTS event (id INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL);
"""

_DESCRIPTION: TypeAdapter[DescribeReply] = TypeAdapter(DescribeReply)
_EVALUATION: TypeAdapter[EvaluateReply] = TypeAdapter(EvaluateReply)
_EXPLANATION: TypeAdapter[ExplainReply] = TypeAdapter(ExplainReply)
_COMPARISON: TypeAdapter[CompareReply] = TypeAdapter(CompareReply)
_SUMMED: TypeAdapter[dict[str, Performance]] = TypeAdapter(dict[str, Performance])
_ROUND: TypeAdapter[RoundRecord] = TypeAdapter(RoundRecord)
_FAILURE: TypeAdapter[SiteFailure] = TypeAdapter(SiteFailure)
_HEAD: TypeAdapter[Head] = TypeAdapter(Head)
_HEADS: TypeAdapter[tuple[Head, ...]] = TypeAdapter(tuple[Head, ...])
_NORMALIZATION: TypeAdapter[Normalization | None] = TypeAdapter(Normalization | None)


@dataclass(frozen=True)
class Start:
    """A trained model ``weights`` ``[D]`` to go on from, and how variables were scaled when it was trained."""

    weights: Vector
    normalization: Normalization | None


@dataclass(frozen=True)
class Event:
    """Something that happened in a run; ``at`` is ISO 8601 in UTC."""

    at: str
    kind: str
    body: dict[str, Any]


class Journal:
    """The journal of the run in ``directory``. One process writes it; others may read at any time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.models = directory / "models"
        if not (directory / FILE).exists():
            raise StudyError(f"{directory} holds no run: there is no {FILE} in it")
        self._database = sqlite3.connect(directory / FILE, timeout=30.0, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.executescript(SCHEMA)

    @classmethod
    def create(
        cls,
        directory: Path,
        protocol: StudyProtocol,
        *,
        run: str,
        engine: str,
        seed: int,
        enrolled: tuple[str, ...],
        versions: Mapping[str, str],
        start: "Start | None" = None,
    ) -> Self:
        """Start the journal of a new run. An interrupted creation leaves no journal behind.

        With ``start`` the run goes on from this model, instead of the one that its seed gives.
        """
        (directory / "models").mkdir(parents=True, exist_ok=True)
        if start is not None:
            write_durably(directory / START, save({"model": start.weights}))
        partial = directory / f"{FILE}.partial"
        partial.unlink(missing_ok=True)
        database = sqlite3.connect(partial, isolation_level=None)
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(SCHEMA)
        facts = {"protocol": protocol.canonical_json, "run": run, "engine": engine, "seed": seed, "enrolled": enrolled}
        facts |= {"versions": dict(versions), "started": _now()}
        if start is not None:
            facts["normalization"] = json.loads(_NORMALIZATION.dump_json(start.normalization))
        with _durable(database):
            database.executemany("INSERT INTO fact VALUES (?, ?)", [(key, json.dumps(value)) for key, value in facts.items()])
        database.close()
        partial.replace(directory / FILE)
        sync_directory(directory)
        return cls(directory)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Facts of the run as a whole

    @property
    def protocol(self) -> StudyProtocol:
        """The protocol that the run was started with."""
        return config_file.validate_json(self._require("protocol"), StudyProtocol, where=str(self.directory / FILE))

    @property
    def run(self) -> str:
        """Identifier of the run."""
        return str(self._require("run"))

    @property
    def seed(self) -> int:
        """Seed from which every draw of the run follows."""
        return int(self._require("seed"))

    @property
    def enrolled(self) -> tuple[str, ...]:
        """Names of the sites that were invited."""
        return tuple(self._require("enrolled"))

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self._fact("finished") is not None

    @property
    def rewound(self) -> int:
        """How often committed rounds had to be run anew. A site would take their requests for replays, were the attempts
        not marked otherwise."""
        return int(self._fact("rewound") or 0)

    def finish(self, *, best_round: int, stopped: str) -> None:
        """Mark the run as finished."""
        self._write_heads()
        with _durable(self._database):
            self._set("best_round", best_round)
            self._set("stopped", stopped)
            self._set("finished", _now())

    @property
    def start(self) -> Vector | None:
        """The model that the run goes on from; None where its seed gives it."""
        file = self.directory / START
        return load(file.read_bytes())["model"] if file.exists() else None

    # Sites

    def add_description(self, reply: DescribeReply) -> None:
        """Keep what a site said of itself. A site describes itself once a run."""
        with _durable(self._database):
            row = (reply.site, _DESCRIPTION.dump_json(reply).decode())
            self._database.execute("INSERT INTO description VALUES (?, ?)", row)

    def descriptions(self) -> dict[str, DescribeReply]:
        """Descriptions by site, in order of name."""
        rows = self._database.execute("SELECT site, reply FROM description ORDER BY site")
        return {site: _DESCRIPTION.validate_json(reply) for site, reply in rows}

    def set_normalization(self, normalization: Normalization | None) -> None:
        """Fix the normalisation of the whole run."""
        with _durable(self._database):
            self._set("normalization", json.loads(_NORMALIZATION.dump_json(normalization)))

    @property
    def normalization(self) -> tuple[bool, Normalization | None]:
        """Whether the normalisation is fixed, and it; None is each site's own."""
        if self._database.execute("SELECT 1 FROM fact WHERE key = 'normalization'").fetchone() is None:
            return False, None
        return True, _NORMALIZATION.validate_json(json.dumps(self._fact("normalization")))

    def add_failure(self, failure: SiteFailure) -> None:
        """Keep why a reply did not count."""
        row = (failure.round, _FAILURE.dump_json(failure).decode())
        self._database.execute("INSERT INTO failure (round, record) VALUES (?, ?)", row)

    def add_head(self, head: Head) -> None:
        """Keep the head of a site's audit log, as its reply gave it."""
        row = (head.site, head.sequence, _HEAD.dump_json(head).decode())
        self._database.execute("INSERT OR REPLACE INTO head VALUES (?, ?, ?)", row)

    def heads(self) -> dict[str, Head]:
        """The newest head of each site's audit log, by site."""
        rows = self._database.execute("SELECT site, head, max(sequence) FROM head GROUP BY site ORDER BY site")
        return {site: _HEAD.validate_json(head) for site, head, _ in rows}

    def _write_heads(self) -> None:
        """For whoever checks a site's audit log: ``heads.json``."""
        if heads := tuple(self.heads().values()):
            write_durably(self.directory / HEADS, _HEADS.dump_json(heads, indent=2))

    # Rounds

    def commit_round(self, record: RoundRecord, tensors: Mapping[str, Vector]) -> RoundRecord:
        """Make a round durable: ``tensors`` (model, optimiser, control variate) as its checkpoint, then its row.

        Returns ``record`` with the checkpoint's SHA-256 filled in.
        """
        # One key, for several come in any order: the same round has the same bytes.
        content = save(dict(tensors), metadata={"run": f"{self.run} round {record.round}"})
        digest = hashlib.sha256(content).hexdigest()
        write_durably(self._checkpoint(record.round), content)
        crashpoint("journal.checkpointed")
        self._write_heads()
        record = replace(record, checkpoint_sha256=digest)
        parent = self._database.execute("SELECT sha256 FROM round WHERE round = ?", (record.round - 1,)).fetchone()
        row = (record.round, _ROUND.dump_json(record).decode(), digest, parent[0] if parent else "")
        with _durable(self._database):
            self._database.execute("INSERT INTO round VALUES (?, ?, ?, ?)", row)
        crashpoint("journal.committed")
        return record

    def rounds(self) -> tuple[RoundRecord, ...]:
        """Committed rounds in order."""
        rows = self._database.execute("SELECT record FROM round ORDER BY round")
        return tuple(_ROUND.validate_json(record) for (record,) in rows)

    def load_checkpoint(self, round_: int) -> dict[str, Vector] | None:
        """Tensors of the checkpoint of ``round_``; None if it is gone, torn, or not the one that was committed."""
        row = self._database.execute("SELECT sha256 FROM round WHERE round = ?", (round_,)).fetchone()
        try:
            content = self._checkpoint(round_).read_bytes()
            if row is None or hashlib.sha256(content).hexdigest() != row[0]:
                return None
            return dict(load(content))
        except (OSError, SafetensorError):
            return None

    def newest_checkpoint(self) -> tuple[int, dict[str, Vector]] | None:
        """The newest round whose checkpoint is sound. Rounds after it are forgotten, to be run again."""
        newest: tuple[int, dict[str, Vector]] | None = None
        for record in reversed(self.rounds()):
            tensors = self.load_checkpoint(record.round)
            if tensors is not None:
                newest = record.round, tensors
                break
        sound = newest[0] if newest else 0
        with _durable(self._database):
            forgotten = self._database.execute("DELETE FROM round WHERE round > ?", (sound,)).rowcount
            self._database.execute("DELETE FROM failure WHERE round > ?", (sound,))
            if forgotten:
                self._set("rewound", self.rewound + 1)
        return newest

    def drop_checkpoints(self, *, keep: set[int]) -> None:
        """Delete the checkpoints of all rounds but ``keep``."""
        kept = {self._checkpoint(round_).name for round_ in keep}
        for path in self.models.glob("round-*.safetensors"):
            if path.name not in kept:
                path.unlink()

    # Evaluation

    def add_evaluation(self, model: int, reply: EvaluateReply) -> None:
        """Keep how the model after round ``model`` does at a site."""
        row = (model, reply.site, _EVALUATION.dump_json(reply).decode())
        with _durable(self._database):
            self._database.execute("INSERT OR REPLACE INTO evaluation VALUES (?, ?, ?)", row)

    def evaluations(self, model: int) -> dict[str, EvaluateReply]:
        """Evaluations of the model after round ``model``, by site in order of name."""
        rows = self._database.execute("SELECT site, reply FROM evaluation WHERE model = ? ORDER BY site", (model,))
        return {site: _EVALUATION.validate_json(reply) for site, reply in rows}

    def add_comparison(self, reply: CompareReply) -> None:
        """Keep a site's comparison of models; a later one, of more models, takes its place."""
        with _durable(self._database):
            row = (reply.site, _COMPARISON.dump_json(reply).decode())
            self._database.execute("INSERT OR REPLACE INTO comparison VALUES (?, ?)", row)

    def set_summed(self, model: int, replies: Iterable[EvaluateReply], summed: Mapping[str, Performance]) -> None:
        """Keep the evaluation of the model after round ``model`` by a secure sum: what each site said, and the sum."""
        rows = [(model, reply.site, _EVALUATION.dump_json(reply).decode()) for reply in replies]
        with _durable(self._database):
            self._database.executemany("INSERT OR REPLACE INTO evaluation VALUES (?, ?, ?)", rows)
            self._set(f"summed {model}", json.loads(_SUMMED.dump_json(dict(summed))))

    def summed(self, model: int) -> dict[str, Performance]:
        """The sum of all sites' evaluations of the model after round ``model``; empty if there is none."""
        return _SUMMED.validate_json(json.dumps(self._fact(f"summed {model}") or {}))

    def comparisons(self) -> dict[str, CompareReply]:
        """Comparisons by site, in order of name."""
        rows = self._database.execute("SELECT site, reply FROM comparison ORDER BY site")
        return {site: _COMPARISON.validate_json(reply) for site, reply in rows}

    def add_explanation(self, model: int, reply: ExplainReply, *, brief: bool) -> None:
        """Keep why the model after round ``model`` says what it says at a site."""
        row = (model, brief, reply.site, _EXPLANATION.dump_json(reply).decode())
        with _durable(self._database):
            self._database.execute("INSERT OR REPLACE INTO explanation VALUES (?, ?, ?, ?)", row)

    def explanations(self, model: int, *, brief: bool) -> dict[str, ExplainReply]:
        """Explanations of the model after round ``model``, by site in order of name."""
        query = "SELECT site, reply FROM explanation WHERE model = ? AND brief = ? ORDER BY site"
        return {site: _EXPLANATION.validate_json(reply) for site, reply in self._database.execute(query, (model, brief))}

    def drift(self) -> dict[int, dict[str, ExplainReply]]:
        """Brief explanations by model and site."""
        models = self._database.execute("SELECT DISTINCT model FROM explanation WHERE brief ORDER BY model").fetchall()
        return {model: self.explanations(model, brief=True) for (model,) in models}

    # Time, traffic, progress

    def add_seconds(self, phase: str, seconds: float) -> None:
        """Count wall time of a phase."""
        self._database.execute(
            "INSERT INTO phase VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET seconds = seconds + excluded.seconds",
            (phase, seconds),
        )

    def add_traffic(self, *, down: int = 0, up: int = 0) -> None:
        """Count bytes of messages to (down) and from (up) the sites."""
        self.add_seconds("bytes_down", down)
        self.add_seconds("bytes_up", up)

    def event(self, kind: str, **body: Any) -> None:
        """Tell whoever watches."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._database.execute("INSERT INTO event (at, kind, body) VALUES (?, ?, ?)", (at, kind, json.dumps(body)))

    def events(self, *, after: int = 0) -> list[tuple[int, str, dict[str, Any]]]:
        """Events with a number above ``after``: number, kind, body."""
        rows = self._database.execute("SELECT id, kind, body FROM event WHERE id > ? ORDER BY id", (after,))
        return [(number, kind, json.loads(body)) for number, kind, body in rows]

    def timeline(self) -> list[Event]:
        """All events, oldest first."""
        rows = self._database.execute("SELECT at, kind, body FROM event ORDER BY id")
        return [Event(at, kind, json.loads(body)) for at, kind, body in rows]

    def record(self) -> RunRecord:
        """The whole run as it stands."""
        best = self._fact("best_round") or 0
        phases = dict(self._database.execute("SELECT name, seconds FROM phase ORDER BY name").fetchall())
        traffic = Traffic(int(phases.pop("bytes_down", 0)), int(phases.pop("bytes_up", 0)))
        site_compute = phases.pop("site_compute", 0.0)
        failures = self._database.execute("SELECT record FROM failure ORDER BY id").fetchall()
        return RunRecord(
            run=self.run,
            protocol=self.protocol,
            engine=self._require("engine"),
            seed=self.seed,
            versions=self._require("versions"),
            started=self._require("started"),
            finished=self._fact("finished"),
            enrolled=self.enrolled,
            descriptions=self.descriptions(),
            normalization=self.normalization[1],
            rounds=self.rounds(),
            best_round=best,
            stopped=self._fact("stopped") or "",
            evaluations=self.evaluations(best),
            failures=tuple(_FAILURE.validate_json(record) for (record,) in failures),
            phases=phases,
            site_compute_s=site_compute,
            traffic=traffic,
            comparisons=self.comparisons(),
            explanations=self.explanations(best, brief=False),
            drift=self.drift(),
            summed=self.summed(best),
        )

    def _checkpoint(self, round_: int) -> Path:
        return self.models / f"round-{round_:04d}.safetensors"

    def _fact(self, key: str) -> Any:
        row = self._database.execute("SELECT value FROM fact WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def _require(self, key: str) -> Any:
        value = self._fact(key)
        if value is None:
            raise StudyError(f"{self.directory / FILE} is damaged: it does not say {key!r}")
        return value

    def _set(self, key: str, value: Any) -> None:
        self._database.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (key, json.dumps(value)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _durable(database: sqlite3.Connection) -> Iterator[None]:
    """One transaction that is on the disk when the block ends, or, if the block raises, never was."""
    database.execute("PRAGMA synchronous = FULL")
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise
    finally:
        database.execute("PRAGMA synchronous = NORMAL")

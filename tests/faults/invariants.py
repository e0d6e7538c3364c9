"""What must hold of a run whatever happened to it, read from the journals that it left at the center and at its sites.

I1  each committed round has one record, the SHA-256 of its checkpoint, and that of the round before as its parent
I2  no round that was acknowledged is lost
I3  a site counts at most once in a round, for an answer that it gave
I4  the privacy ledger of a site shows at least what left it, and never less than before
I5  no model is made of fewer sites than the quorum
I6  checkpoints and results are the bits of an undisturbed run (``tests.faults.undisturbed``)
I7  no patient's identifier is in a log, in what crossed the wire, or at the center
I8  the run came to its end

and the audit log of each site is whole, also by what the center holds of it.
"""

import hashlib
import json
import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.governance import audit
from client.governance.exchanges import FILE as EXCHANGES
from client.state import lasting
from server.journal import FILE, Journal

CANARY = "PATIENT-7f3a9c-"
LEDGER = "budget.sqlite"
PIECE = 2**20


@dataclass(frozen=True)
class Hospital:
    """A site's configuration, and the folder in which its worker remembers."""

    config: Path
    state: Path


def invariants(run: Path, sites: Mapping[str, Hospital], *, outside: Sequence[Path] = (), finished: bool = True) -> list[str]:
    """What does not hold of the run in the folder ``run`` with ``sites``. ``outside`` are files and folders that no patient's
    identifier may be in, besides the run's own; ``finished`` says whether the run was to come to its end."""
    found = [*chain(run), *acknowledged(run), *quorum(run)]
    for site, hospital in sites.items():
        folder = lasting(hospital.state, site)
        found += [*counted_once(run, site, folder), *ledger(run, site, folder), *log_is_whole(run, site, folder)]
    found += canaries([run, *outside])
    if finished:
        found += came_to_its_end(run)
    return found


def chain(run: Path) -> Iterator[str]:
    """I1."""
    parent = ""
    for place, (number, record, sha256, told) in enumerate(rows(run, "SELECT round, record, sha256, parent FROM round"), 1):
        if number != place:
            yield f"I1: round {number} stands where round {place} was expected"
        if told != parent:
            yield f"I1: the parent of round {number} is not the round before it"
        content = json.loads(record)
        if content["round"] != number or content["checkpoint_sha256"] != sha256:
            yield f"I1: the record of round {number} is of another round or checkpoint"
        parent = sha256
    sums = {f"round-{number:04d}.safetensors": sha256 for number, sha256 in rows(run, "SELECT round, sha256 FROM round")}
    kept = {path.name: path for path in (run / "models").glob("round-*.safetensors")}
    for name, path in kept.items():
        if name in sums and hashlib.sha256(path.read_bytes()).hexdigest() != sums[name]:
            yield f"I1: {name} is not the checkpoint that was committed"
    if sums and max(sums) not in kept:
        yield f"I1: {max(sums)}, the newest checkpoint, is gone"


def acknowledged(run: Path) -> Iterator[str]:
    """I2. A round may be run anew only if its checkpoint was found damaged, which the journal counts."""
    there = {number for (number,) in rows(run, "SELECT round FROM round")}
    told = Counter(body["round"] for kind, body in events(run) if kind == "committed")
    rewound = json.loads(next(iter(rows(run, "SELECT value FROM fact WHERE key = 'rewound'")), ("0",))[0])
    for number, times in sorted(told.items()):
        if number not in there:
            yield f"I2: round {number} was acknowledged, and is lost"
        if times > 1 + rewound:
            yield f"I2: round {number} was committed {times} times"


def quorum(run: Path) -> Iterator[str]:
    """I5."""
    with Journal(run) as journal:
        record = journal.record()
    federation, external = record.protocol.federation, record.protocol.evaluation.external
    least = max(1, math.ceil(federation.quorum * len([s for s in record.enrolled if s not in external]) - 1e-9))
    for round_ in record.rounds:
        if len(round_.sites) < least:
            yield f"I5: round {round_.round} is of {len(round_.sites)} sites, the quorum is {least}"
        if strangers := set(round_.sites) - set(record.enrolled):
            yield f"I5: {', '.join(sorted(strangers))} counted in round {round_.round} and is not of this study"


def counted_once(run: Path, site: str, folder: Path) -> Iterator[str]:
    """I3, by the center's events and by the site's own log."""
    [identifier] = next(rows(run, "SELECT value FROM fact WHERE key = 'run'"))
    released = Counter(
        entry["details"]["round"]
        for entry in audit.read(folder)
        if entry["action"] == "release"
        and entry["details"]["kind"] == "train_reply"
        and entry["details"].get("run") == json.loads(identifier)
    )
    for number, record in rows(run, "SELECT round, record FROM round"):
        if site not in json.loads(record)["sites"]:
            continue
        if not released[number]:
            yield f"I3: {site} counted in round {number}, and never answered it"
        admitted = admitted_in(run, site, number)
        if admitted != 1:
            yield f"I3: {site} was counted {admitted} times in round {number}"
    if (folder / EXCHANGES).exists():
        query = "SELECT round, count(*) FROM request WHERE run = ? AND kind = 'train' GROUP BY round"
        sent = dict(rows_of(folder / EXCHANGES, query, json.loads(identifier)))
        asked = Counter(body["round"] for kind, body in events(run) if kind == "round")
        with Journal(run) as journal:
            attempts = journal.protocol.federation.attempts
        for number, count in sent.items():
            if count > attempts * max(asked[number], 1):
                yield f"I3: {site} was asked {count} times for round {number}"


def admitted_in(run: Path, site: str, number: int) -> int:
    """How many answers of ``site`` were admitted in the last going of round ``number``, before it was committed."""
    admitted, inside, committed = 0, False, 0
    for kind, body in events(run):
        if kind == "round":
            inside, admitted = body["round"] == number, 0
        elif kind == "committed" and body["round"] == number:
            inside, committed = False, admitted
        elif inside and kind == "answered" and (body["phase"], body["site"]) == ("train", site):
            admitted += 1
        elif inside and kind == "failed" and (body["phase"], body["site"]) == ("train", site) and admitted:
            admitted -= 1  # it was read, and then refused
        elif kind == "restored" and inside:
            # Killed after the commit, before it could tell: what was admitted until then counted.
            inside, committed = False, admitted
    return committed or admitted


def ledger(run: Path, site: str, folder: Path) -> Iterator[str]:
    """I4."""
    entries = [e["details"] for e in audit.read(folder) if e["action"] == "release" and e["details"]["kind"] == "train_reply"]
    left = {(details["run"], details["round"]) for details in entries if "epsilon" in details}
    charged: Counter[tuple[str, int]] = Counter()
    if (folder / LEDGER).exists():
        charges = list(rows_of(folder / LEDGER, "SELECT id, at, run, round FROM charge ORDER BY id"))
        charged = Counter((name, number) for _, _, name, number in charges)
        if [number for number, *_ in charges] != list(range(1, len(charges) + 1)):
            yield f"I4: charges of {site} are missing from its ledger"
    for name, number in sorted(left - set(charged)):
        yield f"I4: {site} answered round {number} of run {name}, and its ledger does not show it"
    spent = 0.0
    for number, record in rows(run, "SELECT round, record FROM round"):
        told = json.loads(record)["sites"].get(site, {}).get("privacy")
        if told is not None:
            if told["epsilon"] < spent:
                yield f"I4: {site} had spent more before round {number} than after it"
            spent = told["epsilon"]


def log_is_whole(run: Path, site: str, folder: Path) -> Iterator[str]:
    """The site's audit log, also by the heads that the center holds."""
    with Journal(run) as journal:
        heads = list(journal.heads().values())
    for finding in audit.verify(folder, site=site, anchors=heads)[1]:
        yield f"audit log of {site}: record {finding.record}: {finding.what}"


def canaries(places: Sequence[Path]) -> Iterator[str]:
    """I7."""
    for place in places:
        for file in [place] if place.is_file() else sorted(place.rglob("*")):
            if file.is_file() and not file.is_symlink() and holds(file, CANARY.encode()):
                yield f"I7: a patient's identifier is in {file.name}"


def holds(file: Path, wanted: bytes) -> bool:
    with file.open("rb") as stream:
        before = b""
        while piece := stream.read(PIECE):
            if wanted in before + piece:
                return True
            before = piece[-len(wanted) :]
    return False


def came_to_its_end(run: Path) -> Iterator[str]:
    """I8."""
    with Journal(run) as journal:
        record = journal.record()
    if record.finished is None:
        yield f"I8: the run is not finished; {len(record.rounds)} rounds are"
    elif not (run / "models" / "best.safetensors").exists():
        yield "I8: the run is finished, and there is no model"


def events(run: Path) -> list[tuple[str, dict[str, Any]]]:
    with Journal(run) as journal:
        return [(kind, body) for _, kind, body in journal.events()]


def rows(run: Path, query: str) -> Iterator[tuple[Any, ...]]:
    return rows_of(run / FILE, query)


def rows_of(file: Path, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
    with closing(sqlite3.connect(file, timeout=30.0)) as database:
        yield from database.execute(query, values).fetchall()

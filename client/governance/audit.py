"""The site's audit log: every request, decision and release, and no patient's data; append-only, chained and signed.

One JSON object a line, each with the SHA-256 of the line before. A line is on the disk before the reply that it tells of
leaves. What a crash tore off at the end is set aside and said so in a record of its own: its reply never left.

The head is signed in every reply (Ed25519; the key is made at first use) and kept by the center, which hands it to the
other sites, who record it: so a log cannot be cut short, or written anew, without somebody holding the proof.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import TypeAdapter, ValidationError

from shared_model.audit import Head
from shared_model.durable import sync_directory

LOG, KEY, HEAD, TORN = "audit.jsonl", "audit.key", "audit.head.json", "audit.torn"
START = "0" * 64  # what the first record holds in place of the one before
Action = Literal["started", "healed", "request", "decision", "release", "approval", "revocation", "anchor", "broken"]
Entry = dict[str, Any]


class AuditLog:
    """The log of ``site`` in ``folder``. Several processes may append: the worker, and the commands that approve."""

    def __init__(self, folder: Path, *, site: str) -> None:
        self.site = site
        self._folder = folder
        self.path = folder / LOG

    def note(self, action: Action, details: Mapping[str, Any]) -> None:
        """Add a record that survives a kill of this process; what is appended next makes it survive a power cut."""
        with self._alone() as file:
            self._write_all(file, [(action, details)])

    def append(self, *records: tuple[Action, Mapping[str, Any]]) -> Head:
        """Add ``records``, on the disk when this returns, and return the log's head with them."""
        with self._alone() as file:
            sequence, sha256 = self._write_all(file, records)
            os.fsync(file.fileno())
            head = Head.sign(self._key(), site=self.site, sequence=sequence, sha256=sha256)
            self._keep(head)
        return head

    def contradicts(self, head: Head) -> str | None:
        """How a genuine ``head`` of this very log, as others know it, does not fit the log; None if it does."""
        if head.site != self.site or not head.is_genuine:
            return None
        if head.key != self.public_key:
            return "another key than this log's signed it: the key was replaced"
        known = _hash_at(self.path, head.sequence)
        if known is None:
            return f"record {head.sequence} is gone: the log was cut short"
        return None if known == head.sha256 else f"record {head.sequence} is another one: the log was written anew"

    @property
    def public_key(self) -> str:
        """The log's public key, hexadecimal."""
        return self._key().public_key().public_bytes_raw().hex()

    def _write_all(self, file: BinaryIO, records: Iterable[tuple[Action, Mapping[str, Any]]]) -> tuple[int, str]:
        """Number and SHA-256 of the last record, after ``records``."""
        sequence, previous = self._end(file)
        for action, details in records:
            sequence, previous = sequence + 1, _write(file, sequence + 1, previous, action, details)
        file.flush()
        return sequence, previous

    def _keep(self, head: Head) -> None:
        """The newest head beside the log. After a power cut it may be an older one, which is as true."""
        partial = self._folder / f"{HEAD}.{os.getpid()}"
        partial.write_bytes(_HEAD.dump_json(head))
        partial.replace(self._folder / HEAD)

    @contextmanager
    def _alone(self) -> Iterator[BinaryIO]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        created = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if created:
                sync_directory(self._folder)
            yield file

    def _end(self, file: BinaryIO) -> tuple[int, str]:
        """Number and SHA-256 of the last record, after healing; the file stands at its end."""
        line, torn = _last_line(file)
        if torn:
            self._set_aside(file, torn)
        file.seek(0, os.SEEK_END)
        sequence, previous = (_number(line), _sha256(line)) if line else (0, START)
        if torn:
            details = {"bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()}
            sequence, previous = sequence + 1, _write(file, sequence + 1, previous, "healed", details)
        return sequence, previous

    def _set_aside(self, file: BinaryIO, torn: bytes) -> None:
        with (self._folder / TORN).open("ab") as aside:
            aside.write(torn + b"\n")
            aside.flush()
            os.fsync(aside.fileno())
        file.truncate(file.seek(0, os.SEEK_END) - len(torn))

    def _key(self) -> Ed25519PrivateKey:
        path = self._folder / KEY
        try:
            return Ed25519PrivateKey.from_private_bytes(path.read_bytes())
        except FileNotFoundError:
            return self._made_key(path)

    def _made_key(self, path: Path) -> Ed25519PrivateKey:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = Ed25519PrivateKey.generate()
        partial = path.with_name(f"{KEY}.{os.getpid()}")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(key.private_bytes_raw())
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(partial, path)  # unlike a rename, it leaves the key alone that another process made meanwhile
        partial.unlink()
        sync_directory(self._folder)
        return Ed25519PrivateKey.from_private_bytes(path.read_bytes())


@dataclass(frozen=True)
class Finding:
    """What is wrong with a log, at record ``record`` (counted from 1), or as a whole (0)."""

    record: int
    what: str


def verify(folder: Path, *, site: str, anchors: Iterable[Head] = ()) -> tuple[int, list[Finding]]:
    """How many records the log of ``site`` holds, and everything that is wrong with it, also by the heads that others hold.

    A torn last line is no finding: what it tells of was never sent, and the next record will say so.
    """
    log = AuditLog(folder, site=site)
    lines = _lines(log.path)
    findings = list(_broken_links(lines))
    own = _own_head(folder)
    if lines and own is None:
        findings.append(Finding(0, f"{HEAD}, the signed head, is missing or damaged"))
    for head in (*([own] if own else []), *anchors):
        if head.site == site and not head.is_genuine:
            findings.append(Finding(head.sequence, "a head of this log whose signature is forged"))
        elif against := log.contradicts(head):
            findings.append(Finding(head.sequence, against))
    return len(lines), list(dict.fromkeys(findings))


def read(folder: Path) -> list[Entry]:
    """The records of a log that can be read, in order."""
    return [entry for line in _lines(folder / LOG) if (entry := _parsed(line)) is not None]


def anchors_in(path: Path) -> list[Head]:
    """Heads of any site that another site's exported log, or a center's list of heads, holds.

    Raises:
        ValueError: the file is neither.
    """
    text = path.read_text(encoding="utf-8")
    try:
        return list(_HEADS.validate_json(text))
    except ValidationError:
        entries = [_parsed(line.encode()) for line in text.splitlines()]
        if not any(entries):
            raise ValueError("no log and no list of heads") from None
        held = [entry["details"].get("heads", []) for entry in entries if entry and entry["action"] == "anchor"]
        return [_HEAD.validate_json(json.dumps(head)) for heads in held for head in heads]


def syslog_lines(entries: Iterable[Entry], *, host: str) -> Iterator[str]:
    """Records as lines of RFC 5424: facility 13 (log audit), severity notice, or warning for what was refused or is wrong."""
    for entry in entries:
        details = entry["details"]
        bad = entry["action"] in {"broken", "healed"} or details.get("decision") == "refused"
        priority = 13 * 8 + (4 if bad else 5)
        fields = " ".join(
            f'{name}="{_escaped(value)}"' for name, value in sorted(details.items()) if not isinstance(value, list)
        )
        known = f'[consilium@32473 sequence="{entry["sequence"]}" previous="{entry["previous"]}" {fields}]'
        yield f"<{priority}>1 {entry['at']} {host} consilium-site - {entry['action']} {known}"


def _write(file: BinaryIO, sequence: int, previous: str, action: Action, details: Mapping[str, Any]) -> str:
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    entry = {"sequence": sequence, "at": at, "action": action, "details": dict(details), "previous": previous}
    line = json.dumps(entry, sort_keys=True, separators=(",", ":"), default=_plain).encode()
    file.write(line + b"\n")
    return _sha256(line)


def _plain(value: object) -> object:
    if isinstance(value, Head):
        return asdict(value)
    raise TypeError(f"a {type(value).__name__} in the audit log")


def _broken_links(lines: list[bytes]) -> Iterator[Finding]:
    previous = START
    for place, line in enumerate(lines, 1):
        entry = _parsed(line)
        if entry is None:
            yield Finding(place, "no record: it was edited")
        elif entry["previous"] != previous:
            yield Finding(place, _how(entry, place, lines))
        elif entry["sequence"] != place:
            yield Finding(place, f"it says that it is record {entry['sequence']}")
        previous = _sha256(line)


def _how(entry: Entry, place: int, lines: list[bytes]) -> str:
    """In what way a record does not follow the one before it."""
    if entry["sequence"] > place and entry["previous"] not in {_sha256(line) for line in lines}:
        return f"it is record {entry['sequence']}: what was before it was deleted"
    if entry["sequence"] != place:
        return f"it is record {entry['sequence']}: records were put in another order, or deleted"
    return f"it does not follow record {place - 1}, which was edited"


def _last_line(file: BinaryIO) -> tuple[bytes, bytes]:
    """The last whole line, and what stands after it."""
    size, step = file.seek(0, os.SEEK_END), 65536
    while True:
        start = max(0, size - step)
        file.seek(start)
        *lines, torn = file.read(size - start).split(b"\n")
        whole = lines if start == 0 else lines[1:]
        if whole or start == 0:
            return (whole[-1] if whole else b""), torn
        step *= 2


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def _hash_at(path: Path, sequence: int) -> str | None:
    lines = _lines(path)
    return _sha256(lines[sequence - 1]) if 0 < sequence <= len(lines) else None


def _own_head(folder: Path) -> Head | None:
    try:
        return _HEAD.validate_json((folder / HEAD).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _parsed(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(entry, dict) and set(entry) == {"sequence", "at", "action", "details", "previous"}
    return entry if whole and isinstance(entry["details"], dict) else None


def _number(line: bytes) -> int:
    entry = _parsed(line)
    return int(entry["sequence"]) if entry else 0


def _sha256(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _escaped(value: object) -> str:
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
    return text.replace("\n", " ")


_HEAD: TypeAdapter[Head] = TypeAdapter(Head)
_HEADS: TypeAdapter[tuple[Head, ...]] = TypeAdapter(tuple[Head, ...])

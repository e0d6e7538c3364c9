"""The audit log: durable before a reply leaves, and no edit, deletion, reorder or truncation goes unseen."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.governance import audit
from client.governance.audit import AuditLog, read, syslog_lines, verify
from client.state import lasting
from server.journal import Journal
from server.study import conduct
from shared_model import messages
from shared_model.audit import Head, does_not_follow
from shared_model.errors import FailureCode
from shared_model.messages import DescribeRequest, Envelope, Failure, Message
from tests.sites import Loopback, worker
from tests.unit.test_policy import Hospital, task
from tests.unit.test_study import finished, protocol, start


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    made = AuditLog(tmp_path, site="north")
    for round_ in range(1, 6):
        made.append(("decision", {"decision": "answered", "round": round_}), ("release", {"kind": "train_reply"}))
    return made


def findings(log: AuditLog, *anchors: Head) -> list[tuple[int, str]]:
    return [(f.record, f.what) for f in verify(log.path.parent, site="north", anchors=anchors)[1]]


def rewrite(log: AuditLog, change: Callable[[list[bytes]], list[bytes]]) -> None:
    log.path.write_bytes(b"".join(change(log.path.read_bytes().splitlines(keepends=True))))


def test_a_log_as_it_was_written_is_whole(log: AuditLog) -> None:
    assert verify(log.path.parent, site="north") == (10, [])
    assert [entry["sequence"] for entry in read(log.path.parent)] == list(range(1, 11))
    for name in (audit.LOG, audit.KEY):
        assert (log.path.parent / name).stat().st_mode & 0o777 == 0o600


TAMPERED = {
    "edit": (lambda lines: [*lines[:3], lines[3].replace(b"train_reply", b"no_reply"), *lines[4:]], 5),
    "edit to nonsense": (lambda lines: [*lines[:3], b"{}\n", *lines[4:]], 4),
    "deletion": (lambda lines: lines[:3] + lines[4:], 4),
    "deletion of the first": (lambda lines: lines[1:], 1),
    "reorder": (lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]], 4),
    "insertion": (lambda lines: [*lines[:3], lines[0], *lines[3:]], 4),
    "truncation": (lambda lines: lines[:-2], 10),
    "emptied": (lambda _: [], 10),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_tampering_is_found_and_the_record_named(log: AuditLog, kind: str) -> None:
    change, record = TAMPERED[kind]
    rewrite(log, change)
    assert record in {number for number, _ in findings(log)}


def test_the_last_record_edited_is_found_by_the_signed_head(log: AuditLog) -> None:
    rewrite(log, lambda lines: [*lines[:-1], lines[-1].replace(b"train_reply", b"no_reply")])
    [(record, what)] = findings(log)
    assert record == 10
    assert "written anew" in what


def test_a_log_cut_short_with_its_head_is_found_by_those_who_hold_a_later_one(log: AuditLog) -> None:
    folder = log.path.parent
    earlier = (folder / audit.HEAD).read_bytes()
    later = log.append(("decision", {"decision": "answered"}))
    rewrite(log, lambda lines: lines[:-1])
    (folder / audit.HEAD).write_bytes(earlier)
    assert findings(log) == [], "nobody can tell from the log alone"
    assert findings(log, later) == [(11, "record 11 is gone: the log was cut short")]


def test_a_log_begun_anew_has_another_key(log: AuditLog) -> None:
    held = log.append(("decision", {}))
    for path in log.path.parent.iterdir():
        path.unlink()
    for _ in range(12):
        log.append(("decision", {}))
    [(_, what)] = findings(log, held)
    assert "another key" in what


def test_a_forged_head_proves_nothing(log: AuditLog) -> None:
    forged = replace(log.append(("decision", {})), sequence=99)
    assert not forged.is_genuine
    assert log.contradicts(forged) is None
    assert does_not_follow(forged, known=None, site="north") is not None


def test_heads_of_one_log_follow_one_another() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    known = Head.sign(key, site="north", sequence=5, sha256="a" * 64)
    assert does_not_follow(Head.sign(key, site="north", sequence=6, sha256="b" * 64), known=known, site="north") is None
    for bad in (
        Head.sign(key, site="north", sequence=4, sha256="b" * 64),
        Head.sign(key, site="north", sequence=5, sha256="b" * 64),
        Head.sign(other, site="north", sequence=6, sha256="b" * 64),
        Head.sign(key, site="south", sequence=6, sha256="b" * 64),
    ):
        assert does_not_follow(bad, known=known, site="north") is not None


def test_a_torn_last_line_is_set_aside_and_said_so(log: AuditLog) -> None:
    with log.path.open("ab") as file:
        file.write(b'{"action":"release","at')
    assert findings(log) == [], "what is torn told of nothing that left"
    log.append(("decision", {"decision": "answered"}))
    assert findings(log) == []
    healed = read(log.path.parent)[10]
    assert (healed["action"], healed["details"]["bytes"]) == ("healed", 23)
    assert b'"at' in (log.path.parent / audit.TORN).read_bytes()


APPEND = """
import sys
from pathlib import Path
from client.governance.audit import AuditLog
log = AuditLog(Path(sys.argv[1]), site="north")
number = 0
while True:
    number += 1
    log.append(("decision", {"number": number}), ("release", {"kind": "train_reply"}))
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", APPEND, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(20)]
    os.kill(process.pid, signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout.read().split()]
    process.wait()
    process.stdout.close()
    assert verify(tmp_path, site="north")[1] == []
    AuditLog(tmp_path, site="north").append(("decision", {}))
    numbers = [entry["details"].get("number") for entry in read(tmp_path) if entry["action"] == "decision"]
    assert set(acknowledged) <= set(numbers)
    assert verify(tmp_path, site="north")[1] == []


# The worker


def entries(hospital: Hospital) -> list[dict]:
    return read(lasting(hospital.folder, "north"))


def test_every_request_decision_and_release_is_written_down(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    hospital.approvals.approve(protocol(), policy=hospital.policy, by="Dr. Roe")
    envelope = hospital.worker.handle(messages.encode(Message(DescribeRequest(task()))))
    hospital.train(round=99)
    hospital.worker.handle(Envelope(b"noise"))
    assert [entry["action"] for entry in entries(hospital)] == ["request", "decision", "release"] * 3
    asked, decided, released = entries(hospital)[:3]
    assert asked["details"]["protocol"] == protocol().sha256
    assert decided["details"]["decision"] == "answered"
    reply = messages.decode(envelope)
    plain = messages.encode(Message(replace(reply.record, head=None)))  # type: ignore[type-var]
    assert released["details"]["bytes"] == plain.size
    head = reply.record.head  # type: ignore[union-attr]
    assert head is not None
    assert head.is_genuine
    assert head.sequence == 3
    assert entries(hospital)[4]["details"]["code"] == "too_many_rounds"
    assert entries(hospital)[6]["details"]["kind"] == "unreadable"
    assert verify(lasting(tmp_path, "north"), site="north") == (9, [])


def test_what_cannot_be_written_down_does_not_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hospital = Hospital(tmp_path)
    hospital.approvals.approve(protocol(), policy=hospital.policy, by="Dr. Roe")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    reply = messages.decode(hospital.worker.handle(messages.encode(Message(DescribeRequest(task()))))).record
    assert isinstance(reply, Failure)
    assert reply.code is FailureCode.INTERNAL


def test_sites_hold_one_anothers_heads_and_see_their_own_cut_short(tmp_path: Path) -> None:
    sites = {name: worker(name, tmp_path / "s") for name in ("east", "north", "west")}
    conduct(Loopback(sites), start(tmp_path, protocol(federation={"rounds": 2}), tuple(sites)))
    assert finished(tmp_path).failures == ()
    held = audit.anchors_in(tmp_path / "heads.json")
    assert {head.site for head in held} == set(sites)
    east, north = lasting(tmp_path / "s", "east"), lasting(tmp_path / "s", "north")
    at_east = audit.anchors_in(east / audit.LOG)
    assert {head.site for head in at_east} == {"north", "west"}
    records, wrong = verify(north, site="north", anchors=[*held, *at_east])
    assert wrong == []
    for path in (north / audit.LOG, north / audit.HEAD):
        path.unlink()
    with Journal(tmp_path) as journal:
        heads = tuple(journal.heads().values())
    replayed = DescribeRequest(replace(task(), protocol_json=protocol().canonical_json, heads=heads))
    sites["north"].handle(messages.encode(Message(replayed)))
    assert "broken" in {entry["action"] for entry in read(north)}
    assert any("another one" in f.what or "cut short" in f.what for f in verify(north, site="north", anchors=at_east)[1])
    assert records > 6


def test_a_center_notices_a_log_that_was_begun_anew(tmp_path: Path) -> None:
    sites = {name: worker(name, tmp_path / "s") for name in ("east", "north")}
    forgetful = lasting(tmp_path / "s", "north")

    def forget(site: str, request: Envelope, reply: Envelope) -> Envelope:
        if site == "north" and b'"describe_reply"' in reply.header:
            for name in (audit.LOG, audit.KEY, audit.HEAD):
                (forgetful / name).unlink()
        return reply

    conduct(Loopback(sites, tamper=forget), start(tmp_path, protocol(federation={"rounds": 1}), tuple(sites)))
    with Journal(tmp_path) as journal:
        warnings = [body["text"] for _, kind, body in journal.events() if kind == "warning"]
    assert any("north: its audit log has another key than before" in text for text in warnings)


# The commands


def test_verify_and_export_are_commands(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "state")
    hospital.approvals.approve(protocol(), policy=hospital.policy, by="Dr. Roe")
    hospital.describe()
    site = tmp_path / "site.toml"
    site.write_text(
        '[site]\nname = "north"\n[cohort]\ntable = "t.csv"\npatient_id = "id"\n'
        'label = { column = "y", positive = [1], negative = [0] }\n'
    )
    options = ["--site", str(site), "--state", str(tmp_path / "state")]
    whole = CliRunner().invoke(app, ["audit", "verify", *options])
    assert (whole.exit_code, "3 records, an unbroken chain" in whole.output) == (0, True), whole.output
    exported = CliRunner().invoke(app, ["audit", "export", *options])
    assert [json.loads(line)["action"] for line in exported.output.splitlines()] == ["request", "decision", "release"]
    assert CliRunner().invoke(app, ["audit", "export", *options, "--out", str(tmp_path / "log.jsonl")]).exit_code == 0
    lines = CliRunner().invoke(app, ["audit", "export", *options, "--syslog"]).output.splitlines()
    shape = re.compile(r'<10[89]>1 \d{4}-\d\d-\d\dT[\d:.]+Z \S+ consilium-site - \w+ \[consilium@32473( \w+="[^"\]]*")+\]')
    assert all(shape.fullmatch(line) for line in lines), lines
    log = lasting(tmp_path / "state", "north") / audit.LOG
    log.write_bytes(log.read_bytes().replace(b"describe", b"evaluate", 1))
    broken = CliRunner().invoke(app, ["audit", "verify", *options])
    assert broken.exit_code == 1
    assert "record 2: it does not follow record 1, which was edited" in broken.output
    assert CliRunner().invoke(app, ["audit", "verify", *options, "--heads", str(site)]).exit_code == 2


def test_a_syslog_line_cannot_be_broken_out_of() -> None:
    entry = {"sequence": 1, "at": "t", "action": "request", "details": {"run": 'x"] \n<1>1'}, "previous": "0" * 64}
    [line] = syslog_lines([entry], host="h")
    assert "\n" not in line
    assert 'run="x\\"\\]  <1>1"' in line

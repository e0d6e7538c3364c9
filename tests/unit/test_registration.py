"""SuperLink's keys follow the folder of hospitals, whatever was killed in between."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import enrolment
from client.enrolment import Home
from server import provisioning
from server.nodes import read_nodes, registered_nodes
from server.provisioning import Federation
from server.registration import DATABASE, NODES, Registrar, await_registration
from shared_model import flower_home
from shared_model.errors import StudyError


class Link:
    """What SuperLink does with keys, as Flower 1.41 answers: a key is taken once, ever."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.asked: list[tuple[str, ...]] = []
        self.lost_answer = False
        with sqlite3.connect(database) as held:
            held.execute("CREATE TABLE node (node_id INTEGER, public_key BLOB, status TEXT)")

    def __call__(self, *arguments: str) -> dict[str, object]:
        self.asked.append(arguments)
        with sqlite3.connect(self.database) as held:
            if arguments[:2] == ("supernode", "list"):
                rows = held.execute("SELECT node_id, status FROM node").fetchall()
                return {"nodes": [{"node-id": str(node % 2**64), "status": status} for node, status in rows]}
            if arguments[:2] == ("supernode", "unregister"):
                held.execute("UPDATE node SET status = 'unregistered' WHERE node_id = ?", (signed(int(arguments[2])),))
                return {}
            return {"node-id": str(self._register(held, Path(arguments[2]).read_text()))}

    def _register(self, held: sqlite3.Connection, key: str) -> int:
        pem = as_pem(key)
        if held.execute("SELECT 1 FROM node WHERE public_key = ?", (pem,)).fetchone():
            raise StudyError("flwr supernode failed: Public key already in use.")
        node = 2**64 - 1 - held.execute("SELECT count(*) FROM node").fetchone()[0]
        held.execute("INSERT INTO node VALUES (?, ?, 'registered')", (signed(node), pem))
        held.commit()
        if self.lost_answer:
            raise StudyError("killed before the answer came")
        return int(node)


def signed(node: int) -> int:
    return node - 2**64 if node >= 2**63 else node


def as_pem(key: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

    return load_ssh_public_key(key.encode()).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Federation]:
    monkeypatch.setattr(flower_home, "app_sha256", lambda: "a" * 64)
    made = provisioning.provision(tmp_path / "fed", hosts=("localhost",), name=None, port=8443, bind="0.0.0.0")[0]
    for site in ("alder", "birch"):
        approve(made, Home(tmp_path / site), site)
    yield made


def approve(federation: Federation, home: Home, site: str, *, renew: bool = False) -> None:
    enrolment.enrol(home, site=site, title="", renew=renew)
    provisioning.approve(federation, home.request)


def names(federation: Federation) -> dict[int, str]:
    return registered_nodes(federation.state / NODES)


def test_hospitals_are_registered_once_and_known_by_node(federation: Federation) -> None:
    link = Link(federation.state / DATABASE)
    registrar = Registrar(federation, link)
    registrar.step()
    assert registrar.done_once
    assert sorted(names(federation).values()) == ["alder", "birch"]
    asked = len(link.asked)
    registrar.step()
    assert len(link.asked) == asked  # nothing has changed, and asking costs seconds
    Registrar(federation, link).step()
    assert sum(arguments[1] == "register" for arguments in link.asked) == 2


def test_a_registration_whose_answer_was_lost_is_found_again(federation: Federation) -> None:
    link = Link(federation.state / DATABASE)
    link.lost_answer = True
    registrar = Registrar(federation, link)
    registrar.step()
    assert not registrar.done_once
    link.lost_answer = False
    registrar.step()
    registrar.step()
    assert sorted(names(federation).values()) == ["alder", "birch"]
    assert 2**64 - 1 in names(federation)


def test_a_superlink_that_lost_its_database_is_told_everything_anew(federation: Federation) -> None:
    registrar = Registrar(federation, Link(federation.state / DATABASE))
    registrar.step()
    (federation.state / DATABASE).unlink()
    link = Link(federation.state / DATABASE)
    Registrar(federation, link).step()
    assert sum(arguments[1] == "register" for arguments in link.asked) == 2


def test_a_revoked_hospital_is_unregistered(federation: Federation) -> None:
    link = Link(federation.state / DATABASE)
    registrar = Registrar(federation, link)
    registrar.step()
    provisioning.revoke(federation, "birch")
    registrar.step()
    assert list(names(federation).values()) == ["alder"]
    assert not any(node.accepted for node in read_nodes(federation.state / NODES).values() if node.site == "birch")
    assert link.asked[-1][:2] == ("supernode", "unregister") or link.asked[-2][:2] == ("supernode", "unregister")


def test_an_old_key_goes_when_its_successor_has_connected(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.registration.SUCCESSOR_CHECK_S", 0.0)
    link = Link(federation.state / DATABASE)
    registrar = Registrar(federation, link)
    registrar.step()
    approve(federation, Home(tmp_path / "birch"), "birch", renew=True)
    registrar.step()
    assert sorted(names(federation).values()) == ["alder", "birch", "birch"]
    new = read_nodes(federation.state / NODES)[federation.sites()["birch"].node_keys[-1].sha256].node
    with sqlite3.connect(link.database) as held:
        held.execute("UPDATE node SET status = 'online' WHERE node_id = ?", (signed(new),))
    registrar.step()
    registrar.step()
    assert sorted(names(federation).values()) == ["alder", "birch"]
    assert names(federation)[new] == "birch"


def test_while_the_center_is_down_it_is_said_when_it_will_be(federation: Federation) -> None:
    assert "consilium-center up" in await_registration(federation, "birch")

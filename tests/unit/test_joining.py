"""How join looks after a SuperNode that does not tell by its end that it is of no use any more, nor why it ended."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from client import fleet, joining
from client.joining import ONLINE, REFUSALS, REJOIN_S, RETRY_S, SUPERNODE, _Connection, still_online_s
from shared_model.errors import ConfigurationError


@dataclass
class Household:
    said: str = ""
    code: int | None = None
    ended: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": ""})

    def output(self, name: str) -> str:
        return self.said

    def end(self, name: str) -> None:
        self.ended.append(name)

    def exit_code(self, name: str) -> int | None:
        return self.code


@dataclass
class Scene:
    connection: _Connection
    household: Household
    told: list[str]
    clock: list[float]

    def after(self, seconds: float) -> None:
        self.clock[0] += seconds
        self.connection._look_at_line()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    kit_file = tmp_path / "kit.json"
    kit_file.write_text("{}")
    kit = SimpleNamespace(address="127.0.0.1:1", site="birch", host="127.0.0.1", port=1)
    home = SimpleNamespace(folder=tmp_path, root_certificate=tmp_path / "center.crt", node_key=tmp_path / "node.key")
    asked = SimpleNamespace(
        home=home, kit=kit, kit_file=kit_file, worker=tmp_path / "s", expect=None, ca_bundle=None, insecure=True
    )
    clock, told, household = [1000.0], [], Household()
    monkeypatch.setattr(joining, "monotonic", lambda: clock[0])
    connection = _Connection(asked, household, [], Event(), told.append)  # type: ignore[arg-type]
    connection._connected = connection._was_connected = True
    return Scene(connection, household, told, clock)


def test_one_that_works_is_left_alone(scene: Scene) -> None:
    scene.household.said = "INFO : Received successfully"
    for _ in range(10):
        scene.after(60.0)
    assert (scene.household.ended, scene.told) == ([], [])


def test_one_whose_last_word_is_an_error_is_started_again(scene: Scene) -> None:
    scene.household.said = (
        "INFO : Sent successfully\nERROR : Server error '500 Internal Server Error'\nFor more information check: ..."
    )
    scene.after(5.0)
    scene.after(5.0)
    assert scene.household.ended == [], "it may yet go on"
    scene.household.code = 0
    scene.after(15.0)
    assert scene.household.ended == [SUPERNODE]
    assert "has given up" in scene.told[-1]
    assert scene.connection._pause(0) == 0.0, "it has said goodbye, and may come back at once"


def test_one_that_had_to_be_killed_waits_until_it_is_let_in(scene: Scene) -> None:
    scene.household.said, scene.household.code = "ERROR : it is over", -9
    scene.after(5.0)
    scene.after(20.0)
    assert scene.connection._pause(-9) == REJOIN_S


def test_while_it_tries_again_the_step_that_fails_is_told_and_then_that_it_is_through(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable() -> bool:
        scene.connection._say("waiting for the center: port of the center: no connection")
        return False

    monkeypatch.setattr(scene.connection, "_reach", unreachable)
    scene.household.said = "INFO : Received successfully\nWARNING : Connection attempt failed, retrying in 0.9 seconds"
    for _ in range(4):
        scene.after(5.0)
    scene.household.said += "\nINFO : Connection successful after 20.00 seconds and 9 tries."
    scene.after(5.0)
    scene.after(5.0)
    assert scene.told == ["waiting for the center: port of the center: no connection", "connected again to 127.0.0.1:1"]


def test_a_supernode_that_ignored_the_request_of_a_stopped_run_is_started_again(scene: Scene) -> None:
    """Flower 1.41 keeps the task of such a request, whose answer then takes the place of the next one's, and so on."""
    late = "INFO : Run ID 7 is not in `RUNNING` status. Ignoring reply message 2175."
    scene.household.said, scene.household.code = late, 0
    scene.after(5.0)
    assert scene.household.ended == []
    scene.household.said += "\nINFO : Run ID 7 is not in `RUNNING` status. Ignoring message 50bc."
    scene.after(5.0)
    assert scene.household.ended == [SUPERNODE]
    assert "started again" in scene.told[-1]
    assert scene.connection._pause(0) == 0.0


def after_a_connection(scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, standing: str | None) -> _Connection:
    """It was online a moment ago as node 7; the way to the center is free, and the center says what it has of the key."""

    def asked(address: str, *, authorities: Path, key_file: Path, node: int) -> str | None:
        assert (address, node) == ("127.0.0.1:1", 7)
        return standing

    connection = scene.connection
    connection._joining.insecure = False  # type: ignore[misc]
    connection._node = None if standing is None else 7
    (tmp_path / ONLINE).write_text("{}")
    monkeypatch.setattr(fleet, "ask_standing", asked)
    monkeypatch.setattr(connection, "_reach", lambda: True)
    return connection


REFUSED = "ERROR : Exit Code: 305\nFailed to initialize the connection to the SuperLink.\n[code: 2004] Failed to activate"


def test_a_key_that_is_revoked_in_the_middle_ends_the_supernode_with_0_and_is_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = after_a_connection(scene, monkeypatch, tmp_path, standing="unknown")
    scene.household.said = "INFO : SuperNode terminated gracefully."
    assert connection._pause(0) == REJOIN_S
    assert "it was revoked, or not approved yet" in scene.told[-1]
    assert "enrol --renew" in scene.told[-1]
    assert still_online_s(tmp_path) == 0.0, "the doctor does not take it for connected, or online"


def test_a_supernode_that_somebody_ended_is_no_revoked_key(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = after_a_connection(scene, monkeypatch, tmp_path, standing="enrolled")
    assert connection._pause(0) == 0.0
    assert scene.told == ["the SuperNode was ended by somebody else; it is started again"]


def test_after_a_bad_certificate_the_center_still_counts_the_site_as_online_and_has_not_revoked_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = after_a_connection(scene, monkeypatch, tmp_path, standing="enrolled")
    expired = "waiting for the center: certificate of the center: the certificate of the center has expired"
    monkeypatch.setattr(connection, "_reach", lambda: connection._say(expired))
    scene.household.said, scene.household.code = "ERROR : SSL/TLS handshake error detected.\nERROR : [SSL: ...]", 0
    scene.after(5.0)
    scene.after(20.0)
    assert (scene.household.ended, scene.told) == ([SUPERNODE], [expired])
    assert connection._pause(0) == 0.0
    connection._connected = False
    assert connection._pause(1) == RETRY_S
    assert scene.told == [expired], "the cause, and nothing of keys"
    monkeypatch.setattr(connection, "_reach", lambda: True)
    scene.household.said = REFUSED
    assert REJOIN_S - 5.0 < connection._pause(1) <= REJOIN_S
    assert "still counts this site as online" in scene.told[-1]


def test_a_key_that_is_online_from_elsewhere_is_told(scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connection = after_a_connection(scene, monkeypatch, tmp_path, standing="enrolled")
    (tmp_path / ONLINE).unlink()
    scene.household.said, connection._connected = REFUSED, False
    assert connection._pause(1) == REJOIN_S
    assert "does consilium-site join run elsewhere with the keys of" in scene.told[-1]


def test_a_center_that_does_not_answer_the_question_is_asked_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = after_a_connection(scene, monkeypatch, tmp_path, standing="unavailable")
    assert connection._pause(0) == RETRY_S
    assert scene.told == []


def test_a_key_that_was_never_let_in_is_given_up_after_a_while(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = after_a_connection(scene, monkeypatch, tmp_path, standing=None)
    (tmp_path / ONLINE).unlink()
    connection._connected = connection._was_connected = False
    scene.household.said = REFUSED
    for _ in range(REFUSALS - 1):
        assert connection._pause(1) == RETRY_S
    with pytest.raises(ConfigurationError, match="not approved yet"):
        connection._pause(1)


def test_a_new_key_is_not_asked_for_by_the_node_of_the_old_one(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = after_a_connection(scene, monkeypatch, tmp_path, standing="unknown")
    monkeypatch.setattr(joining, "accept_kit", lambda *_, **__: (connection._joining.kit, ["the new key is in use"]))
    os.utime(connection._joining.kit_file, ns=(1, 1))
    connection._follow_kit()
    assert (scene.told, scene.household.ended) == (["the new key is in use"], [SUPERNODE])
    assert connection._standing() is None

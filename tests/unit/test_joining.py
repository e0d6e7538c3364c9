"""How join looks after a SuperNode that does not tell by its end that it is of no use any more."""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from client import joining
from client.joining import REJOIN_S, SUPERNODE, _Connection


@dataclass
class Household:
    said: str = ""
    code: int | None = None
    ended: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": ""})

    def tail(self, name: str, *, lines: int) -> str:
        return "\n".join(self.said.splitlines()[-lines:])

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
    kit = SimpleNamespace(address="127.0.0.1:1", site="birch")
    asked = SimpleNamespace(
        home=SimpleNamespace(folder=tmp_path), kit=kit, kit_file=kit_file, worker=tmp_path / "s", insecure=True
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

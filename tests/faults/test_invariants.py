"""The invariants see what they are there for: a whole run violates none, and one that was tampered with is found out."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from client.governance.audit import LOG
from client.state import lasting
from server.journal import FILE
from tests.faults.invariants import CANARY, LEDGER, Hospital, invariants
from tests.faults.scene import Scene
from tests.faults.stage import SITES, study_file
from tests.faults.undisturbed import differences

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

PRIVATE = '\n[privacy.dp]\nepsilon = 50\naccountant = "rdp"\n'


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("whole")
    scene = Scene.of(folder, study_file(folder, rounds=3, deadline_s=30))
    assert scene.run() == [SITES] * 3
    return scene


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("private")
    study = study_file(folder, rounds=2, deadline_s=60, more=PRIVATE)
    study.write_text(study.read_text().replace('client_rule = { kind = "scaffold" }', ""))
    scene = Scene.of(folder, study)
    for config in scene.configs.values():
        config.write_text(config.read_text() + "epsilon_limit = 100.0\n")
    assert scene.run() == [SITES] * 2
    return scene


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Scene], Scene]:
    def copied(scene: Scene) -> Scene:
        for name in ("run", "state"):
            shutil.copytree(scene.folder / name, tmp_path / name)
        return Scene(tmp_path, scene.study, scene.configs, tmp_path / "run")

    return copied


def change(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        for statement in statements:
            assert database.execute(statement).rowcount, statement


def test_a_whole_run_violates_nothing(whole: Scene) -> None:
    assert whole.violations() == []


def test_a_whole_private_run_violates_nothing(private: Scene) -> None:
    assert list(invariants(private.out, private.hospitals)) == []


TAMPERED = {
    "I1: the parent of round 2": "UPDATE round SET parent = 'x' WHERE round = 2",
    "I1: round 3 stands where round 2": "DELETE FROM round WHERE round = 2",
    "I1: the record of round 3 is of another": (
        "UPDATE round SET record = (SELECT record FROM round WHERE round = 2) WHERE round = 3"
    ),
    "I2: round 3 was acknowledged, and is lost": "DELETE FROM round WHERE round = 3",
    "I2: round 2 was committed 2 times": (
        "INSERT INTO event (at, kind, body) SELECT at, kind, body FROM event "
        "WHERE kind = 'committed' AND json_extract(body, '$.round') = 2"
    ),
    "I3: west was counted 2 times in round 2": (
        "UPDATE event SET body = json_set(body, '$.site', 'west') WHERE id = (SELECT max(id) FROM event "
        "WHERE kind = 'answered' AND json_extract(body, '$.site') = 'north' AND json_extract(body, '$.phase') = 'train' "
        "AND id < (SELECT id FROM event WHERE kind = 'committed' AND json_extract(body, '$.round') = 2))"
    ),
    "I5: round 2 is of 1 sites": (
        "UPDATE round SET record = json_remove(record, '$.sites.east', '$.sites.north') WHERE round = 2"
    ),
    "I8: the run is not finished": "DELETE FROM fact WHERE key = 'finished'",
}


@pytest.mark.parametrize("violation", TAMPERED)
def test_a_journal_that_was_tampered_with_is_found_out(whole: Scene, copy: Callable[[Scene], Scene], violation: str) -> None:
    scene = copy(whole)
    change(scene.out / FILE, TAMPERED[violation])
    assert any(found.startswith(violation) for found in invariants(scene.out, scene.hospitals))


def test_a_flipped_bit_of_a_checkpoint_is_found_out(whole: Scene, copy: Callable[[Scene], Scene]) -> None:
    scene = copy(whole)
    file = scene.out / "models" / "round-0003.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "I1: round-0003.safetensors is not the checkpoint that was committed" in invariants(scene.out, scene.hospitals)


def test_a_reply_that_no_site_gave_is_found_out(whole: Scene, copy: Callable[[Scene], Scene], tmp_path: Path) -> None:
    scene = copy(whole)
    hospitals = scene.hospitals | {"west": Hospital(scene.configs["west"], tmp_path / "nothing")}
    assert "I3: west counted in round 1, and never answered it" in invariants(scene.out, hospitals)


def test_a_charge_that_is_gone_is_found_out(private: Scene, copy: Callable[[Scene], Scene]) -> None:
    scene = copy(private)
    change(lasting(scene.hospitals["west"].state, "west") / LEDGER, "DELETE FROM charge WHERE round = 2")
    assert "I4: west answered round 2 of run r, and its ledger does not show it" in invariants(scene.out, scene.hospitals)


def test_a_budget_that_grows_again_is_found_out(private: Scene, copy: Callable[[Scene], Scene]) -> None:
    scene = copy(private)
    change(scene.out / FILE, "UPDATE round SET record = json_set(record, '$.sites.west.privacy.epsilon', 0.0) WHERE round = 2")
    assert "I4: west had spent more before round 2 than after it" in invariants(scene.out, scene.hospitals)


def test_an_audit_log_that_was_cut_short_is_found_out(whole: Scene, copy: Callable[[Scene], Scene]) -> None:
    scene = copy(whole)
    log = lasting(scene.hospitals["east"].state, "east") / LOG
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-4]))
    assert any(found.startswith("audit log of east") for found in invariants(scene.out, scene.hospitals))


def test_a_patient_in_a_log_is_found_out(whole: Scene, copy: Callable[[Scene], Scene]) -> None:
    scene = copy(whole)
    (scene.out / "some.log").write_bytes(os.urandom(2**20 - 5) + f"{CANARY}west-7".encode())
    assert "I7: a patient's identifier is in some.log" in invariants(scene.out, scene.hospitals)


def test_a_model_of_another_run_is_found_out(whole: Scene, copy: Callable[[Scene], Scene]) -> None:
    """As if one site had been counted twice, or another's state been used: any bit that is not as undisturbed."""
    scene = copy(whole)
    with closing(sqlite3.connect(scene.out / FILE)) as database, database:
        [record] = database.execute("SELECT record FROM round WHERE round = 2").fetchone()
        document = json.loads(record)
        del document["sites"]["west"]
        database.execute("UPDATE round SET record = ? WHERE round = 2", (json.dumps(document),))
    found = differences(scene.out, scene.configs, scene.folder / "again")
    assert "I6: the model of round 2 is not that of an undisturbed run" in found

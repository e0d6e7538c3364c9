"""What keeps processes running: again, later and later, and not before it is allowed."""

import os
import sys
import time
from pathlib import Path

import pytest

from shared_model import supervisor
from shared_model.errors import StudyError
from shared_model.household import Household
from shared_model.locking import alone, is_held
from shared_model.supervisor import Service, Supervisor

FAILS = [sys.executable, "-c", "print('no'); raise SystemExit(3)"]
STAYS = [sys.executable, "-c", "import time; time.sleep(60)"]


def steps(looked_after: Supervisor, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        looked_after.step()
        time.sleep(0.01)


def test_what_dies_is_started_again_with_a_growing_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY_S", 0.2)
    with Household(tmp_path / "logs", dict(os.environ)) as household:
        looked_after = Supervisor(household, [Service("fails", FAILS), Service("stays", STAYS)], folder=tmp_path)
        began = time.monotonic()
        while looked_after.restarts["fails"] < 4:
            looked_after.step()
            time.sleep(0.01)
        assert time.monotonic() - began >= 0.2 + 0.4 + 0.8
        assert looked_after.restarts["stays"] == 0
        assert looked_after.is_running("stays")
    assert (tmp_path / "logs" / "fails.log").read_text().count("no\n") >= 4  # earlier output is kept


def test_a_service_may_ask_for_a_longer_pause(tmp_path: Path) -> None:
    codes: list[int] = []

    def pause(code: int) -> float:
        codes.append(code)
        return 60.0

    with Household(tmp_path / "logs", dict(os.environ)) as household:
        looked_after = Supervisor(household, [Service("fails", FAILS, pause_s=pause)], folder=tmp_path)
        while not codes:
            looked_after.step()
            time.sleep(0.01)
        steps(looked_after, seconds=1.5)
        assert codes == [3]
        assert not looked_after.is_running("fails")
        assert household.output("fails") == "no\n"


def test_a_lock_is_held_by_one_and_seen_by_others(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    assert not is_held(file)
    with alone(file, otherwise="taken"):
        assert is_held(file)
        with pytest.raises(StudyError, match="taken"), alone(file, otherwise="taken"):
            pass
    assert not is_held(file)

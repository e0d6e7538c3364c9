import subprocess
import sys
import time
from pathlib import Path

from shared_model.crashpoints import HOLD, KILL, PLAN, REACHED, VARIABLE, crashpoint
from tests.deployed import environment

PASS_TWICE = "from shared_model.crashpoints import crashpoint\nfor n in (1, 2): crashpoint('here'); print(n, flush=True)"


def run(**variables: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", PASS_TWICE], env=environment() | variables, stdout=subprocess.PIPE)


def test_nothing_happens_unless_it_is_asked_for(tmp_path: Path) -> None:
    crashpoint("here")
    assert run(**{PLAN: str(tmp_path)}).communicate()[0] == b"1\n2\n"


def test_a_process_dies_at_the_point_and_pass_that_its_environment_says() -> None:
    process = run(**{VARIABLE: "here:2"})
    assert (process.communicate()[0], process.returncode) == (b"1\n", -9)
    assert run(**{VARIABLE: "there"}).communicate()[0] == b"1\n2\n"


def test_a_plan_kills_one_process_once(tmp_path: Path) -> None:
    (tmp_path / "here").write_text(KILL)
    first, second = run(**{PLAN: str(tmp_path)}), run(**{PLAN: str(tmp_path)})
    first.communicate(), second.communicate()
    assert sorted([first.returncode, second.returncode]) == [-9, 0]
    assert (tmp_path / f"here{REACHED}").exists()


def test_a_plan_holds_a_process_until_it_is_let_go(tmp_path: Path) -> None:
    (tmp_path / "here").write_text(HOLD)
    process = run(**{PLAN: str(tmp_path)})
    deadline = time.monotonic() + 30.0
    while not (tmp_path / f"here{REACHED}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert process.poll() is None
    (tmp_path / f"here{REACHED}").unlink()
    assert process.communicate()[0] == b"1\n2\n"

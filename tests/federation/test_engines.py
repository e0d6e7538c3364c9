"""Flower's engines end to end: real processes, and nothing left of them."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from server import engines
from shared_model.errors import ConfigurationError, FailureCode, StudyError
from tests.tables import SITE

pytestmark = [pytest.mark.federation, pytest.mark.timeout(240)]

FAKES = Path(__file__).with_name("fakes")
ROOT = Path(__file__).parents[2]
SHA256 = hashlib.sha256(bytes(range(256)) * 20_000).hexdigest()


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAKES), str(ROOT)]))


@pytest.fixture
def run_directory(tmp_path):
    directory = tmp_path / ("a run with a long name " * 4).strip()  # a socket below it would have too long a path
    directory.mkdir()
    return directory


@pytest.fixture
def sites(tmp_path):
    paths = {name: tmp_path / f"{name}.toml" for name in ("north", "south")}
    for name, path in paths.items():
        path.write_text(SITE.format(name=name))
    return paths


def write_script(run_directory, **script):
    (run_directory / "script.json").write_text(json.dumps(script))


def leftovers(run_directory):
    """Processes that know of the run, by the environment they were started with."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found += [process] if any(str(run_directory) in value for value in process.environ().values()) else []
        except psutil.Error:
            continue
    return found


def check_nothing_is_left(run_directory):
    assert leftovers(run_directory) == []
    assert not (run_directory / "scratch").exists()


def test_flower_carries_messages_bit_for_bit_and_outlives_a_worker(run_directory, sites):
    asks = [{"north": "echo", "south": "echo"}, {"north": "raise", "south": "die"}]
    write_script(run_directory, sites=["south", "north"], asks=asks)

    engines.run_flower(run_directory, sites, threads=1)

    results = json.loads((run_directory / "answers.json").read_text())
    assert results["connected"] == ["south", "north"]
    state = run_directory / engines.STATE
    assert results["asks"][0] == {site: {"header": f"{site} 1 {state} 1", "sha256": SHA256} for site in ("north", "south")}
    assert results["asks"][1]["north"]["code"] == FailureCode.INTERNAL
    assert results["asks"][1]["south"]["code"] == FailureCode.UNREACHABLE
    check_nothing_is_left(run_directory)


def test_ray_carries_messages_bit_for_bit(run_directory, sites):
    pytest.importorskip("ray", reason="pip install consilium[ray]")
    asks = [{"north": "echo", "south": "echo"}, {"north": "raise"}]
    write_script(run_directory, sites=["north", "south"], asks=asks)

    engines.run_ray(run_directory, sites, threads=1)

    results = json.loads((run_directory / "answers.json").read_text())
    assert results["connected"] == ["north", "south"]
    for site in sites:
        answer = results["asks"][0][site]
        assert answer["sha256"] == SHA256
        assert answer["header"] == f"{site} 1 {run_directory / engines.STATE} 1"
    assert results["asks"][1]["north"]["code"] == FailureCode.INTERNAL
    check_nothing_is_left(run_directory)


def test_the_error_of_a_study_is_told_as_it_is(run_directory):
    write_script(run_directory, error="no quorum in round 3: south did not answer")
    with pytest.raises(StudyError, match=r"^no quorum in round 3: south did not answer$"):
        engines.run_flower(run_directory, {}, threads=1)
    check_nothing_is_left(run_directory)


def test_a_worker_that_cannot_start_is_told_with_its_own_words(run_directory, tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("[site]\nname = \n")
    with pytest.raises(StudyError, match=r"(?s)worker-0 ended with exit code 1.*Invalid value \(at line 2"):
        engines.run_flower(run_directory, {"broken": broken}, threads=1)
    check_nothing_is_left(run_directory)


def test_a_killed_caller_takes_its_engine_along(run_directory):
    write_script(run_directory, sites=[], asks=[], sleep_s=120.0)
    code = f"from pathlib import Path; from server import engines; engines.run_flower(Path({str(run_directory)!r}), {{}})"
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        wait_for(lambda: (run_directory / "started").exists(), timeout_s=60.0)
        assert len(leftovers(run_directory)) >= 3  # SuperLink, SuperExec, ServerApp
    finally:
        caller.send_signal(signal.SIGKILL)
        caller.wait()
    wait_for(lambda: not leftovers(run_directory), timeout_s=15.0)


def test_without_ray_the_remedy_is_told(run_directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install consilium\[ray\]"):
        engines.run_ray(run_directory, {}, threads=1)


def wait_for(condition, *, timeout_s):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.1)

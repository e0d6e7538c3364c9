import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from shared_model.errors import StudyError
from shared_model.household import Household

ROOT = Path(__file__).parents[2]
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
# A daemon as by the book: two forks and a session of its own, so that neither parent nor process group leads to it.
DAEMON = """
import os, sys, time
from pathlib import Path
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        Path(sys.argv[1]).write_text(str(os.getpid()))
        time.sleep(60)
    os._exit(0)
time.sleep(60)
"""

STUBBORN = """
import os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(60)
"""
CALLER = f"""
import os, sys, time
from pathlib import Path
from shared_model.household import Household
folder = Path(sys.argv[1])
with Household(folder / "logs", dict(os.environ)) as household:
    household.start("child", [sys.executable, "-c", {STUBBORN!r}, "pid"], folder=folder, environment={{}})
    time.sleep(60)
"""


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.02)


def number_in(path):
    wait_for(lambda: path.exists() and path.read_text())
    return int(path.read_text())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_outlives_the_household_not_even_a_daemon(tmp_path, error):
    pid = tmp_path / "pid"
    with pytest.raises(error), Household(tmp_path / "logs", dict(os.environ)) as household:
        household.start("daemon", [sys.executable, "-c", DAEMON, str(pid)], folder=tmp_path, environment={})
        daemon = number_in(pid)
        assert is_running(daemon)
        raise error
    wait_for(lambda: not is_running(daemon), timeout_s=2.0)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path):
    with Household(tmp_path / "logs", dict(os.environ)) as household:
        household.start("stubborn", [sys.executable, "-c", STUBBORN, "pid"], folder=tmp_path, environment={})
        stubborn = number_in(tmp_path / "pid")
        household.require("stubborn")
    assert not is_running(stubborn)


def test_what_was_started_dies_with_a_killed_caller(tmp_path):
    caller = subprocess.Popen([sys.executable, "-c", CALLER, str(tmp_path)], cwd=ROOT)
    child = number_in(tmp_path / "pid")
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    wait_for(lambda: not is_running(child), timeout_s=5.0)


def test_an_ended_process_is_told_with_the_end_of_its_output(tmp_path):
    with Household(tmp_path / "logs", dict(os.environ)) as household:
        household.start("sleeper", SLEEP, folder=tmp_path, environment={})
        code = "import os; print(*range(100), sep='\\n'); print(os.environ['EXTRA'], os.getcwd()); raise SystemExit(3)"
        household.start("talker", [sys.executable, "-c", code], folder=tmp_path, environment={"EXTRA": "last words"})
        with pytest.raises(StudyError, match="talker ended with exit code 3") as caught:
            wait_for(lambda: household.require("sleeper", "talker"))
        household.require("sleeper")
    assert str(caught.value).endswith(f"last words {tmp_path}")
    assert "\n50\n" not in str(caught.value)

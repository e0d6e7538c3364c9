"""The relay's command: handed to a process that is warm, or run as it is without one."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from client import warm

ROOT = Path(__file__).parents[2]


def launch(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(folder / warm.COMMAND), "--help"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_without_a_warm_process_flowers_own_command_runs(tmp_path: Path) -> None:
    warm.write_launcher(tmp_path / "warm")
    (tmp_path / "warm" / warm.SOCKET).write_text("left behind")
    assert "Run a Flower ClientApp" in launch(tmp_path / "warm").stdout


def test_a_warm_process_becomes_the_command_and_stays(tmp_path: Path) -> None:
    folder, log = tmp_path / "warm", tmp_path / "log"
    warm.write_launcher(folder)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "client.warm", str(folder)], stdout=output, stderr=output, env=environment
        )
    try:
        deadline = time.monotonic() + 60
        while not (folder / warm.SOCKET).exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for count in (1, 2):
            told = launch(folder)
            assert (told.returncode, told.stdout) == (0, "")
            while log.read_text().count("Run a Flower ClientApp") < count:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        assert process.poll() is None
        assert not [child for child in psutil.Process(process.pid).children() if child.status() == psutil.STATUS_ZOMBIE]
    finally:
        process.kill()
        process.wait()

"""Processes that are started together and end together: none of them, nor of their children, outlives the household."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Self

from shared_model.errors import StudyError

STOP_GRACE_S = 3.0
LOG_LIMIT = 10_000_000
_MARK = "CONSILIUM_HOUSEHOLD"
_LEASH = Path(__file__).with_name("leash.py")


class Household:
    """Starts processes, their output in ``logs``, and ends them all on leaving the ``with`` block.

    ``grace_s`` is the time between being asked to end and being killed. They end too if this process is killed. Whatever
    they start in turn is found by a mark in its environment, so that neither a daemon nor an orphan is left (Linux; elsewhere
    only what stays in their process groups is found).
    """

    def __init__(self, logs: Path, environment: Mapping[str, str], *, grace_s: float = STOP_GRACE_S) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        token = secrets.token_hex(16)
        self.environment = {**environment, _MARK: token}
        self._logs = logs
        self._grace_s = grace_s
        self._mark = f"{_MARK}={token}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._starts: dict[str, int] = {}  # where in its log the output of the latest process begins

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self._running():
                os.killpg(process.pid, number)
            deadline = monotonic() + self._grace_s
            while self._running() and monotonic() < deadline:
                sleep(0.05)
        deadline = monotonic() + STOP_GRACE_S
        while (strays := list(_marked(self._mark))) and monotonic() < deadline:
            for pid in strays:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            sleep(0.05)

    def start(self, name: str, command: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> None:
        """Start ``command`` in ``folder`` as ``name``, with ``environment`` on top of the household's. Its output goes on where
        that of an earlier process of the name ended; beyond ``LOG_LIMIT`` bytes the earlier part becomes ``NAME.log.1``."""
        if self._log(name).exists() and self._log(name).stat().st_size > LOG_LIMIT:
            self._log(name).replace(self._log(name).with_suffix(".log.1"))
        with self._log(name).open("ab") as log:
            self._starts[name] = log.tell()
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), *command],
                cwd=folder,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def require(self, *names: str) -> None:
        """Make sure that the processes ``names`` are running.

        Raises:
            StudyError: one has ended; with the end of its output.
        """
        for name in names:
            if (code := self._processes[name].poll()) is not None:
                raise StudyError(f"{name} ended with exit code {code}. The end of its output:\n{self.tail(name)}")

    def exit_code(self, name: str) -> int | None:
        """How the process ``name`` ended (negative: by that signal), or None while it runs."""
        return self._processes[name].poll()

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the process ``name``, if it runs."""
        if self.exit_code(name) is None:
            self._processes[name].send_signal(number)

    def end(self, name: str) -> None:
        """Ask the process ``name`` to end, and kill it if it has not within the household's grace."""
        self.signal(name, signal.SIGTERM)
        try:
            self._processes[name].wait(self._grace_s)
        except subprocess.TimeoutExpired:
            self._processes[name].kill()
            self._processes[name].wait()

    def tail(self, name: str, *, lines: int = 20) -> str:
        """The last ``lines`` of what the latest process ``name`` printed."""
        return "\n".join(self.output(name).splitlines()[-lines:])

    def output(self, name: str) -> str:
        """What the latest process ``name`` printed."""
        with self._log(name).open("rb") as log:
            log.seek(self._starts[name])
            return log.read().decode(errors="replace")

    def _running(self) -> list["subprocess.Popen[bytes]"]:
        return [process for process in self._processes.values() if process.poll() is None]

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"


def _marked(mark: str) -> Iterator[int]:
    """Processes that have ``mark`` in their environment, other than zombies."""
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in entry.read_bytes().split(b"\0"):
                yield int(entry.parent.name)

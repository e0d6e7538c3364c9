"""A federation of real processes on loopback, started and stopped as its people would: by the two commands."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
CENTER = [sys.executable, "-c", "from server.cli import app; app()"]
SITE = [sys.executable, "-c", "from client.cli import app; app()"]


@dataclass
class Deployed:
    """A provisioned center and enrolled hospitals under ``folder``; ``sites`` are their site files by name."""

    folder: Path
    sites: Mapping[str, Path]
    port: int
    sockets: Path
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def federation(self) -> Path:
        return self.folder / "federation"

    def home(self, site: str) -> Path:
        return self.folder / "homes" / site

    def kit(self, site: str) -> Path:
        return self.federation / "kits" / f"{site}.kit.json"

    def socket(self, site: str) -> Path:
        return self.sockets / f"{site}.sock"

    def log(self, name: str) -> str:
        file = self.folder / f"{name}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def center(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        return self._run(CENTER, arguments)

    def site(self, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        return self._run(SITE, arguments, **environment)

    def start(self, name: str, command: list[str], *arguments: object) -> "subprocess.Popen[bytes]":
        """Start a command that stays; its output goes to ``NAME.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [*command, *map(str, arguments)],
                cwd=self.folder,
                env=environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.running[name]

    def stop(self, name: str, *, timeout_s: float = 40.0) -> int:
        """End a command as its user would; its exit code."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout_s)

    def enrol(self, site: str) -> None:
        request = self.folder / f"{site}.request.json"
        for result in (
            self.site("enrol", self.sites[site], "--home", self.home(site), "--out", request),
            self.center("approve-site", self.federation, request),
        ):
            assert result.returncode == 0, result.stdout + result.stderr

    def approve(self, site: str, study: Path) -> None:
        state = self.folder / "state" / site
        result = self.site("approve", study, "--site", self.sites[site], "--state", state, "--yes", "--by", "test")
        assert result.returncode == 0, result.stdout + result.stderr

    def up(self) -> None:
        self.start("up", CENTER, "up", self.federation)
        self.await_line("up", "hospitals can connect")

    def worker(self, site: str) -> None:
        self.start(
            f"worker-{site}", SITE, "worker", self.sites[site], "--socket", self.socket(site), "--state",
            self.folder / "state" / site, "--threads", 1,
        )  # fmt: skip

    def join(self, site: str) -> None:
        self.start(f"join-{site}", SITE, "join", self.kit(site), "--home", self.home(site), "--worker", self.socket(site))

    def await_line(self, name: str, text: str, *, timeout_s: float = 150.0) -> None:
        def there() -> bool:
            assert self.running[name].poll() is None or text in self.log(name), self.log(name)
            return text in self.log(name)

        wait_for(there, timeout_s=timeout_s, told=lambda: self.log(name))

    def run(self, study: Path, out: Path, *arguments: object, sites: str | None = None) -> "subprocess.CompletedProcess[str]":
        names = sites or ",".join(self.sites)
        return self.center("run", study, "--federation", self.federation, "--sites", names, "--out", out, *arguments)

    def _run(self, command: list[str], arguments: tuple[object, ...], **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*command, *map(str, arguments)],
            cwd=self.folder,
            env=environment() | more,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


@contextmanager
def deployed(folder: Path, sites: Mapping[str, Path], *, host: str = "127.0.0.1") -> Iterator[Deployed]:
    """Provision a center called ``host`` at a free port and enrol all hospitals; nothing runs yet. At the end everything is
    ended."""
    with tempfile.TemporaryDirectory(prefix="c-") as sockets:  # short: the kernel allows 107 bytes for a socket's path
        federation = Deployed(folder, sites, free_port(), Path(sockets))
        result = federation.center("provision", "--out", federation.federation, "--host", host, "--port", federation.port)
        assert result.returncode == 0, result.stdout + result.stderr
        for site in sites:
            federation.enrol(site)
        try:
            yield federation
        finally:
            for process in federation.running.values():
                process.terminate()
            for process in federation.running.values():
                try:
                    process.wait(40.0)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}


def without_proxies(variables: Mapping[str, str]) -> dict[str, str]:
    """An environment in which no proxy leads out, whatever this machine's does."""
    return {name: value for name, value in variables.items() if not name.lower().endswith("_proxy")}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], *, timeout_s: float, told: Callable[[], str] = lambda: "") -> None:
    """Wait for ``condition``. ``timeout_s`` are seconds of a machine that has nothing else to do: on one that is crowded they
    pass more slowly, for what is waited for is made of processes that start."""
    left, last = timeout_s, time.monotonic()
    while not condition():
        now = time.monotonic()
        left, last = left - (now - last) / crowd(), now
        assert left > 0.0, f"took too long: {told()}"
        time.sleep(0.1)


def crowd() -> float:
    """How many processes want each processor, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))

"""Flower's own engines on this machine, over loopback: its deployment engine (real SuperLink and SuperNodes) and its
simulation engine on Ray. Both run the apps that hospitals and center run; only how they are started is here.

Flower comes as commands, and is not imported: its commands are what an operator would type.
"""

import http.client
import importlib.util
import json
import os
import secrets
import shutil
import socket as sockets
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import tomli_w

from shared_model import flower_home
from shared_model.errors import ConfigurationError, Fault, StudyError
from shared_model.household import Household

STATE = "sites"  # folder of the run directory for what simulated sites remember
START_TIMEOUT_S = 120.0
STATUS_EVERY_S = 20.0  # asking Flower costs seconds of CPU; how a study ended is read from a file
_LINK = "center"  # name of the SuperLink in Flower's configuration
_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # in spite of its name: Ray stays on loopback
    "RAY_AUTH_MODE": "token",
}


def run_flower(run_directory: Path, sites: Mapping[str, Path], *, threads: int | None = None) -> None:
    """Run or resume the study in ``run_directory`` on Flower's deployment engine; returns when it has ended.

    ``sites`` maps names to site.toml files. Each gets a resident worker with ``threads`` CPU threads, and a SuperNode.

    Raises:
        ConfigurationError: Flower's commands are not installed.
        StudyError: the study failed, or a part of the engine did.
    """
    with _engine(run_directory) as engine:
        engine.start_center()
        nodes = [_Node(number, path.resolve()) for number, path in enumerate(sites.values())]
        for node, port in zip(nodes, _free_ports(len(nodes)), strict=True):
            engine.start_site(node, port=port, threads=threads)
        engine.await_start(nodes)
        engine.run_study({})


def run_ray(run_directory: Path, sites: Mapping[str, Path], *, threads: int | None = None) -> None:
    """Run or resume the study in ``run_directory`` on Flower's simulation engine; returns when it has ended.

    ``sites`` maps names to site.toml files. As many sites work at a time as have ``threads`` CPUs each (None: one).

    Raises:
        ConfigurationError: Flower's commands or Ray are not installed.
        StudyError: the study failed, or a part of the engine did.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigurationError([Fault("--engine ray", "", "Ray is not installed", "Ray", "pip install consilium[ray]")])
    cpus = os.cpu_count() or 1
    resources = {
        "num-supernodes": len(sites),
        "client-resources-num-cpus": min(threads or 1, cpus),
        "init-args-num-cpus": cpus,
    }
    plan = {"sites": [str(path.resolve()) for path in sites.values()], "state": str(_state(run_directory)), "threads": threads}
    # Ray puts sockets into its folder, for whose path the kernel allows 107 bytes: it cannot be in the run directory.
    with tempfile.TemporaryDirectory(prefix="consilium-") as ray_folder, _engine(run_directory) as engine:
        (engine.scratch / "sites.json").write_text(json.dumps(plan), encoding="utf-8")
        engine.start_center("--simulation", environment={"RAY_TMPDIR": ray_folder, "RAY_AUTH_TOKEN_PATH": str(engine.secret)})
        engine.await_start([])
        engine.run_study({"sites": str(engine.scratch / "sites.json")}, resources=resources)


@dataclass(frozen=True)
class _Node:
    """A site: its resident worker, and the SuperNode that relays to it."""

    number: int
    config: Path

    @property
    def worker(self) -> str:
        return f"worker-{self.number}"

    @property
    def supernode(self) -> str:
        return f"supernode-{self.number}"

    @property
    def socket(self) -> str:
        return f"sockets/{self.number}"  # relative to the folder of both processes, for the kernel allows 107 bytes


@dataclass(frozen=True)
class _Engine:
    """The processes of one engine. ``scratch`` is the folder of all of them; it is removed at the end."""

    run_directory: Path
    scratch: Path
    household: Household
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def secret(self) -> Path:
        return self.scratch / "secret"

    def start_center(self, *options: str, environment: Mapping[str, str] | None = None) -> None:
        """Start SuperLink and SuperExec. They share a secret, so that no other process of this machine can take over the
        center's task, which Flower's simpler mode would allow."""
        common = ["--insecure", "--superexec-auth-secret-file", str(self.secret)]
        link = [
            "flower-superlink",
            *common,
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--isolation",
            "process",
            *options,
        ]
        self._start("superlink", link)
        self._start("superexec", ["flower-superexec", *common, "--runtime-api-address", self.address], environment or {})

    def start_site(self, node: _Node, *, port: int, threads: int | None) -> None:
        """Start the worker of ``node``, and its SuperNode with its local interface at ``port``."""
        worker = [sys.executable, "-m", "client.serving", str(node.config), "--socket", node.socket]
        worker += ["--state", str(_state(self.run_directory))]
        worker += [] if threads is None else ["--threads", str(threads)]
        self._start(node.worker, worker)
        supernode = ["flower-supernode", "--insecure", "--superlink", self.address, "--host", "127.0.0.1", "--port", str(port)]
        supernode += ["--node-config", f'worker="{node.socket}"']
        self._start(node.supernode, supernode, {"FLWR_HOME": str(self.scratch / f"home-{node.number}")})

    def await_start(self, nodes: Sequence[_Node]) -> None:
        """Wait until SuperLink and all workers answer, so that a site that cannot start is told now, not at a deadline."""
        names = ["superlink", "superexec", *(name for node in nodes for name in (node.worker, node.supernode))]
        deadline = monotonic() + START_TIMEOUT_S
        while not (_is_healthy(self.port) and all((self.scratch / node.socket).is_socket() for node in nodes)):
            self.household.require(*names)
            if monotonic() > deadline:
                raise StudyError(f"the engine did not start within {START_TIMEOUT_S:.0f} s")
            sleep(0.1)

    def run_study(self, config: Mapping[str, str], *, resources: Mapping[str, int] | None = None) -> None:
        """Submit the study and wait until it has ended."""
        outcome = self.scratch / "outcome.json"
        config = {"run-directory": str(self.run_directory), "outcome": str(outcome), **config}
        (self.scratch / "run.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
        command = ["run", "app", _LINK, "--run-config", "run.toml"]
        if resources:
            command += ["--federation-config", " ".join(f"{key}={value}" for key, value in resources.items())]
        run = str(self._flwr(*command)["run-id"])
        next_look = monotonic() + STATUS_EVERY_S
        while not outcome.exists():
            self.household.require("superlink", "superexec")
            if monotonic() > next_look:
                next_look = monotonic() + STATUS_EVERY_S
                self._check_running(run, outcome)
            sleep(0.1)
        if error := json.loads(outcome.read_text(encoding="utf-8"))["error"]:
            raise StudyError(error)

    def _check_running(self, run: str, outcome: Path) -> None:
        status = self._flwr("list", _LINK, "--run-id", run)["runs"][0]
        if status["status"].startswith("finished") and not outcome.exists():
            log = flower_home.flwr(
                "log", run, _LINK, "--show", folder=self.scratch, environment=self.household.environment
            ).splitlines()[-20:]
            raise StudyError(
                "\n".join([f"Flower ended the study: {status['status']} {status.get('status-details', '')}", *log])
            )

    def _start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.household.start(name, command, folder=self.scratch, environment=environment or {})

    def _flwr(self, *arguments: str) -> Any:
        return flower_home.flwr_json(*arguments, folder=self.scratch, environment=self.household.environment)


@contextmanager
def _engine(run_directory: Path) -> Iterator[_Engine]:
    run_directory = run_directory.resolve()
    scratch = run_directory / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir(mode=0o700)
    try:
        (scratch / "secret").touch(mode=0o600)
        (scratch / "secret").write_text(secrets.token_hex(32), encoding="utf-8")
        flower_home.write_app(scratch / "app")
        [port] = _free_ports(1)
        link = {"superlink": {"default": _LINK, _LINK: {"address": f"127.0.0.1:{port}", "insecure": True}}}
        (scratch / "home").mkdir()
        (scratch / "home" / "config.toml").write_text(tomli_w.dumps(link), encoding="utf-8")
        with Household(scratch / "logs", flower_home.environment(scratch / "home") | _RAY) as household:
            yield _Engine(run_directory, scratch, household, port)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _state(run_directory: Path) -> Path:
    return run_directory.resolve() / STATE


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(sockets.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()

"""``consilium-center up``: SuperLink, SuperExec and nginx, kept running, with the hospitals that are enrolled.

SuperLink listens on loopback only, over TLS, authenticates nodes, keeps its state in SQLite, and gives a study to nobody
but the SuperExec that knows its secret. nginx is in front. All of it ends with this process, however that ends.
"""

import json
import logging
import os
import secrets
import shutil
import signal
import socket as sockets
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import tomli_w

from server import nginx
from server.authority import is_address
from server.provisioning import Federation, Settings, internal_certificate
from server.registration import DATABASE, LOCK, Registrar
from shared_model import flower_home
from shared_model.durable import write_durably
from shared_model.errors import ConfigurationError, Fault, StudyError
from shared_model.household import Household
from shared_model.locking import alone
from shared_model.supervisor import Service, Supervisor

LINK = "center"  # name of the SuperLink in Flower's configuration
STATUS = "center.json"
STEP_S = 0.5
HEALTH_S = 2.0
WARN_EVERY_S = 86_400.0
GRACE_S = 15.0
SUPERLINK, SUPEREXEC, NGINX = "superlink", "superexec", "nginx"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Link:
    """How Flower's commands reach a running SuperLink: the folder to run them in, and their environment."""

    folder: Path
    environment: Mapping[str, str]

    def json(self, *arguments: str) -> Any:
        """Run a command of Flower's; its JSON. The SuperLink's name follows the arguments that stand before options.

        Raises:
            StudyError: it failed.
        """
        cut = next((place for place, word in enumerate(arguments) if word.startswith("--")), len(arguments))
        words = (*arguments[:cut], LINK, *arguments[cut:])
        return flower_home.flwr_json(*words, folder=self.folder, environment=self.environment)


def open_link(federation: Federation) -> Link:
    """The SuperLink of a center that is up."""
    home = federation.state / "operator"
    return Link(federation.state, flower_home.environment(home.resolve()))


def run_center(federation: Federation, *, insecure: bool = False, stop: Event, on_ready: Callable[[str], None]) -> None:
    """Keep the center running until ``stop`` is set. ``on_ready`` is told, in words, when hospitals can connect.

    ``insecure`` leaves out TLS, node authentication and nginx, on loopback only.

    Raises:
        ConfigurationError: something of the folder or this machine must be mended first.
        StudyError: another center is at work in this folder.
    """
    settings = federation.settings
    state = federation.state.resolve()
    with alone(state / LOCK, otherwise=f"another consilium-center up is at work in {federation.folder}"), ExitStack() as stack:
        nginx.end_orphans(state / "logs" / "nginx.log")  # of a center that was killed
        _check(federation, settings, insecure=insecure)
        prefix = _prepare_homes(state)
        (state / NGINX).mkdir(exist_ok=True, mode=0o700)
        port = settings.port if insecure else _free_port()
        _write_files(federation, state, settings, port=port, insecure=insecure)
        environment = flower_home.environment(state / "flower")
        household = stack.enter_context(Household(state / "logs", environment, grace_s=GRACE_S))
        services = _services(federation, state, port=port, prefix=prefix, insecure=insecure)
        _Center(federation, household, services, port=port, insecure=insecure).run(stop, on_ready)


class _Center:
    def __init__(
        self, federation: Federation, household: Household, services: Sequence[Service], *, port: int, insecure: bool
    ) -> None:
        self._federation = federation
        self._settings = federation.settings
        self._household = household
        self._supervisor = Supervisor(household, services, folder=federation.state.resolve())
        self._registrar = Registrar(federation, open_link(federation).json)
        self._port = port
        self._insecure = insecure
        self._context = None if insecure else ssl.create_default_context(cafile=str(federation.root_certificate))
        self._restarts = 0
        self._healthy = False
        self._certificate = self._stamp()
        self._next_health = self._next_warning = 0.0

    def run(self, stop: Event, on_ready: Callable[[str], None]) -> None:
        told = False
        try:
            while not stop.is_set():
                if not self._insecure and not self._supervisor.is_running(NGINX):
                    nginx.end_orphans(self._federation.state.resolve() / "logs" / "nginx.log")
                self._supervisor.step()
                self._look()
                if self._healthy and not self._insecure:
                    self._registrar.step()
                if self._healthy and not told and (self._insecure or self._registrar.done_once):
                    told = True
                    on_ready(f"hospitals can connect to {self._settings.hosts[0]}:{self._settings.port}")
                self._follow_certificate()
                self._warn()
                stop.wait(STEP_S)
        finally:
            self._tell("stopped")

    def _look(self) -> None:
        if monotonic() < self._next_health:
            return
        restarts = self._supervisor.restarts[SUPERLINK]
        if restarts != self._restarts:
            self._restarts = restarts
            self._registrar.forget()
        healthy = self._supervisor.is_running(SUPERLINK) and self._is_healthy()
        self._next_health = monotonic() + (HEALTH_S if healthy else STEP_S)
        if healthy != self._healthy:
            log.info("the center is %s", "up" if healthy else "starting")
        self._healthy = healthy
        self._tell("up" if healthy else "starting")

    def _is_healthy(self) -> bool:
        host = ("127.0.0.1", self._port)
        connection = (
            HTTPSConnection(*host, timeout=5.0, context=self._context) if self._context else HTTPConnection(*host, timeout=5.0)
        )
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def _tell(self, status: str) -> None:
        document = {"status": status, "pid": os.getpid(), "port": self._port, "insecure": self._insecure}
        document["restarts"] = self._supervisor.restarts
        partial = self._federation.state / f"{STATUS}.partial"
        partial.write_text(json.dumps(document), encoding="utf-8")
        partial.replace(self._federation.state / STATUS)

    def _stamp(self) -> tuple[int, int]:
        files = self._federation.server_certificate, self._federation.server_key
        return files[0].stat().st_mtime_ns, files[1].stat().st_mtime_ns

    def _follow_certificate(self) -> None:
        """nginx takes up a new certificate while connections go on."""
        if self._insecure or (stamp := self._stamp()) == self._certificate:
            return
        self._certificate = stamp
        self._household.signal(NGINX, signal.SIGHUP)
        log.info("the server certificate was renewed")

    def _warn(self) -> None:
        if monotonic() >= self._next_warning:
            self._next_warning = monotonic() + WARN_EVERY_S
            for warning in self._federation.warnings:
                log.warning("%s", warning)


def _services(federation: Federation, state: Path, *, port: int, prefix: Sequence[str], insecure: bool) -> list[Service]:
    secret = ["--superexec-auth-secret-file", str(state / "secret")]
    root = str(federation.root_certificate.resolve())
    link = ["flower-superlink", "--host", "127.0.0.1", "--port", str(port), "--isolation", "process", *secret]
    link += ["--disable-runtime-dependency-installation", "--database", str(state / DATABASE)]
    executor = [*prefix, "flower-superexec", "--runtime-api-address", f"127.0.0.1:{port}", *secret]
    if insecure:
        return [Service(SUPERLINK, [*link, "--insecure"]), Service(SUPEREXEC, [*executor, "--insecure"])]
    link += ["--enable-supernode-auth", "--ssl-ca-certfile", root]
    link += ["--ssl-certfile", str(state / "internal.crt"), "--ssl-keyfile", str(state / "internal.key")]
    return [
        Service(SUPERLINK, link),
        Service(SUPEREXEC, [*executor, "--root-certificates", root]),
        Service(NGINX, [_nginx() or NGINX, "-e", "stderr", "-p", str(state), "-c", str(state / "nginx.conf")]),
    ]


def _write_files(federation: Federation, state: Path, settings: Settings, *, port: int, insecure: bool) -> None:
    if not (state / "secret").exists():
        write_durably(state / "secret", secrets.token_hex(32).encode(), mode=0o600)
    root = federation.root_certificate.resolve()
    link: dict[str, Any] = {"address": f"127.0.0.1:{port}"}
    link |= {"insecure": True} if insecure else {"root-certificates": str(root)}
    write_durably(state / "operator" / "config.toml", tomli_w.dumps({"superlink": {"default": LINK, LINK: link}}).encode())
    if insecure:
        return
    certificate, key = internal_certificate(federation)
    write_durably(state / "internal.key", key, mode=0o600)
    write_durably(state / "internal.crt", certificate)
    configuration = nginx.configuration(
        bind=settings.bind,
        port=settings.port,
        upstream=f"127.0.0.1:{port}",
        certificate=federation.server_certificate.resolve(),
        key=federation.server_key.resolve(),
        root=root,
        state=state,
    )
    write_durably(state / "nginx.conf", configuration.encode())


def _prepare_homes(state: Path) -> list[str]:
    """Flower's homes: the operator's, and the one in which studies run, whose only app is ours."""
    (state / "operator").mkdir(exist_ok=True, mode=0o700)
    if not (state / "app").exists():
        flower_home.write_app(state / "app")
    flower_home.install_app(state / "flower")
    return flower_home.lock_app(state / "flower")


def _check(federation: Federation, settings: Settings, *, insecure: bool) -> None:
    if insecure:
        if remote := [host for host in settings.hosts if not _is_loopback(host)]:
            remedy = "leave out --insecure; it is for trials with 127.0.0.1 as the only host"
            raise ConfigurationError([Fault("--insecure", "", f"a center at {', '.join(remote)}", "loopback only", remedy)])
        return
    remedy = f"consilium-center rotate {federation.folder}"
    expired = [held for held in federation.validities if held.expired]
    faults = [Fault(str(federation.folder), "", str(held), "a certificate that holds", remedy) for held in expired]
    if _nginx() is None:
        faults.append(
            Fault(
                "nginx",
                "",
                "not found",
                "nginx, which is the center's public door",
                "install it, e.g. apt-get install nginx-light",
            )
        )
    if problem := _cannot_listen(settings):
        faults.append(problem)
    if faults:
        raise ConfigurationError(faults)


def _cannot_listen(settings: Settings) -> Fault | None:
    family = sockets.AF_INET6 if ":" in settings.bind else sockets.AF_INET
    with sockets.socket(family) as probe:
        probe.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.bind, settings.port))
        except PermissionError:
            remedy = "provision --port 8443, or allow it: sysctl net.ipv4.ip_unprivileged_port_start=443"
            return Fault("port", "", f"{settings.port} needs rights that you have not", "a port you may open", remedy)
        except OSError as error:
            remedy = "stop what listens there, or provision another --port or --bind"
            return Fault(
                "port", "", f"{settings.bind}:{settings.port}: {error.strerror}", "a free port of this machine", remedy
            )
    return None


def _nginx() -> str | None:
    return shutil.which(NGINX, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"]))


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (is_address(host) and (host == "::1" or host.startswith("127.")))


def _free_port() -> int:
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_up(federation: Federation) -> None:
    """Make sure that hospitals can be asked.

    Raises:
        StudyError: the center is not running, or not yet.
    """
    from server.registration import is_up

    remedy = f"start it and leave it running: consilium-center up {federation.folder}"
    if not is_up(federation):
        raise StudyError(f"the center is not running; {remedy}")
    try:
        status = json.loads((federation.state / STATUS).read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError):
        status = "starting"
    if status != "up":
        raise StudyError(f"the center is {status}; wait a moment, or look into {federation.state / 'logs'}")

"""``consilium-site join``: Flower's SuperNode, kept running. It reaches out to the center and is reached by nobody.

The SuperNode, and the relay that it starts for each message (``client.warm``), run in a Flower home that nothing can be
written to and that holds one app: the thin one, whose code is this installation's. Flower counts a node whose process was
killed as online for a minute and lets it in again only then; when and how this site was last online is kept on disk, so that
a new start waits for that long, and says so.
"""

import json
import logging
import os
import re
import socket as sockets
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic

from cryptography import x509

from client import warm
from client.checks import Check
from client.connection import PERMANENT, Center, connection_checks
from client.enrolment import Home, accept_kit, root_validity
from client.worker_check import WorkerWatch
from shared_model import flower_home
from shared_model.durable import write_durably
from shared_model.enrolment import Kit
from shared_model.errors import ConfigurationError, Fault
from shared_model.household import Household
from shared_model.locking import alone
from shared_model.supervisor import Service, Supervisor

SUPERNODE, RELAY, WARM = "supernode", "relay", "warm"
LOCK, ONLINE = "join.lock", "online"
REJOIN_S = 65.0  # two missed heartbeats of 30 s, and a little
STEP_S = 0.5
BEAT_S = 5.0
RETRY_S = 15.0
REFUSALS = 4  # of a key that was never accepted, before this gives up; the center may be about to take it over
WARN_EVERY_S = 86_400.0
GRACE_S = 20.0
_CONNECTED = re.compile(r"SuperNode ID: (\d+)")
_REFUSED = "[code: 2004]"  # at its start: a key that is not enrolled, or one that the center counts as online
_ERROR, STUCK_S = "ERROR", 15.0  # its last word, and for how long
# A message whose run was stopped just as it came is ignored, but not its task: all later answers come one message late.
_IGNORED = "Ignoring message "
_RETRYING, _THROUGH = "Connection attempt failed, retrying", "Connection successful"

log = logging.getLogger(__name__)
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Joining:
    """What ``join`` was asked for. ``worker`` is the socket of the site's worker."""

    home: Home
    kit: Kit
    kit_file: Path
    worker: Path
    expect: str | None = None
    ca_bundle: Path | None = None
    insecure: bool = False

    @property
    def center(self) -> Center:
        """Where to connect to."""
        return Center(self.kit.host, self.kit.port, self.home.root_certificate)


def prepare(
    home: Home, kit_file: Path, *, worker: Path, expect: str | None, ca_bundle: Path | None, insecure: bool
) -> tuple[Joining, list[str]]:
    """Check kit, keys and this installation; also returns what was done, in words.

    Raises:
        ConfigurationError: with what must be mended before this site can join.
    """
    kit, done = accept_kit(home, kit_file, expect=expect)
    if insecure and kit.host not in {"127.0.0.1", "localhost", "::1"}:
        remedy = "leave out --insecure; it is for trials on one machine"
        raise ConfigurationError([Fault("--insecure", "", f"a center at {kit.host}", "loopback only", remedy)])
    if ca_bundle is not None:
        add_authorities(home, kit, ca_bundle)
        done.append(f"authorities of {ca_bundle} are trusted besides the center's: who has their keys can read along")
    installed = flower_home.install_app(home.flower)
    if installed != kit.app_sha256:
        found = f"this installation has app {installed[:12]}, the center {kit.app_sha256[:12]}"
        remedy = "install the release of Consilium that the center runs, or ask it for a new kit after it has updated"
        raise ConfigurationError([Fault(str(kit_file), "app_sha256", found, "the same release on both sides", remedy)])
    return Joining(home, kit, kit_file, worker.absolute(), expect, ca_bundle, insecure), done


def join(joining: Joining, *, stop: Event, tell: Tell) -> None:
    """Keep this site connected until ``stop`` is set; ``tell`` is told what changes, in words.

    Raises:
        ConfigurationError: what would never pass by itself keeps this site out from the start: another authority, another
            name, an expired certificate, a clock that is off, a key that the center does not accept.
        StudyError: another ``join`` is at work in this home.
    """
    folder = joining.home.folder.resolve()
    with (
        alone(
            folder / LOCK,
            otherwise=f"another consilium-site join is at work in {folder}: end it first; for another site give another --home",
        ),
        ExitStack() as stack,
    ):
        prefix = flower_home.lock_app(joining.home.flower.resolve())
        environment = flower_home.environment(joining.home.flower.resolve())
        household = stack.enter_context(Household(folder / "logs", environment, grace_s=GRACE_S))
        _Connection(joining, household, prefix, stop, tell).run()


class _Connection:
    def __init__(self, joining: Joining, household: Household, prefix: Sequence[str], stop: Event, tell: Tell) -> None:
        self._joining = joining
        self._household = household
        self._stop = stop
        self._tell = tell
        self._worker = WorkerWatch(joining.worker, site=joining.kit.site, tell=tell)
        self._said = ""
        self._folder = joining.home.folder.resolve()
        path = {"PATH": os.pathsep.join([str(self._folder / WARM), household.environment["PATH"]])}
        supernode = Service(SUPERNODE, [*prefix, *_command(joining)], path, pause_s=self._pause)
        relay = Service(RELAY, [*prefix, sys.executable, "-m", "client.warm", str(self._folder / WARM)])
        self._supervisor = Supervisor(household, [relay, supernode], folder=self._folder)
        self._connected = self._was_connected = False
        self._node: int | None = None
        self._restarts = self._refusals = 0
        self._cut_off = self._ended_here = False
        self._last_said, self._silent_since = "", monotonic()
        self._next_beat = self._next_reach = self._next_warning = 0.0
        self._kit_stamp = joining.kit_file.stat().st_mtime_ns

    def run(self) -> None:
        warm.write_launcher(self._folder / WARM)
        if (wait := still_online_s(self._folder)) > 0:
            self._say(f"this site's last connection ended without a goodbye: the center lets it in again in {wait:.0f} s")
            self._stop.wait(wait)
        while not self._stop.is_set() and not self._reach():
            self._stop.wait(RETRY_S)
        while not self._stop.is_set():
            self._supervisor.step()
            self._look()
            self._warn()
            if self._connected:
                self._worker.look()
            self._follow_kit()
            self._stop.wait(STEP_S)
        if self._supervisor.is_running(SUPERNODE):
            self._goodbye()

    def _goodbye(self) -> None:
        """Ended in an orderly way the SuperNode tells the center, and may come back at once."""
        self._household.end(SUPERNODE)
        if self._household.exit_code(SUPERNODE) == 0:
            (self._folder / ONLINE).unlink(missing_ok=True)

    def _reach(self) -> bool:
        """Whether every step to the center works; says which does not."""
        if self._joining.insecure:
            return True
        checks = list(connection_checks(self._joining.center))
        for check in checks:
            if check.status == "warn":
                problem = check.problems[0]
                self._tell(f"warning: {check.title.lower()}: {check.found}: {problem.what}. {problem.remedy}")
        failed = next((check for check in checks if check.status == "fail"), None)
        if failed is None:
            return True
        if not self._was_connected and (failed.id in PERMANENT or failed.id == "clock"):
            raise ConfigurationError([_fault(failed, self._joining)])
        problem = failed.problems[0]
        self._say(f"waiting for the center: {failed.title.lower()}: {failed.found}: {problem.what}. {problem.remedy}")
        return False

    def _look(self) -> None:
        running = self._supervisor.is_running(SUPERNODE)
        if running and not self._connected and (told := _CONNECTED.search(self._household.output(SUPERNODE))):
            self._node = int(told[1])
            self._connected = self._was_connected = True
            self._say(f"connected to {self._joining.kit.address} as site {self._joining.kit.site}")
        if self._supervisor.restarts[SUPERNODE] != self._restarts:
            self._restarts = self._supervisor.restarts[SUPERNODE]
            self._connected = False
        if running and self._connected and monotonic() >= self._next_beat:
            self._next_beat = monotonic() + BEAT_S
            (self._folder / ONLINE).write_text(json.dumps({"pid": os.getpid()}), encoding="utf-8")
            self._look_at_line()

    def _look_at_line(self) -> None:
        """The SuperNode tries again for ever, and says nothing of why: which step to the center fails, and when it no longer
        does, is told here."""
        output = self._household.output(SUPERNODE)
        if _IGNORED in output:
            self._say(
                "a run was stopped as its request came; the SuperNode, which would answer late from now on, is started again"
            )
            self._end_supernode(heard=True)
            return
        said = "\n".join(output.splitlines()[-5:])
        if said != self._last_said:
            self._last_said, self._silent_since = said, monotonic()
        elif _ERROR in said and monotonic() > self._silent_since + STUCK_S:
            if self._reach():  # if it is the line, that has been said
                self._say("the SuperNode has given up, and does not end by itself; it is started again")
            self._end_supernode(heard=False)
            return
        failing = said.rfind(_RETRYING) > said.rfind(_THROUGH)
        if failing and monotonic() >= self._next_reach:
            self._next_reach = monotonic() + RETRY_S
            self._cut_off = not self._reach() or self._cut_off
        elif self._cut_off and not failing:
            self._cut_off = False
            self._say(f"connected again to {self._joining.kit.address}")

    def _pause(self, code: int) -> float:
        """How long to wait after the SuperNode has ended, and why, which its exit code does not tell: it is 0 after a goodbye
        and when the center refuses the key in the middle (HTTP 401), and 1 when it refuses it at the start, for any reason."""
        if self._ended_here:
            self._ended_here = False
            return 0.0 if code == 0 else REJOIN_S
        if self._connected and code < 0:
            self._say(f"the SuperNode was killed; the center lets it in again in {REJOIN_S:.0f} s")
            return REJOIN_S
        if not self._reach():
            return RETRY_S
        if code == 0 or _REFUSED in self._household.output(SUPERNODE):
            return self._refused(ended_well=code == 0)
        if self._connected:
            self._say(f"the SuperNode has given up; the center lets it in again in {REJOIN_S:.0f} s")
            return REJOIN_S
        return RETRY_S

    def _refused(self, *, ended_well: bool) -> float:
        """The way to the center is free: what stands against the key is found out by asking, as Flower's words are the same."""
        standing = self._standing()
        if standing == "unavailable":
            return RETRY_S
        if standing == "enrolled" and ended_well:
            self._say("the SuperNode was ended by somebody else; it is started again")
            return 0.0
        if standing != "unknown" and (wait := still_online_s(self._folder)) > 0:
            self._say(f"the center still counts this site as online; trying again in {wait:.0f} s")
            return wait
        if standing == "enrolled":
            self._say(f"{_elsewhere(self._joining)}. Trying again in {REJOIN_S:.0f} s")
            return REJOIN_S
        if standing == "unknown":
            (self._folder / ONLINE).unlink(missing_ok=True)  # the center no longer counts the site as anything
        fault = unknown_key(self._joining, elsewhere=standing is None)
        self._refusals += 1
        if not self._was_connected and self._refusals >= REFUSALS:
            raise ConfigurationError([fault])
        wait = REJOIN_S if self._was_connected else RETRY_S
        self._say(f"{fault.found}. {fault.remedy}. Trying again in {wait:.0f} s")
        return wait

    def _standing(self) -> str | None:
        """What ``ask_standing`` finds; nothing for a site that was never let in, as it is its node that is asked for."""
        if self._node is None or self._joining.insecure:
            return None
        from client.fleet import ask_standing

        home = self._joining.home
        return ask_standing(
            self._joining.kit.address, authorities=home.root_certificate, key_file=home.node_key, node=self._node
        )

    def _follow_kit(self) -> None:
        """A new kit in the old one's place, after keys were renewed, is taken up without being told to."""
        joining = self._joining
        try:
            stamp = joining.kit_file.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if stamp == self._kit_stamp:
            return
        self._kit_stamp = stamp
        try:
            kit, done = accept_kit(joining.home, joining.kit_file, expect=joining.expect)
            if joining.ca_bundle is not None:
                add_authorities(joining.home, kit, joining.ca_bundle)
        except ConfigurationError as error:
            self._say(f"the new kit is not used: {error}")
            return
        if (kit.host, kit.port) != (joining.kit.host, joining.kit.port):
            done.append("the center has a new address: start consilium-site join again")
        for line in done:
            self._say(line)
        self._node = None  # a new key is another node
        self._end_supernode(heard=True)

    def _end_supernode(self, *, heard: bool) -> None:
        """Have it started anew: at once if it ended in an orderly way, and else when the center lets it in again. ``heard``:
        the center can hear its goodbye."""
        self._household.end(SUPERNODE)
        self._ended_here = True
        if heard and self._household.exit_code(SUPERNODE) == 0:
            (self._folder / ONLINE).unlink(missing_ok=True)

    def _warn(self) -> None:
        if monotonic() >= self._next_warning:
            self._next_warning = monotonic() + WARN_EVERY_S
            for warning in root_validity(self._joining.home):
                self._tell(f"warning: {warning}")

    def _say(self, text: str) -> None:
        """Tell what has changed, once."""
        if text != self._said:
            self._said = text
            self._tell(text)


def still_online_s(folder: Path) -> float:
    """For how long the center still counts this site as online, after an end without a goodbye."""
    try:
        beat = (folder / ONLINE).stat().st_mtime
    except FileNotFoundError:
        return 0.0
    left = beat + REJOIN_S - time.time()
    return left if 0.0 < left <= REJOIN_S else 0.0


def unknown_key(joining: Joining, *, elsewhere: bool) -> Fault:
    """The center knows no such key; or, ``elsewhere``, counts it as online already, which is told in the same words."""
    found = f"the center does not accept the key of site {joining.kit.site}: it was revoked, or not approved yet"
    remedy = "ask the center; if it has revoked the key: consilium-site enrol --renew, and send the new request"
    if elsewhere:
        found += ", or another consilium-site join is connected with it"
        remedy = f"end a join that runs elsewhere with a copy of {joining.home.folder}; if there is none, {remedy}"
    return Fault(str(joining.kit_file), "", found, "a key that the center has approved", remedy)


def _elsewhere(joining: Joining) -> str:
    """The center counts the site as online, and it is not this process that is."""
    home = joining.home.folder
    return (
        f"the center counts site {joining.kit.site} as online already: does consilium-site join run elsewhere with the keys of "
        f"{home}? End it there"
    )


def _command(joining: Joining) -> list[str]:
    command = ["flower-supernode", "--superlink", joining.kit.address, "--host", "127.0.0.1", "--port", str(_free_port())]
    command += ["--node-config", f'worker="{joining.worker}"']
    if joining.insecure:
        return [*command, "--insecure"]
    command += ["--root-certificates", str(joining.home.root_certificate.resolve())]
    return [*command, "--auth-supernode-private-key", str(joining.home.node_key.resolve())]


def _fault(failed: Check, joining: Joining) -> Fault:
    problem = failed.problems[0]
    where = f"{joining.kit.address}: {failed.title.lower()}"
    return Fault(where, "", f"{failed.found}: {problem.what}", "a connection to the center", problem.remedy)


def add_authorities(home: Home, kit: Kit, bundle: Path) -> None:
    """Trust the authorities of a file besides the center's.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    try:
        more = bundle.read_text(encoding="ascii")
        x509.load_pem_x509_certificates(more.encode())
    except (OSError, ValueError) as error:
        found = f"{bundle}: {(error.strerror if isinstance(error, OSError) else None) or 'no certificate in it'}"
        remedy = (
            "ask your IT office for the certificate of its proxy as a PEM file (-----BEGIN CERTIFICATE-----); check the path"
        )
        raise ConfigurationError([Fault("--ca-bundle", "", found, "certificates in PEM", remedy)]) from None
    write_durably(home.root_certificate, (kit.ca_certificate + more).encode())


def _free_port() -> int:
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

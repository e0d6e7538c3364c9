"""SuperLink's list of keys follows the folder of enrolled hospitals, while the center is up.

Only ``consilium-center up`` talks to SuperLink about keys; ``approve-site`` and ``revoke-site`` change the folder, and this
notices. So both also work while the center is down, and a SuperLink that lost its database is told everything anew.
``state/nodes.json`` holds which node belongs to which hospital: the key tells, not what a node says of itself.
"""

import json
import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from time import monotonic, sleep
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from server.nodes import Node, read_nodes
from server.provisioning import EnrolledSite, Federation, retire_done
from shared_model.crashpoints import crashpoint
from shared_model.durable import write_durably
from shared_model.errors import StudyError
from shared_model.locking import is_held

LOCK = "up.lock"
NODES = "nodes.json"
DATABASE = "superlink.sqlite"
WAIT_S = 30.0
SUCCESSOR_CHECK_S = 30.0

_GONE = "unregistered"  # as Flower calls it

log = logging.getLogger(__name__)
Flwr = Callable[..., Any]


def is_up(federation: Federation) -> bool:
    """Whether ``consilium-center up`` is at work in this folder."""
    return is_held(federation.state / LOCK)


def await_registration(federation: Federation, site: str, *, timeout_s: float = WAIT_S) -> str:
    """Wait until a center that is up has taken over what is known of ``site``; tells what became of it."""
    deadline = monotonic() + timeout_s
    while is_up(federation) and monotonic() < deadline:
        if not _pending(federation.site(site), read_nodes(federation.state / NODES)):
            return "the running center has taken it over"
        sleep(0.2)
    if is_up(federation):
        return f"the running center has not taken it over yet; see {federation.state / 'logs'}"
    return "the center is not running; it takes it over when it is started: consilium-center up"


class Registrar:
    """Brings SuperLink in line with the folder. ``flwr`` runs a command of Flower's and returns its JSON."""

    def __init__(self, federation: Federation, flwr: Flwr) -> None:
        self._federation = federation
        self._flwr = flwr
        self._file = federation.state / NODES
        self._seen: frozenset[tuple[str, int]] = frozenset()
        self._next_check = 0.0
        self.done_once = False  # whether SuperLink has been told everything since this process started

    def forget(self) -> None:
        """SuperLink was started: what it knows must be looked at again."""
        self._seen = frozenset()

    def step(self) -> None:
        """Register and unregister what is due; raises nothing, for the next step tries again."""
        stamp = frozenset((path.name, path.stat().st_mtime_ns) for path in (self._federation.folder / "sites").glob("*.json"))
        try:
            if stamp != self._seen:
                self._reconcile()
                self._seen = stamp
                self.done_once = True
            if monotonic() >= self._next_check:
                self._next_check = monotonic() + SUCCESSOR_CHECK_S
                self._retire()
        except StudyError as error:
            log.warning("registration of hospitals: %s; it is tried again", error)

    def _reconcile(self) -> None:
        nodes = read_nodes(self._file)
        known = {int(row["node-id"]): row["status"] for row in self._flwr("supernode", "list")["nodes"]}
        for site in self._federation.sites().values():
            for key in site.node_keys:
                node = nodes.get(key.sha256)
                there = node is not None and known.get(node.node, _GONE) != _GONE
                if key.status == "revoked":
                    if node is not None and there:
                        self._flwr("supernode", "unregister", str(node.node))
                        log.info("site %s: a key is no longer accepted", site.site)
                    nodes[key.sha256] = Node(node.node if node else 0, site.site, accepted=False)
                elif not there:
                    nodes[key.sha256] = Node(self._register(site, key.key), site.site, accepted=True)
                    crashpoint("center.registered")
                    log.info("site %s: registered as node %d", site.site, nodes[key.sha256].node)
                self._write(nodes)

    def _register(self, site: EnrolledSite, key: str) -> int:
        file = self._federation.state.resolve() / "register.pub"
        file.write_text(key + "\n", encoding="ascii")
        try:
            return int(self._flwr("supernode", "register", str(file), "--name", site.site)["node-id"])
        except StudyError as error:
            if "already in use" not in str(error):
                raise
            return self._find(key)  # registered by a center that was killed before it could note the node

    def _find(self, key: str) -> int:
        pem = load_ssh_public_key(key.encode()).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        with closing(sqlite3.connect(f"file:{self._federation.state / DATABASE}?mode=ro", uri=True)) as database:
            row = database.execute("SELECT node_id FROM node WHERE public_key = ? AND status <> ?", (pem, _GONE)).fetchone()
        if row is None:
            raise StudyError("SuperLink has unregistered this key before, and takes no key twice: the hospital needs a new one")
        return int(row[0]) % 2**64

    def _retire(self) -> None:
        """Revoke keys whose successor has connected."""
        retiring = [
            site
            for site in self._federation.sites().values()
            if site.active is not None and any(key.status == "retiring" for key in site.node_keys)
        ]
        if not retiring:
            return
        nodes = read_nodes(self._file)
        online = {int(row["node-id"]) for row in self._flwr("supernode", "list")["nodes"] if row["status"] == "online"}
        for site in retiring:
            assert site.active is not None
            successor = nodes.get(site.active.sha256)
            if successor is not None and successor.node in online:
                retire_done(self._federation, site.site)
                log.info("site %s: its new key has connected; the old one is no longer accepted", site.site)

    def _write(self, nodes: dict[str, Node]) -> None:
        rows = {key: {"node": str(node.node), "site": node.site, "accepted": node.accepted} for key, node in nodes.items()}
        write_durably(self._file, json.dumps(rows, indent=2).encode())


def _pending(site: EnrolledSite, nodes: dict[str, Node]) -> bool:
    accepted = {key.sha256: key.status != "revoked" for key in site.node_keys}
    return any(key not in nodes or nodes[key].accepted is not wanted for key, wanted in accepted.items())

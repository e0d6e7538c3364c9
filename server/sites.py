"""The roster: which sites are there, asking them, and what became of each question. Flower's Grid is behind it.

One site's trouble is that site's: a question ends with an answer, or with a code that says why there is none, and by the
deadline in any case. Uses the three methods of ``Grid`` and no other, so that every engine of Flower will do.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Protocol

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

from shared_model.crashpoints import crashpoint
from shared_model.errors import FailureCode, MessageError
from shared_model.flower_records import ASK, WHO, pack, pack_payload, unpack, unpack_name
from shared_model.messages import Envelope

POLL_S = 0.5
FIRST_POLL_S = 0.005
PULL_BATCH = 4
DISCOVERY_S = 3.0  # how often new nodes are looked for
WHO_TIMEOUT_S = 60.0  # a node that has not said its name by then is asked again
CLOCK_SKEW_S = 600.0  # Flower drops what is past its time by a hospital's clock; node authentication allows 305 s

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_AWAY = {ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE}

log = logging.getLogger(__name__)


class Grid(Protocol):
    """The part of Flower's ``Grid`` that is used here."""

    def get_node_ids(self) -> Iterable[int]:
        """Nodes that are online."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; identifiers of what was accepted."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have arrived to the messages named. Each is given out once."""


@dataclass(frozen=True)
class Answer:
    """What became of one question: ``envelope`` or, without one, ``code``. ``seconds`` since it was sent."""

    site: str
    envelope: Envelope | None
    code: FailureCode | None
    seconds: float


@dataclass(frozen=True)
class _Sent:
    node: int
    site: str
    at: float


class Roster:
    """Sites by name over ``grid``, which is looked at at least every ``poll_s`` seconds while an answer is awaited.

    ``registered`` tells, as it stands at the time, which node's key is which site's; without it a node is who it says.
    ``warnings`` collects what somebody should look at: two nodes with one name, nodes without a proper one, impostors.
    """

    def __init__(
        self, grid: Grid, *, poll_s: float = POLL_S, registered: Callable[[], Mapping[int, str]] | None = None
    ) -> None:
        self.warnings: list[str] = []
        self._grid = grid
        self._poll_s = poll_s
        self._registered = registered
        self._names: dict[int, str] = {}  # by node, in order of introduction
        self._online: frozenset[int] = frozenset()
        self._introductions: dict[str, _Sent] = {}  # questions who a node is, by message
        self._next_discovery = 0.0

    @property
    def present(self) -> tuple[str, ...]:
        """Names of the sites that are online, as of the last look."""
        return tuple(self._nodes())

    def connect(self, expected: Sequence[str], *, timeout_s: float) -> tuple[str, ...]:
        """Wait until the sites ``expected`` are there, or time is up. Returns those that are, in the order given."""
        deadline = monotonic() + timeout_s
        for _ in self._polls():
            self.refresh()
            if set(expected) <= set(self.present) or monotonic() >= deadline:
                break
        return tuple(site for site in expected if site in self._nodes())

    def refresh(self) -> None:
        """Notice sites that have left or have (re)joined under a new node. Does not wait: a new node is asked who it is,
        and is present once it has said so."""
        if monotonic() >= self._next_discovery:
            self._next_discovery = monotonic() + min(DISCOVERY_S, 2 * self._poll_s)
            self._discover()
        for sent, reply in self._pull(self._introductions):
            self._introduce(sent.node, reply)

    def ask(
        self,
        requests: Mapping[str, Envelope],
        *,
        deadline_s: float,
        give_up: Callable[[str, float], bool] = lambda site, waited_s: False,
    ) -> Iterator[Answer]:
        """Send each site its request and yield each site's answer as it arrives; every site gets exactly one.

        Without an answer ``deadline_s`` after the start, or when ``give_up`` says so of a site and the seconds since it was
        asked, the code is DEADLINE; UNREACHABLE if the site is not there or has left meanwhile. A reply to an earlier
        question is never taken for one to this.
        """
        started = monotonic()
        self.refresh()
        waiting, absent = self._send_all(requests, ttl=deadline_s + CLOCK_SKEW_S)
        crashpoint("sites.asked")
        yield from (Answer(site, None, FailureCode.UNREACHABLE, 0.0) for site in absent)
        for _ in self._polls():
            # Before looking: the caller may have taken its time.
            time_is_up = monotonic() >= started + deadline_s
            late = [message for message, sent in waiting.items() if give_up(sent.site, monotonic() - sent.at)]
            for sent, reply in self._pull(waiting):
                yield _answer(sent, reply)
            for sent in (waiting.pop(message) for message in late if message in waiting):
                yield Answer(sent.site, None, FailureCode.DEADLINE, monotonic() - sent.at)
            if not waiting or time_is_up:
                break
            self.refresh()
        now = monotonic()
        yield from (Answer(sent.site, None, FailureCode.DEADLINE, now - sent.at) for sent in waiting.values())

    def _send_all(self, requests: Mapping[str, Envelope], *, ttl: float) -> tuple[dict[str, _Sent], list[str]]:
        """What was sent, by message, and the sites to which nothing could be sent."""
        nodes = self._nodes()
        packed: dict[bytes, ArrayRecord] = {}
        waiting: dict[str, _Sent] = {}
        absent: list[str] = []
        for site, envelope in requests.items():
            if envelope.payload and envelope.payload not in packed:
                packed[envelope.payload] = pack_payload(envelope.payload)
            content = pack(envelope, payload=packed.get(envelope.payload))
            message = self._send(content, ASK, node=nodes[site], ttl=ttl) if site in nodes else None
            if message is None:
                absent.append(site)
            else:
                waiting[message] = _Sent(nodes[site], site, monotonic())
        return waiting, absent

    def _send(self, content: RecordDict, kind: str, *, node: int, ttl: float) -> str | None:
        accepted = [*self._grid.push_messages([Message(content, node, kind, ttl=ttl)])]
        return accepted[0] if accepted else None

    def _pull(self, waiting: dict[str, _Sent]) -> Iterator[tuple[_Sent, Message]]:
        """Replies that have arrived, taken off ``waiting``. A few at a time, for each may hold a whole model."""
        messages = list(waiting)
        for start in range(0, len(messages), PULL_BATCH):
            for reply in self._grid.pull_messages(messages[start : start + PULL_BATCH]):
                if sent := waiting.pop(reply.metadata.reply_to_message_id, None):
                    yield sent, reply

    def _polls(self) -> Iterator[None]:
        """One element now, then one after each pause; pauses grow up to ``poll_s``."""
        pause = FIRST_POLL_S
        while True:
            yield
            sleep(pause)
            pause = min(1.5 * pause, self._poll_s)

    def _nodes(self) -> dict[str, int]:
        nodes: dict[str, int] = {}
        for node, site in self._names.items():
            if node in self._online:
                nodes.setdefault(site, node)
        return nodes

    def _discover(self) -> None:
        now = monotonic()
        self._online = frozenset(self._grid.get_node_ids())
        self._introductions = {
            message: sent
            for message, sent in self._introductions.items()
            if sent.node in self._online and now < sent.at + WHO_TIMEOUT_S
        }
        asked = {sent.node for sent in self._introductions.values()}
        for node in sorted(self._online - asked - self._names.keys()):
            if message := self._send(RecordDict(), WHO, node=node, ttl=WHO_TIMEOUT_S + CLOCK_SKEW_S):
                self._introductions[message] = _Sent(node, "", now)

    def _introduce(self, node: int, reply: Message) -> None:
        """Learn who ``node`` is. One that cannot tell (its worker is not up yet) is asked again later."""
        if reply.has_error():
            return
        try:
            site = unpack_name(reply.content)
        except MessageError:
            return
        if not _NAME.fullmatch(site):
            self._warn(f"node {node} goes by {site[:80]!r}, which is no name of a site; it is ignored")
            site = f"?{node}"
        elif self._registered is not None and (owner := self._registered().get(node)) != site:
            self._warn(f"node {node} says it is site {site!r}, but its key is that of {owner!r}; it is ignored")
            site = f"?{node}"
        elif site in self._nodes():
            self._warn(f"node {node} says it is site {site!r}, as another one did before; it is ignored while that is online")
        self._names[node] = site

    def _warn(self, text: str) -> None:
        log.warning(text)
        self.warnings.append(text)


def _answer(sent: _Sent, reply: Message) -> Answer:
    seconds = monotonic() - sent.at
    if reply.has_error():
        # Its text may be the site's own, so only the code is looked at. It comes from the SuperLink, or from the node.
        code = FailureCode.UNREACHABLE if reply.error.code in _AWAY else FailureCode.INTERNAL
        return Answer(sent.site, None, code, seconds)
    if reply.metadata.src_node_id != sent.node:
        return Answer(sent.site, None, FailureCode.MALFORMED_REPLY, seconds)
    try:
        return Answer(sent.site, unpack(reply.content), None, seconds)
    except MessageError:
        return Answer(sent.site, None, FailureCode.MALFORMED_REPLY, seconds)

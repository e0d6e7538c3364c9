"""What the center says to the sites of a run, and what it keeps of their answers: failures by name, audit heads, traffic."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from server import admission
from server.journal import Journal
from server.patience import GiveUp, Patience
from server.records import Phase, SiteFailure
from shared_model import messages
from shared_model.audit import Head, does_not_follow
from shared_model.errors import FailureCode, RefusedError
from shared_model.messages import Message, Reply, Request, Task, Vector

if TYPE_CHECKING:
    from server.sites import Answer, Roster

_OF_TRANSPORT = frozenset({FailureCode.DEADLINE, FailureCode.UNREACHABLE})


class Conversation:
    """The run of ``journal`` with the sites of ``roster``. ``absent`` are those that were away when the others described
    themselves; they may join later."""

    def __init__(self, roster: "Roster", journal: Journal) -> None:
        self.roster = roster
        self.journal = journal
        self.absent: set[str] = set()
        self.patience = Patience(journal)

    def ask(
        self,
        phase: Phase,
        requests: Mapping[str, Request],
        vectors: Mapping[str, Vector] | None = None,
        *,
        give_up: GiveUp = lambda site, waited_s: False,
    ) -> Iterator[tuple[str, Message[Reply]]]:
        """Send ``requests`` and yield the replies that are readable, as they arrive; the others are kept as failures."""
        if not requests:
            return
        envelopes = messages.encode_all(requests, vectors or {})
        self.journal.event("asked", phase=phase, sites=sorted(requests))
        self.journal.add_traffic(down=sum(envelope.size for envelope in envelopes.values()))
        for answer in self.roster.ask(envelopes, deadline_s=self.journal.protocol.federation.deadline_s, give_up=give_up):
            task = requests[answer.site].task
            if answer.envelope is None:
                assert answer.code is not None
                self.fail(answer.site, phase, answer.code, self._why(answer), task.round)
                if phase == "train" and answer.code is FailureCode.DEADLINE:
                    self.patience.miss(answer.site)
                continue
            self.journal.add_traffic(up=answer.envelope.size)
            with self.refusing(answer.site, phase, task.round):
                message = admission.admit(answer.envelope, site=answer.site, attempt=task.attempt)
                self._keep_head(answer.site, message.record.head)
                self.journal.add_seconds("site_compute", message.record.seconds)
                if phase == "train":
                    self.patience.learn(answer.site, answer.seconds)
                seconds, waited = message.record.seconds, answer.seconds
                self.journal.event("answered", phase=phase, site=answer.site, seconds=seconds, waited=waited)
                yield answer.site, message

    def task(self, site: str, phase: Phase, round_: int, attempt: int = 1) -> Task:
        """What every request to ``site`` states."""
        return Task(
            run=self.journal.run,
            site=site,
            round=round_,
            attempt=messages.attempt_token(self.journal.run, site, round_, attempt, f"{phase} {self.journal.rewound}"),
            protocol_json=self.journal.protocol.canonical_json,
            seed=self.journal.seed,
            heads=tuple(self.journal.heads().values()),
        )

    @contextmanager
    def refusing(self, site: str, phase: Phase, round_: int = 0) -> Iterator[None]:
        """A ``RefusedError`` within is kept as a failure of ``site``, and the others go on."""
        try:
            yield
        except RefusedError as error:
            self.fail(site, phase, error.code, error.detail, round_)

    def fail(self, site: str, phase: Phase, code: FailureCode, reason: str, round_: int = 0) -> None:
        """Keep that ``site`` did not do its part, and why."""
        if phase == "describe" and code in _OF_TRANSPORT:
            self.absent.add(site)
        self.journal.add_failure(SiteFailure(site=site, phase=phase, round=round_, code=code, reason=reason))
        self.journal.event("failed", phase=phase, site=site, code=code.value, reason=reason)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Tell that the study is in phase ``name`` now, and keep how long it was."""
        started = monotonic()
        self.journal.event("phase", name=name)
        try:
            yield
        finally:
            self.journal.add_seconds(name, monotonic() - started)

    def _why(self, answer: "Answer") -> str:
        if answer.code is FailureCode.DEADLINE:
            return self.patience.reason(answer.site, answer.seconds)
        return "it could not be reached" if answer.code is FailureCode.UNREACHABLE else "the request failed"

    def _keep_head(self, site: str, head: Head | None) -> None:
        """Keep the head of a site's audit log for the other sites to see. One that does not follow is told, and not kept."""
        if head is None:
            return
        if against := does_not_follow(head, known=self.journal.heads().get(site), site=site):
            self.journal.event("warning", text=f"{site}: {against}")
        else:
            self.journal.add_head(head)

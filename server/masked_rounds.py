"""Asking sites for numbers that are summed under masks: keys, upload, confirmation where a site went away, unmasking.

A sum takes two legs: masked numbers up with sealed shares, and shares down again; a third where a site went away between, for
the survivors then confirm one another; and one for keys where a site has none in stock (each reply brings the next ones).
Nothing is unmasked of fewer sites than the threshold, the quorum or three. Before the first share is asked for, all that is
needed to go on is on the disk: sites unmask a round for one set of survivors only, so that after a crash it must be that one.
"""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from server.conversation import Conversation
from server.records import Phase
from server.secure_sum import MaskedSum
from shared_model import masking, secure_layout
from shared_model.durable import write_durably
from shared_model.errors import ConfigurationError, FailureCode, Fault, RefusedError, StudyError
from shared_model.masking import Words
from shared_model.messages import (
    ConfirmReply,
    ConfirmRequest,
    EvaluateReply,
    EvaluateRequest,
    KeysReply,
    KeysRequest,
    Message,
    Reply,
    Request,
    Task,
    TrainReply,
    TrainRequest,
    UnmaskReply,
    UnmaskRequest,
    Vector,
)
from shared_model.secure_records import Advertisement, MaskedShares, MaskingSession, is_signed

FILE = "secure-sum.safetensors"
HELP_ROUNDS = 3  # how often sites that did not confirm or release are asked again
R = TypeVar("R", TrainReply, EvaluateReply)
_REPLIES: TypeAdapter[dict[str, TrainReply | EvaluateReply]] = TypeAdapter(dict[str, TrainReply | EvaluateReply])
_SUM: TypeAdapter[tuple[MaskingSession, str, dict[str, MaskedShares], dict[str, str]]] = TypeAdapter(
    tuple[MaskingSession, str, dict[str, MaskedShares], dict[str, str]]
)


@dataclass(frozen=True)
class Opened(Generic[R]):
    """The sum of some sites' numbers, and what each of them said in the clear. ``sites`` is the length of the roster."""

    words: Words
    replies: Mapping[str, R]
    sites: int

    @property
    def trust(self) -> dict[str, str]:
        """Where each site knows the identities of the others from."""
        return {site: reply.masks.trust for site, reply in self.replies.items() if reply.masks is not None}


@dataclass(frozen=True)
class Question(Generic[R]):
    """What is to be summed: ``request`` makes a site's request, ``admit`` checks what its reply says in the clear, ``length``
    is the number of words that each of so many sites sends."""

    phase: Phase
    round: int
    request: Callable[[str, Task, MaskingSession], TrainRequest | EvaluateRequest]
    admit: Callable[[str, Message[Reply]], R]
    length: Callable[[int], int]
    vectors: Mapping[str, Vector]


class MaskedRounds:
    """Secure sums of a run, asked for in the conversation with its ``sites``."""

    def __init__(self, sites: Conversation) -> None:
        self._sites = sites
        self._journal = sites.journal
        self._file = sites.journal.directory / FILE
        self._keys: dict[str, Advertisement] = {}

    def learn(self, site: str, keys: Advertisement | None) -> None:
        """Keep the keys that ``site`` advertised for its next sum."""
        if keys is not None and keys.site == site and is_signed(keys.signed, keys.signature, by=keys.identity):
            self._keys[site] = keys

    def sum(self, question: Question[R], sites: Sequence[str], *, attempt: int, quorum: int) -> Opened[R] | None:
        """Ask ``sites`` and return what their sum is; None if fewer than ``quorum`` or than a secure sum needs took part, and
        then nothing was unmasked.

        Raises:
            StudyError: it cannot be unmasked now, but could be later, with the same sites.
        """
        resumed = self._resume(question)
        if resumed is None:
            session = self._gather(question, sites, attempt=attempt, fewest=max(masking.MINIMUM_SITES, quorum))
            if session is None:
                return None
            masked, replies = self._collect(question, session)
            if len(masked.survivors) < max(masked.needed, masking.MINIMUM_SITES, quorum):
                self._tell(question, "too few sites for a secure sum", masked.survivors)
                return None
            if not masked.complete and not self._confirmed(question, masked):
                self._tell(question, "survivors not confirmed", masked.survivors)
                return None
            self._keep(question, masked, replies)
        else:
            masked, replies = resumed
        self._unmask(question, masked)
        words = masked.open()
        for site in sorted(masked.wrong):
            with self._sites.refusing(site, question.phase, question.round):
                raise RefusedError(FailureCode.MALFORMED_REPLY, "shares that do not belong to the seeds of the others")
        self._journal.event("summed under masks", phase=question.phase, round=question.round, sites=list(masked.survivors))
        return Opened(words, replies, len(masked.session.roster))

    def forget(self) -> None:
        """What was summed is committed: the masked sum is not needed any more."""
        self._file.unlink(missing_ok=True)

    # The legs

    def _gather(self, question: Question[R], sites: Sequence[str], *, attempt: int, fewest: int) -> MaskingSession | None:
        """A session of those sites that have keys in stock or advertise some now."""
        requests = {site: KeysRequest(self._step(site, question)) for site in sites if site not in self._keys}
        for site, message in self._sites.ask(question.phase, requests):
            with self._sites.refusing(site, question.phase, question.round):
                if not isinstance(message.record, KeysReply):
                    raise RefusedError(FailureCode.MALFORMED_REPLY, f"a {message.record.kind} where keys were asked for")
                self.learn(site, message.record.keys)
        ready = sorted(site for site in sites if site in self._keys)[: masking.MAXIMUM_SITES]
        if len(ready) < fewest:
            self._tell(question, "too few sites for a secure sum", ready)
            return None
        return MaskingSession(attempt, tuple(self._keys.pop(site) for site in ready))

    def _collect(self, question: Question[R], session: MaskingSession) -> tuple[MaskedSum, dict[str, R]]:
        requests = {site: question.request(site, self._step(site, question), session) for site in session.sites}
        digest = secure_layout.request_digest(requests[session.sites[0]], question.vectors)
        masked = MaskedSum(session, digest, question.length(len(session.roster)))
        replies: dict[str, R] = {}
        for site, message in self._sites.ask(question.phase, requests, question.vectors):
            with self._sites.refusing(site, question.phase, question.round):
                record = question.admit(site, message)
                masked.add(site, message.masked, record.masks)
                replies[site] = record
                assert record.masks is not None
                self.learn(site, record.masks.following)
        return masked, replies

    def _confirmed(self, question: Question[R], masked: MaskedSum) -> bool:
        def request(site: str) -> Request:
            return ConfirmRequest(self._step(site, question), masked.digest, masked.survivors)

        def take(site: str, record: Reply) -> None:
            if not isinstance(record, ConfirmReply):
                raise RefusedError(FailureCode.MALFORMED_REPLY, f"a {record.kind} where a signature was asked for")
            masked.confirm(site, record.signature)

        self._help(question, masked, request, take, lambda: masked.confirmations)
        return len(masked.confirmations) >= masked.needed

    def _unmask(self, question: Question[R], masked: MaskedSum) -> None:
        def request(site: str) -> Request:
            task, letters = self._step(site, question), masked.letters_to(site)
            return UnmaskRequest(task, masked.digest, masked.survivors, letters, masked.confirmations)

        def take(site: str, record: Reply) -> None:
            if not isinstance(record, UnmaskReply):
                raise RefusedError(FailureCode.MALFORMED_REPLY, f"a {record.kind} where shares were asked for")
            masked.release(site, record.shares)

        self._help(question, masked, request, take, lambda: masked.released)
        if len(masked.released) < masked.needed:
            raise StudyError(
                f"only {len(masked.released)} of {len(masked.survivors)} sites helped to unmask their sum in {question.phase} "
                f"{question.round}, {masked.needed} are needed. Bring back {', '.join(masked.survivors)} and give the same "
                "command again: it goes on from here."
            )

    def _help(
        self,
        question: Question[R],
        masked: MaskedSum,
        request: Callable[[str], Request],
        take: Callable[[str, Reply], None],
        done: Callable[[], Mapping[str, object]],
    ) -> None:
        """Ask the survivors, those that do not answer a few times, until enough of them have."""
        for _ in range(HELP_ROUNDS):
            requests = {site: request(site) for site in masked.survivors if site not in done()}
            for site, message in self._sites.ask(question.phase, requests):
                with self._sites.refusing(site, question.phase, question.round):
                    take(site, message.record)
            if len(done()) >= masked.needed:
                return

    def _step(self, site: str, question: Question[R]) -> Task:
        """A task with a mark of its own: no step of a secure sum is ever repeated with what another one brought."""
        return replace(self._sites.task(site, question.phase, question.round), attempt=secrets.token_hex(16))

    def _tell(self, question: Question[R], what: str, sites: Sequence[str]) -> None:
        self._journal.event(what, phase=question.phase, round=question.round, sites=list(sites))

    # What must survive a crash between the first share and the commit

    def _keep(self, question: Question[R], masked: MaskedSum, replies: Mapping[str, R]) -> None:
        state = _SUM.dump_json((masked.session, masked.digest, masked.masks, masked.confirmations)).decode()
        said = _REPLIES.dump_json(dict(replies)).decode()
        metadata = {"sum": state, "replies": said, "step": _name(question), "run": self._journal.run}
        write_durably(self._file, save({"total": masked.total}, metadata=metadata))

    def _resume(self, question: Question[R]) -> tuple[MaskedSum, dict[str, R]] | None:
        """The masked sum on the disk, if it is of this step and sound."""
        try:
            with safe_open(self._file, framework="numpy") as file:
                metadata = file.metadata() or {}
                total: Words = file.get_tensor("total")
        except (OSError, SafetensorError):
            return None
        if metadata.get("step") != _name(question) or metadata.get("run") != self._journal.run:
            return None
        session, digest, masks, confirmations = _SUM.validate_json(metadata["sum"])
        masked = MaskedSum(session, digest, total.size, masks=masks, confirmations=confirmations)
        masked.total = total
        replies: dict[str, R] = _REPLIES.validate_json(metadata["replies"])  # type: ignore[assignment]
        self._journal.event("unmasking resumed", phase=question.phase, round=question.round, sites=list(masked.survivors))
        return masked, replies


def require_enough(sites: int) -> None:
    """Make sure that a study with secure sums has ``sites`` enough to train.

    Raises:
        ConfigurationError: it has not, or too many.
    """
    fewest, most = masking.MINIMUM_SITES, masking.MAXIMUM_SITES
    if not fewest <= sites <= most:
        found = f"true, in a study that {sites} site(s) train"
        expected = f"{fewest} to {most} sites: of two, each could subtract its own part of the sum"
        remedy = "enrol more sites, or remove privacy.secure_sum"
        raise ConfigurationError([Fault("study protocol", "privacy.secure_sum", found, expected, remedy)])


def _name(question: Question[R]) -> str:
    return json.dumps([question.phase, question.round])

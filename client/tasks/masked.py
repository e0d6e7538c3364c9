"""A site's answers in secure sums: its numbers under masks, and what takes off the masks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Self

import numpy as np

from client.cohort.tables import locate
from client.governance import disclosure
from client.governance.identity import Acquaintances, Identity, read_roster
from client.governance.secure_sum import SecureSums
from client.site_config import Identity as NamedFiles
from client.site_config import Policy
from client.state import lasting
from client.tasks.evaluate import Parts
from client.tasks.train import Trained
from shared_model import secure_layout
from shared_model.errors import FailureCode, RefusedError
from shared_model.masking import Words
from shared_model.messages import (
    AnyRecord,
    CompareRequest,
    ConfirmReply,
    ConfirmRequest,
    EvaluateReply,
    EvaluateRequest,
    KeysReply,
    KeysRequest,
    Message,
    PatientRequest,
    SecureSumRequest,
    TrainReply,
    TrainRequest,
    UnmaskReply,
    Vector,
)
from shared_model.protocol import StudyProtocol
from shared_model.secure_layout import Numbers
from shared_model.secure_records import MaskedShares
from shared_model.summaries import Performance

NEARLY = 1.0 - 1e-6  # clipping to the limit in float32 must not end above it


@dataclass(frozen=True)
class IdentityFiles:
    """Where a site's private key and its roster of other sites are; None where it has none of its own."""

    key: Path | None = None
    roster: Path | None = None

    @classmethod
    def beside(cls, config: Path, named: NamedFiles) -> Self:
        """The files that the site's configuration ``config`` names, both readable.

        Raises:
            ConfigurationError: with what is wrong.
        """
        files = cls(_place(config, named.key, "identity.key"), _place(config, named.roster, "identity.roster"))
        if files.key is not None:
            Identity.at(files.key)
        if files.roster is not None:
            read_roster(files.roster)
        return files


NO_FILES = IdentityFiles()


class MaskedReplies:
    """What the site ``name`` says in secure sums. ``state`` is the folder for what it remembers."""

    def __init__(self, name: str, *, policy: Policy, files: IdentityFiles, state: Path) -> None:
        self._name = name
        self._policy = policy
        self._files = files
        self._state = state

    def require(self, request: PatientRequest, protocol: StudyProtocol) -> None:
        """Before anything is computed: what is to be summed under masks is not asked for without, or the other way round,
        and the sites to be summed with will do.

        Raises:
            RefusedError: ``PROTOCOL_MISMATCH``, ``TASK_NOT_ALLOWED`` or ``SECURE_SUM_REFUSED``.
        """
        if isinstance(request, CompareRequest) and (protocol.privacy.secure_sum or self._policy.secure_sum_required):
            raise RefusedError(FailureCode.TASK_NOT_ALLOWED, "a comparison is of one site, and so cannot be summed under masks")
        if not isinstance(request, TrainRequest | EvaluateRequest):
            return
        if protocol.privacy.secure_sum != (request.masking is not None):
            raise RefusedError(FailureCode.PROTOCOL_MISMATCH, "masked where the protocol is not, or the other way round")
        if self._policy.secure_sum_required and not protocol.privacy.secure_sum:
            raise RefusedError(FailureCode.TASK_NOT_ALLOWED, "this site's policy asks for secure sums, the protocol does not")
        if request.masking is not None:
            self.sums(request.task.run).admit(request.masking)

    def sums(self, run: str) -> SecureSums:
        """The secure sums of a run.

        Raises:
            ConfigurationError: the site's key or roster cannot be read.
        """
        own = self._state / "identity"
        key = self._files.key
        return SecureSums(
            site=self._name,
            run=run,
            folder=self._state / run / self._name / "secure_sum",
            lasting=lasting(self._state, self._name),
            identity=Identity.at(own / self._name, create=True) if key is None else Identity.at(key),
            acquaintances=Acquaintances(listed=self._files.roster, met=own / f"{self._name}.met.json"),
            minimum_sites=self._policy.minimum_summed_sites,
        )

    def assist(self, request: SecureSumRequest, started: float) -> Message[AnyRecord]:
        """Advertise keys, confirm survivors, or release shares; ``started`` is when the request came.

        Raises:
            RefusedError: ``SECURE_SUM_REFUSED`` where that could lay a single site open.
        """
        task, sums = request.task, self.sums(request.task.run)
        if isinstance(request, KeysRequest):
            keys = sums.advertise()
            return Message(KeysReply(self._name, task.attempt, keys, perf_counter() - started))
        if isinstance(request, ConfirmRequest):
            signature = sums.confirm(request.session, request.survivors)
            return Message(ConfirmReply(self._name, task.attempt, signature, perf_counter() - started))
        released = sums.release(request.session, request.survivors, sealed=request.sealed, confirmations=request.confirmations)
        return Message(UnmaskReply(self._name, task.attempt, released, perf_counter() - started))

    def training(self, trained: Trained, request: TrainRequest, asked: "Asked") -> Message[AnyRecord]:
        """A round's reply with everything that adds up under masks; disclosure control takes it out of ``tune``. The update
        is shortened to the protocol's limit, for the center cannot see how long it is. What the site would not tell alone is
        not summed either: if the others tell theirs, it would follow by subtraction.

        Raises:
            RefusedError: as ``SecureSums.mask``, or a number that cannot be summed.
        """
        assert request.masking is not None
        federation, size = asked.protocol.federation, trained.vectors["update"].size
        layout = secure_layout.training_layout(asked.protocol, size=size, sites=len(request.masking.roster))
        values = secure_layout.performance_values("tune", self._told(trained.tune), asked.protocol.evaluation)
        values |= secure_layout.training_values(trained.patients, trained.local.loss)
        update = _shortened(trained.vectors["update"], limit=federation.max_update_norm)
        words = layout.pack({**values, **trained.vectors, "update": update}, weight=trained.patients)
        masks = self._mask(words, request, asked)
        reply = TrainReply(
            site=self._name,
            attempt=request.task.attempt,
            patients=trained.patients,
            steps=trained.local.steps,
            loss=None,
            tune=trained.tune,
            seconds=perf_counter() - asked.started,
            masks=masks,
        )
        return Message(reply, masked=words)

    def evaluation(self, common: Parts, personal: Parts, request: EvaluateRequest, asked: "Asked") -> Message[AnyRecord]:
        """An evaluation's reply with everything that adds up under masks; disclosure control takes out the histograms.

        Raises:
            RefusedError: as ``SecureSums.mask``, or a number that cannot be summed.
        """
        assert request.masking is not None
        layout = secure_layout.evaluation_layout(asked.protocol, request.parts, sites=len(request.masking.roster))
        values: dict[str, Numbers] = {}
        for part in request.parts:
            values |= secure_layout.performance_values(part, self._told(common.get(part)), asked.protocol.evaluation)
            values |= secure_layout.performance_values(
                f"personal.{part}", self._told(personal.get(part)), asked.protocol.evaluation
            )
        words = layout.pack(values)
        masks = self._mask(words, request, asked)
        reply = EvaluateReply(
            site=self._name,
            attempt=request.task.attempt,
            parts=common,
            personal=personal,
            seconds=perf_counter() - asked.started,
            masks=masks,
        )
        return Message(reply, masked=words)

    def _told(self, performance: Performance | None) -> Performance | None:
        return None if performance is None or disclosure.why_not(performance, self._policy.rule) else performance

    def _mask(self, words: Words, request: TrainRequest | EvaluateRequest, asked: "Asked") -> MaskedShares:
        assert request.masking is not None
        digest = secure_layout.request_digest(request, asked.vectors)
        step = f"{request.kind}/{request.task.round}"
        subject = secure_layout.subject(request, asked.vectors)
        return self.sums(request.task.run).mask(words, session=request.masking, digest=digest, step=step, subject=subject)


@dataclass(frozen=True)
class Asked:
    """What came with a request: its protocol, vectors, and when it came."""

    protocol: StudyProtocol
    vectors: Mapping[str, Vector]
    started: float


def _place(config: Path, text: str | None, key: str) -> Path | None:
    return None if text is None else locate(text, base=config.parent, where=str(config), key=key)


def _shortened(update: Vector, *, limit: float) -> Vector:
    norm = float(np.linalg.norm(update.astype(np.float64)))
    return update if not norm > limit * NEARLY else (update * np.float32(limit * NEARLY / norm)).astype(np.float32)

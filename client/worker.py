"""The site's resident worker: it owns cohort, network and GPU, and answers requests, whoever carries them.

It is the security boundary of a site: whatever the bytes of a request are, the answer is one of the typed records of
``shared_model.messages``; an error becomes a neutral code. The site's own log tells where to look, without a text that may
quote a patient's file.
"""

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from client.cohort import StudyPatients, designed, load_cohort, pool
from client.cohort.pseudonyms import unkeyed
from client.explaining.budget import charge_explanation
from client.governance import disclosure
from client.governance.approval import Approvals
from client.governance.audit import AuditLog
from client.governance.budget import Ledger
from client.governance.exchanges import Exchanges
from client.governance.outbox import Outbox
from client.governance.policy import Gate, asked
from client.governance.witness import Witness
from client.readiness import places
from client.site_config import Policy, read_site
from client.state import SiteState, lasting
from client.tasks import describe
from client.tasks.compare import compare
from client.tasks.evaluate import evaluate
from client.tasks.explain import explain, looks_at_pictures, with_outlines
from client.tasks.masked import NO_FILES, Asked, IdentityFiles, MaskedReplies
from client.tasks.private_round import PrivateRound, train_within_budget, with_privacy
from client.tasks.train import train
from client.tasks.workbench import Workbench
from shared_model import messages
from shared_model.crashpoints import crashpoint
from shared_model.errors import CohortError, ConfigurationError, FailureCode, MessageError, RefusedError
from shared_model.messages import (
    AnyRecord,
    CompareReply,
    CompareRequest,
    DescribeReply,
    DescribeRequest,
    Envelope,
    EvaluateReply,
    EvaluateRequest,
    ExplainReply,
    ExplainRequest,
    Failure,
    Message,
    PatientRequest,
    Request,
    SecureSumRequest,
    Task,
    TrainReply,
    TrainRequest,
    Vector,
)
from shared_model.protocol import StudyProtocol

log = logging.getLogger(__name__)


class Worker:
    """Answers requests to one site. ``load`` gives its patients as a protocol sees them, ``state`` is the folder for what
    the site remembers of each run, and for its ``approvals`` unless they are kept elsewhere."""

    def __init__(
        self,
        name: str,
        *,
        policy: Policy,
        load: Callable[[StudyProtocol], StudyPatients],
        state: Path,
        approvals: Approvals | None = None,
        identity: IdentityFiles = NO_FILES,
    ) -> None:
        self.name = name
        self.policy = policy
        self._load = load
        self._state = state
        folder = lasting(state, name)
        self._approvals = approvals or Approvals(folder)
        self._witness = Witness(AuditLog(folder, site=name))
        self._gate = Gate(name, policy, approvals=self._approvals, exchanges=Exchanges(folder))
        self._masked = MaskedReplies(name, policy=policy, files=identity, state=state)
        self._cohorts: dict[str, StudyPatients] = {}
        self._benches: dict[tuple[str, int], Workbench] = {}

    def approve(self, protocol: StudyProtocol, *, by: str) -> None:
        """Approve ``protocol`` without asking anybody, recorded as such: for sites that are simulated here. No request
        reaches this; at a hospital a person approves."""
        if self._approvals.standing(protocol.sha256) is None:
            approval = self._approvals.approve(protocol, policy=self.policy, by=by, automatic=True)
            self._witness.audit.append(("approval", approval.for_audit))

    def handle(self, envelope: Envelope) -> Envelope:
        """Answer a request. Never raises: what goes wrong becomes a ``Failure`` with a neutral code."""
        started = perf_counter()
        request: Request | None = None
        try:
            try:
                message = messages.decode(envelope)
                request = asked(message.record)
            finally:
                self._witness.received(envelope, request)
            crashpoint("worker.received")
            protocol = self._gate.admit(request, envelope)
            crashpoint("worker.admitted")
            if isinstance(request, SecureSumRequest):
                answer = self._masked.assist(request, started)
            else:
                self._masked.require(request, protocol)
                self._gate.admit_cohort(self.cohort(protocol), protocol)
                bench = self.bench(protocol, seed=request.task.seed)
                answer = self._carry_out(request, message.vectors, bench, started)
            crashpoint("worker.computed")
            released = disclosure.release(answer, rule=self.policy.rule, secure_sum=protocol.privacy.secure_sum)
            sealed = self._witness.sealed(released, request)
            crashpoint("worker.sealed")
            return sealed
        except RefusedError as error:
            code, cause = error.code, error.detail
        except MessageError as error:
            code, cause = FailureCode.PROTOCOL_MISMATCH, str(error)
        except (CohortError, ConfigurationError) as error:
            code, cause = FailureCode.COHORT_UNUSABLE, f"{places(error)} tells what"
        except (MemoryError, torch.OutOfMemoryError) as error:
            code, cause = FailureCode.OUT_OF_MEMORY, type(error).__name__
        except Exception as error:
            code = FailureCode.OUT_OF_MEMORY if _found_no_memory(error) else FailureCode.INTERNAL
            cause = _trace(error)
        log.warning("site %s: %s: %s", self.name, code.value, cause)
        attempt = request.task.attempt if request else ""
        return self._refusal(Failure(self.name, attempt, code, seconds=perf_counter() - started), request)

    def _refusal(self, failure: Failure, request: Request | None) -> Envelope:
        try:
            return self._witness.sealed(Message(failure), request)
        except Exception as error:
            # The log cannot be written (a full disk): nothing leaves but a code, which tells of no patient.
            log.error("site %s: the audit log cannot be written: %s", self.name, _trace(error))
            return messages.encode(Message(replace(failure, code=FailureCode.INTERNAL)))

    def cohort(self, protocol: StudyProtocol) -> StudyPatients:
        """This site's patients as ``protocol`` sees them, kept in memory after the first call.

        Raises:
                CohortError, ConfigurationError: the site's files do not fit its configuration, or that the protocol.
        """
        # Only these parts of a protocol decide what is loaded; a protocol that trains otherwise needs no loading anew.
        key = repr((*_read(protocol), protocol.evaluation.external, protocol.evaluation.fold))
        if key not in self._cohorts:
            self._cohorts = {key: self._load(protocol)}
        return self._cohorts[key]

    def bench(self, protocol: StudyProtocol, *, seed: int) -> Workbench:
        """Cohort and network of ``protocol``, kept in memory after the first call."""
        key = (protocol.sha256, seed)
        if key not in self._benches:
            bench = Workbench.set_up(self.name, protocol, self.cohort(protocol), seed=seed)
            self._benches = {key: bench}
        return self._benches[key]

    def _carry_out(
        self, request: PatientRequest, vectors: Mapping[str, Vector], bench: Workbench, started: float
    ) -> Message[AnyRecord]:
        """What ``request`` asks, done; the reply as it is before disclosure control."""
        task = request.task
        state = SiteState(self._of_run(task.run))
        match request:
            case DescribeRequest():
                return Message(self._describe(bench, task, started))
            case TrainRequest():
                return self._train(bench, request, vectors, state=state, started=started)
            case EvaluateRequest():
                common, personal = evaluate(bench, request, vectors, state=state, minimum_cell=self.policy.minimum_cell)
                if request.masking is not None:
                    return self._masked.evaluation(common, personal, request, Asked(bench.protocol, vectors, started))
                seconds = perf_counter() - started
                return Message(EvaluateReply(self.name, task.attempt, parts=common, personal=personal, seconds=seconds))
            case CompareRequest():
                found = compare(self.cohort(bench.protocol), request, bench.protocol, directory=self._of_run)
                return Message(CompareReply(self.name, task.attempt, **vars(found), seconds=perf_counter() - started))
            case ExplainRequest():
                outlines = None if request.brief else self._outlines(bench)
                summary = explain(bench, request, vectors, state=state, outlines=outlines)
                private = bench.protocol.explanation is not None and bench.protocol.explanation.epsilon is not None
                if private:
                    patients = self.cohort(bench.protocol).members
                    charge_explanation(
                        summary, bench.protocol, ledger=self._ledger(), run=task.run, model=task.round, patients=patients
                    )
                seconds = perf_counter() - started
                return Message(ExplainReply(self.name, task.attempt, summary, seconds=seconds, private=private))

    def _outlines(self, bench: Workbench) -> Tensor | None:
        """Lesions in the stored pictures, uint8 ``[M, H, W]``, as the site's masks and boxes say; None if there are none.

        They are read for explanations only, for which no network need see them.
        """
        images = bench.protocol.images
        if images is None or not looks_at_pictures(bench):
            return None
        if images.lesion_mask:
            return bench.tensors.images[:, 1]
        read = self._load(with_outlines(bench.protocol)).tensors
        if not torch.equal(read.slots, bench.tensors.slots.cpu()):
            return None  # a mask that cannot be read makes a picture unusable
        return read.images[:, 1] if read.images[:, 1].any() else None

    def _train(
        self, bench: Workbench, request: TrainRequest, vectors: Mapping[str, Vector], *, state: SiteState, started: float
    ) -> Message[AnyRecord]:
        self._gate.admit_training(len(bench.parts["train"]), bench.protocol)
        private: PrivateRound | None = None
        if bench.protocol.privacy.dp is not None:
            private = self._train_privately(bench, request, vectors, state=state, started=started)
        elif self.policy.dp_required:
            raise RefusedError(FailureCode.TASK_NOT_ALLOWED, "training without differential privacy")
        trained = private.trained if private else train(bench, request, vectors, state=state)
        if request.masking is not None:
            answer = self._masked.training(trained, request, Asked(bench.protocol, vectors, started))
        else:
            reply = TrainReply(
                site=self.name,
                attempt=request.task.attempt,
                patients=trained.patients,
                steps=trained.local.steps,
                loss=trained.local.loss,
                tune=trained.tune,
                seconds=perf_counter() - started,
            )
            answer = Message(reply, trained.vectors)
        return with_privacy(answer, private) if private else answer

    def _train_privately(
        self, bench: Workbench, request: TrainRequest, vectors: Mapping[str, Vector], *, state: SiteState, started: float
    ) -> PrivateRound:
        return train_within_budget(
            bench,
            request,
            vectors,
            state=state,
            ledger=self._ledger(),
            outbox=Outbox(self._of_run(request.task.run) / "outbox"),
            patients=self.cohort(bench.protocol).members,
            started=started,
        )

    def _ledger(self) -> Ledger:
        return Ledger(lasting(self._state, self.name), policy=self.policy)

    def _of_run(self, run: str) -> Path:
        return self._state / run / self.name

    def _describe(self, bench: Workbench, task: Task, started: float) -> DescribeReply:
        protocol, of = bench.protocol, describe.described_part(bench.protocol)
        moments, categories = describe.moments_and_counts(bench.tensors, bench.parts[of], protocol)
        reply = DescribeReply(
            site=self.name,
            attempt=task.attempt,
            flow=bench.flow,
            parts=describe.part_counts(bench.tensors, bench.parts),
            moments=moments,
            categories=categories,
            missing=describe.missing_counts(bench.tensors, protocol),
            modalities=describe.modality_counts(bench.tensors, protocol),
            seconds=perf_counter() - started,
            keys=self._masked.sums(task.run).advertise() if protocol.privacy.secure_sum else None,
            of=of,
        )
        return describe.protecting_training_patients(reply) if protocol.privacy.dp else reply


def _trace(error: Exception) -> str:
    """Where in the code it went wrong, without the message: that may quote what a patient's file holds."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"


def _found_no_memory(error: Exception) -> bool:
    """Whether torch could not allocate on the CPU, for which it has no exception of its own."""
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _read(protocol: StudyProtocol) -> tuple[object, ...]:
    """The parts of a protocol that decide what is read of a site's files."""
    return protocol.variables, protocol.images, protocol.comparators


def open_site(config_path: Path, *, state: Path, threads: int | None = None) -> Worker:
    """The worker of the site that ``config_path`` describes; ``threads`` limits the CPU threads of this process.

    Raises:
        ConfigurationError: with every fault of the file.
    """
    config = read_site(config_path)
    if threads is not None:
        torch.set_num_threads(threads)

    kept: dict[str, StudyPatients] = {}

    def load(protocol: StudyProtocol) -> StudyPatients:
        # Another fold, or another site left out, is another cut of the patients that were read already.
        key = repr(_read(protocol))
        if key not in kept:
            cohort = load_cohort(config, protocol, where=config_path)
            kept.clear()
            members = frozenset(map(unkeyed, cohort.patients))
            kept[key] = StudyPatients(cohort.tensors, cohort.parts, cohort.flow, cohort.order, cohort.ratings, members)
        return designed(kept[key], protocol, site=config.site.name)

    return Worker(
        config.site.name,
        policy=config.policy,
        load=load,
        state=state,
        identity=IdentityFiles.beside(config_path, config.identity),
    )


def pooled_worker(workers: Sequence[Worker], *, name: str, state: Path) -> Worker:
    """A worker that holds the patients of several sites, for central training in simulation."""
    return Worker(
        name,
        policy=Policy(),
        load=lambda protocol: pool([worker.cohort(protocol) for worker in workers]),
        state=state,
    )

"""May this be asked of this site? What the hospital allows wins over whatever the center sends."""

from collections.abc import Collection

from client.cohort import StudyPatients
from client.governance.approval import Approval, Approvals
from client.governance.exchanges import Exchanges
from client.site_config import Policy, TaskName
from client.training.loop import steps_per_round
from shared_model import config_file
from shared_model.errors import ConfigurationError, FailureCode, RefusedError
from shared_model.messages import AnyRecord, Envelope, EvaluateRequest, Request, SecureSumRequest, Task
from shared_model.protocol import StudyProtocol


def asked(record: AnyRecord) -> Request:
    """``record`` as the request that a site may answer.

    Raises:
        RefusedError: it is none.
    """
    if not isinstance(record, Request):
        raise RefusedError(FailureCode.PROTOCOL_MISMATCH, f"{record.kind} is no request")
    return record


def covered(request: Request, tasks: Collection[TaskName]) -> bool:
    """Whether ``tasks`` allow ``request``. Comparing is of what evaluations have scored; steps of a secure sum are allowed
    where anything is that is summed."""
    if isinstance(request, SecureSumRequest):
        return not {"train", "evaluate"}.isdisjoint(tasks)
    return ("evaluate" if request.kind == "compare" else request.kind) in tasks


class Gate:
    """Admits requests to the site ``name`` as its ``policy`` says and a person there has approved."""

    def __init__(self, name: str, policy: Policy, *, approvals: Approvals, exchanges: Exchanges) -> None:
        self.name = name
        self.policy = policy
        self._approvals = approvals
        self._exchanges = exchanges
        self._admitted: tuple[StudyPatients | None, set[str]] = (None, set())

    def admit(self, request: Request, envelope: Envelope) -> StudyProtocol:
        """The protocol under which ``request``, which came in ``envelope``, may be carried out.

        Raises:
            RefusedError: it may not.
        """
        task = request.task
        if task.site != self.name:
            raise RefusedError(FailureCode.PROTOCOL_MISMATCH, f"a request for site {task.site!r}")
        if not task.run.replace("-", "").replace("_", "").isalnum():
            raise RefusedError(FailureCode.PROTOCOL_MISMATCH, "a run identifier that is no identifier")
        protocol = _protocol(task)
        approval = self._approval(protocol)
        self._allow(request, approval)
        if not isinstance(request, SecureSumRequest):  # its steps are watched where its keys are
            self._exchanges.admit(request, envelope, approval=approval, policy=self.policy)
        return protocol

    def admit_cohort(self, patients: StudyPatients, protocol: StudyProtocol) -> None:
        """Make sure that the cohort is one of which something may be said, also after what was said of earlier ones.

        Raises:
            RefusedError: ``TOO_FEW_PATIENTS`` or ``COHORT_CHANGED``.
        """
        found, allowed = len(patients.tensors), self.policy.minimum_patients
        if found < allowed:
            raise RefusedError(FailureCode.TOO_FEW_PATIENTS, f"{found} patients, this site's minimum is {allowed}")
        if self._admitted[0] is not patients:
            self._admitted = (patients, set())
        if protocol.sha256 not in self._admitted[1]:
            versions = self._exchanges.versions(patients, protocol_sha256=protocol.sha256)
            self._exchanges.admit_cohort(versions, policy=self.policy)
            self._admitted[1].add(protocol.sha256)

    def admit_training(self, patients: int, protocol: StudyProtocol) -> None:
        """Make sure that an update is no gradient of a few patients, from which their values follow: enough of them take part,
        or each of them several times. Noise of differential privacy protects them otherwise.

        Raises:
            RefusedError: ``TOO_FEW_PATIENTS``.
        """
        if not patients or protocol.privacy.dp is not None:
            return
        training, fewest = protocol.training, self.policy.minimum_gradient
        steps = steps_per_round(training, patients=patients)
        taking_part = min(patients, steps * training.batch_size)
        once = training.optimizer == "sgd" and (training.epochs == 1 or steps * training.batch_size <= patients)
        if patients < self.policy.minimum_cell:
            raise RefusedError(FailureCode.TOO_FEW_PATIENTS, f"{patients} patients to train on")
        if taking_part < fewest and (steps == 1 or once or taking_part < patients):
            found = f"{steps} steps over {taking_part} of {patients} patients are hardly more than their gradient"
            raise RefusedError(FailureCode.TOO_FEW_PATIENTS, f"{found}; policy.minimum_gradient is {fewest}")

    def _approval(self, protocol: StudyProtocol) -> Approval:
        try:
            standing = self._approvals.standing(protocol.sha256)
        except ConfigurationError as error:
            raise RefusedError(FailureCode.NOT_APPROVED, str(error)) from None
        if standing is None:
            raise RefusedError(
                FailureCode.NOT_APPROVED,
                f"nobody here has approved {protocol.study.name} {protocol.sha256[:12]}, or it was revoked",
            )
        return standing

    def _allow(self, request: Request, approval: Approval) -> None:
        kind, round_ = request.kind, request.task.round
        if not covered(request, self.policy.tasks) or not covered(request, approval.tasks):
            raise RefusedError(FailureCode.TASK_NOT_ALLOWED, f"this site's policy does not allow {kind!r}")
        if isinstance(request, EvaluateRequest) and not set(request.parts) <= set(approval.parts):
            raise RefusedError(FailureCode.TASK_NOT_ALLOWED, f"an evaluation on {', '.join(request.parts)} patients")
        limit = min(approval.rounds, self.policy.max_rounds)
        if round_ > limit:
            raise RefusedError(FailureCode.TOO_MANY_ROUNDS, f"round {round_}, approved are {limit}")


def _protocol(task: Task) -> StudyProtocol:
    try:
        return config_file.validate_json(task.protocol_json, StudyProtocol, where="the center's protocol")
    except ConfigurationError as error:
        raise RefusedError(FailureCode.PROTOCOL_MISMATCH, str(error)) from None
